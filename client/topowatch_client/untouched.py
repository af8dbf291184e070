"""Evaluates a model and leaves no trace of it.

What is put back: modes (set as plain attributes: `train()` may be overridden to do more than that), random states,
grad mode, autocast, buffers and plain tensors on modules by content, and whatever else the forward pass binds to a
module (step counters, caches). Compiled parts run eagerly meanwhile, so that nothing is compiled anew.

What cannot be seen: lists, dictionaries and other objects that a forward pass changes in place, generators of its own,
and what forward hooks of the job do elsewhere. Hooks are part of many models (sharding, weight norm, adapters) and so
run as always; one that only records tells our pass by `module.training` and `torch.is_grad_enabled()`, both False.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from topowatch_client.probe_set import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LARGE_BYTES = 16 << 20  # tensors of that size, or beyond it together, that a pass left alone are not copied again
_MISSING = object()


def is_collective(model: nn.Module) -> bool:
    """Return whether calling the model starts collectives: DTensor parameters (FSDP2, tensor parallel) or FSDP1."""
    return any(hasattr(parameter, "placements") for parameter in model.parameters()) or any(
        kind.__name__ == "FullyShardedDataParallel" for module in model.modules() for kind in type(module).__mro__
    )


class Untouched:
    """Passes through one model that leave it as it was."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._quiet: set[str] = set()  # large tensors that no pass has changed

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Have the model in eval mode, without gradients and autocast, while the block runs.

        Raises:
            ProbeError: A pass would initialise parameters or compile anew, or it has changed a large tensor that no
                pass before had changed.
        """
        model, collective = self._model, is_collective(self._model)
        if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
            raise ProbeError("the model has parameters that only its first forward pass makes: attach after it")
        modules = dict(model.named_modules())
        devices = _devices(model)
        held = [module._buffers for module in modules.values()]
        if not collective:  # what those bind to modules belongs to their machinery
            held += [module.__dict__ for module in modules.values()]
        bound = [(now, dict(now)) for now in held]
        kept, watched = self._copies(modules, attributes=not collective)
        modes = [(module, module.training) for module in modules.values()]
        with contextlib.ExitStack() as stack:
            stack.callback(_put_back, kept, bound, modes, _random_states(devices))
            _enter(stack, model, devices)
            for module, _ in modes:
                module.training = False
            yield
        self._judge(watched)

    def _copies(
        self, modules: dict[str, nn.Module], *, attributes: bool
    ) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[tuple[str, torch.Tensor, int]]]:
        """Return ((tensor, its copy), (name, large tensor, its version))."""
        kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        watched, total = [], 0
        for prefix, module in modules.items():
            held: dict[str, Any] = {**(vars(module) if attributes else {}), **module._buffers}
            for name, value in held.items():
                if not isinstance(value, torch.Tensor) or id(value) in kept or not _may_be_written(value):
                    continue
                full = f"{prefix}.{name}" if prefix else name
                total += value.numel() * value.element_size()
                large = total >= _LARGE_BYTES
                if large:
                    watched.append((full, value, value._version))
                if not large or full not in self._quiet:
                    kept[id(value)] = (value, value.detach().clone())
        return list(kept.values()), watched

    def _judge(self, watched: list[tuple[str, torch.Tensor, int]]) -> None:
        """Remember which large tensors a pass leaves alone; they are watched and no longer copied."""
        for name, tensor, version in watched:
            if tensor._version == version:
                self._quiet.add(name)
            elif name in self._quiet:
                self._quiet.discard(name)
                raise ProbeError(f"the forward pass has changed {name!r}, which earlier passes left alone")


def _enter(stack: contextlib.ExitStack, model: nn.Module, devices: set[torch.device]) -> None:
    available = getattr(torch.amp, "is_autocast_available", lambda kind: kind in {"cpu", "cuda"})
    for kind in sorted({"cpu", *(device.type for device in devices)}):
        if available(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    stack.enter_context(torch.no_grad())
    # Fused encoders give zeros where there is padding, and torch leaves them out wherever a hook hangs.
    if hasattr(torch.backends, "mha") and torch.backends.mha.get_fastpath_enabled():
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(torch.backends.mha.set_fastpath_enabled, True)
    if "torch._dynamo" not in sys.modules:
        return
    if hasattr(torch.compiler, "set_stance"):
        stack.enter_context(torch.compiler.set_stance("force_eager"))
    elif any(_is_compiled(module) for module in model.modules()):
        raise ProbeError("parts of the model are compiled, which a probe pass can go around from torch 2.6 on")


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _put_back(
    kept: list[tuple[torch.Tensor, torch.Tensor]],
    bound: list[tuple[dict[str, Any], dict[str, Any]]],
    modes: list[tuple[nn.Module, bool]],
    random_states: list[Callable[[], None]],
) -> None:
    for restore in random_states:
        restore()
    for module, training in modes:
        module.training = training
    for now, before in bound:
        for name in [name for name in now if name not in before]:
            del now[name]
        for name, value in before.items():
            if now.get(name, _MISSING) is not value:
                now[name] = value
    for tensor, copy in kept:
        tensor.data.copy_(copy)  # `data` keeps its version, which a graph that waits for its backward pass may check


def _may_be_written(tensor: torch.Tensor) -> bool:
    """Return whether a forward pass could change the tensor in place, and we change it back."""
    return (
        tensor.numel() > 0
        and tensor.device.type != "meta"
        and tensor.layout == torch.strided
        and tensor.grad_fn is None
        and not tensor.is_inference()
        and not any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    )


def _devices(model: nn.Module) -> set[torch.device]:
    """Return the accelerators that the pass may use."""
    found = {tensor.device for tensor in [*model.parameters(), *model.buffers()]}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # torch leaves it untyped
        found.add(torch.device("cuda", torch.cuda.current_device()))
    return {device for device in found if device.type not in {"cpu", "meta"}}


def _random_states(devices: set[torch.device]) -> list[Callable[[], None]]:
    """Return what puts the states of all random generators back as they are now."""
    restores: list[Callable[[], None]] = [
        functools.partial(random.setstate, random.getstate()),
        functools.partial(np.random.set_state, np.random.get_state()),  # noqa: NPY002 -- `forward` may draw from it
        functools.partial(torch.set_rng_state, torch.get_rng_state()),
    ]
    for device in devices:
        module: Any = getattr(torch, device.type, None)
        if hasattr(module, "get_rng_state"):
            where = () if device.type == "mps" else (device,)
            restores.append(functools.partial(module.set_rng_state, module.get_rng_state(*where), *where))
    return restores
