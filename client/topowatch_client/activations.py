"""Statistics of activations, from forward hooks that are on for one pass only.

A hook copies an evenly strided part of its module's output, on the device; moments are computed for all modules at
once when they are taken. Where a module returns attention weights beside its output, their entropy is computed at once.
Nothing waits for the device, and nothing is kept of the pass.
"""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from topowatch_client.attention import entropy_shown, even_stride
from topowatch_client.guard import from_signal_handler
from topowatch_client.messages import LayerStatistics
from topowatch_client.sketch import canonical_name, to_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from topowatch_client.messages import Array

_MODULES = 64
_ELEMENTS = 1 << 13  # of one output: 2 MiB for all, and a standard error of 1 % of the deviation
MOMENTS = ("activation_mean", "activation_deviation", "activation_kurtosis", "zero_fraction", "saturated_fraction")
FIELDS = (*MOMENTS, "attention_entropy")
_UNBOUNDED = (math.nan, math.nan)
_MARGIN = 0.01  # share of a bounded activation's range: so near to a bound, tanh passes 4 % of the gradient
# What these make says nothing that their neighbours do not.
_PLAIN = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd, nn.modules.loss._Loss)
_EMPTY = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.Sequential, torch.jit.ScriptModule)


class _Hook:
    """A forward hook. In a copy of the model, or one that is saved and loaded, nothing is left of it but its place."""

    def __init__(self, owner: Activations | None = None, index: int = 0, training: bool = False) -> None:
        self._owner, self._index, self._training = owner, index, training

    def __call__(self, _module: nn.Module, _arguments: Any, result: Any) -> None:
        if self._owner is not None and not torch.compiler.is_compiling():
            self._owner.look(self._index, result, training=self._training)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()

    def __copy__(self) -> _Hook:
        return _Hook()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook()


class Activations:
    """Watches the outputs of a model's leaf modules, at most 64 of them, evenly thinned.

    Of all others that have parts, it sees attention weights that they return beside their output: 64 at most.

    `arm` it for one pass, `take` what was seen. Of modules that run several times the first call is seen.

    Attributes:
        coverage: Share of the leaf modules whose hook ran, when activations were taken last; 1 before.
        problem: Why it is below 1, or what else went wrong, in words; or None.
        seconds: Host time that hooks have cost since `arm`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.coverage = 1.0
        self.problem: str | None = None
        self.seconds = 0.0
        self._model = model
        self._modules: list[tuple[str, nn.Module]] = []
        self._wholes: list[tuple[str, nn.Module]] = []  # made of parts; their indices follow those of the modules
        self._handles: list[Any] = []
        self._fired: set[int] = set()
        self._samples: dict[int, torch.Tensor] = {}
        self._entropies: dict[int, torch.Tensor] = {}

    def arm(self, *, training: bool = False) -> bool:
        """Put the hooks on.

        Args:
            training: For the job's own next step, where forward passes without gradients do not count. Refused where
                torch.compile is in use: what it compiled runs without these hooks, and what it compiles while they
                are on would be compiled again without them. Not for a first step, which may be the one that compiles.

        Returns:
            Whether they are on.
        """
        self.disarm()
        self.seconds, self.problem = 0.0, None
        started = time.perf_counter()
        if not self._modules:
            self._modules = _thinned(list(_leaves(self._model)))
            self._wholes = list(_wholes(self._model, {id(module) for _, module in self._modules}))
        if training and compiles():
            self.coverage, self.problem = 0.0, "torch.compile is in use, which leaves out hooks"
            return False
        for index, (_, module) in enumerate([*self._modules, *self._wholes]):
            self._handles.append(module.register_forward_hook(_Hook(self, index, training)))
        self.seconds += time.perf_counter() - started
        return True

    def disarm(self) -> None:
        """Take the hooks off and forget what they saw."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._fired.clear()
        self._samples.clear()
        self._entropies.clear()

    def take(self) -> tuple[torch.Tensor, list[str]]:
        """Take the hooks off and return what they saw.

        Returns:
            float32 (modules × FIELDS) on the device of the first; see `moments` and `attention.entropy`, NaN where
            a module shows no such thing. And the modules' names.
        """
        if self._modules and self._handles:
            self.coverage = sum(index < len(self._modules) for index in self._fired) / len(self._modules)
            missing = [name for index, (name, _) in enumerate(self._modules) if index not in self._fired]
            if missing:
                self.problem = f"{len(missing)} modules did not run, such as {missing[0]!r}"
        order = sorted(self._samples)
        last = len(self._modules) - 1  # what the model returns may well be sure of itself
        bounds = [_UNBOUNDED if index == last else bounds_of(self._modules[index][1]) for index in order]
        values = moments([self._samples[index] for index in order], bounds)
        order += sorted(self._entropies.keys() - self._samples.keys())
        values = _joined(values, [self._entropies.get(index) for index in order])
        self.disarm()
        return values, [self._name(index) for index in order]

    def look(self, index: int, result: Any, *, training: bool) -> None:
        """Take in what a module returned, from its hook; nothing gets out that is not the job's own."""
        started = time.perf_counter()
        try:
            if index not in self._fired and torch.is_grad_enabled() == training:
                self._see(index, result)
        except Exception as error:  # it runs within the job's forward pass, which must not notice
            if from_signal_handler(error):
                raise
            self.problem = f"{self._name(index)}: {error!r}"
        self.seconds += time.perf_counter() - started

    def _see(self, index: int, result: Any) -> None:
        parts = result if isinstance(result, (tuple, list)) else (result,)
        tensors = [part for part in parts if isinstance(part, torch.Tensor)]
        if tensors and tensors[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return  # a graph would replay the copy for ever
        self._fired.add(index)
        with torch.no_grad():
            if index < len(self._modules) and tensors and _has_moments(tensors[0]):
                self._samples[index] = _sampled(tensors[0].detach())
            found = entropy_shown(tensors[1:]) if len(self._entropies) < _MODULES else None
            if found is not None:
                self._entropies[index] = found

    def _name(self, index: int) -> str:
        leaves = len(self._modules)
        return self._modules[index][0] if index < leaves else self._wholes[index - leaves][0]


def statistics(values: Array, names: Sequence[str]) -> dict[str, LayerStatistics]:
    """Return statistics by module, from what `take` returned: values (modules × FIELDS) on the host.

    Of modules that hand on the attention weights of their parts, the innermost is said to have them.
    """
    found: dict[str, LayerStatistics] = {}
    for name, row in zip(names, values.tolist(), strict=True):
        layer = LayerStatistics(**dict(zip(FIELDS, row, strict=True)))
        found[name] = layer.joined(found.get(name))  # what wraps a module may have its name
    for name in [name for name, layer in found.items() if not math.isnan(layer.attention_entropy)]:
        for outer in _around(name):
            if outer in found:
                found[outer] = found[outer]._replace(attention_entropy=math.nan)
    return {name: layer for name, layer in found.items() if not all(map(math.isnan, layer))}


def bounds_of(module: nn.Module) -> tuple[float, float]:
    """Return the bounds at which a module's outputs pass no gradient; NaN where there are none, or one alone."""
    if isinstance(module, nn.Hardtanh) and not isinstance(module, nn.ReLU6):
        return float(module.min_val), float(module.max_val)
    if isinstance(module, (nn.Sigmoid, nn.Hardsigmoid)):
        return 0.0, 1.0
    recurrent = isinstance(module, nn.RNNBase) and module.mode != "RNN_RELU"
    return (-1.0, 1.0) if recurrent or isinstance(module, (nn.Tanh, nn.Softsign)) else _UNBOUNDED


def moments(samples: Sequence[torch.Tensor], bounds: Sequence[tuple[float, float]]) -> torch.Tensor:
    """Describe one-dimensional float32 tensors.

    Args:
        samples: the tensors.
        bounds: of each, lowest and highest value that it can take; NaN where it has none.

    Returns:
        float32 (samples × MOMENTS) on the device of the first: mean, standard deviation, kurtosis (3 for a Gaussian, 0
        where nothing varies), fraction of zeros, and of values within a hundredth of their range from a bound (NaN
        without bounds).
    """
    if not samples:
        return torch.zeros(0, len(MOMENTS), dtype=torch.float32, device="cpu")
    device = samples[0].device
    lengths = [len(sample) for sample in samples]
    table = torch.zeros(len(samples), max(lengths), dtype=torch.float32, device=device)
    for row, sample in zip(table, samples, strict=True):
        row[: len(sample)] = sample
    counts = to_device(torch.tensor(lengths, device="cpu"), device).unsqueeze(1)
    inside = torch.arange(table.shape[1], device=device) < counts
    mean = table.sum(1, keepdim=True) / counts
    centred = torch.where(inside, table - mean, 0.0)
    deviation = (centred.square().sum(1, keepdim=True) / counts).sqrt()
    scaled = centred / torch.where(deviation > 0, deviation, 1.0)
    kurtosis = scaled.pow(4).sum(1, keepdim=True) / counts
    zeros = ((table == 0) & inside).sum(1, keepdim=True) / counts
    limits = to_device(torch.tensor(bounds, dtype=torch.float32, device="cpu"), device)
    low, high = limits[:, :1], limits[:, 1:]
    margin = _MARGIN * (high - low)
    extreme = ((table <= low + margin) | (table >= high - margin)) & inside
    saturated = extreme.sum(1, keepdim=True) / counts + 0 * margin  # NaN without bounds
    return torch.cat([mean, deviation, kurtosis, zeros, saturated], dim=1)


def _has_moments(output: torch.Tensor) -> bool:
    return output.device.type != "meta" and output.is_floating_point() and output.numel() > 0


def _sampled(output: torch.Tensor) -> torch.Tensor:
    """Copy at most 2^13 elements, evenly strided in memory; the stride shares no factor with the shape."""
    if hasattr(output, "to_local"):
        output = output.to_local()
    strides = output.stride()
    order = sorted(range(output.dim()), key=lambda dimension: -strides[dimension])
    flat = output.permute(order).reshape(-1)
    part = flat[:: even_stride(flat.numel(), _ELEMENTS, output.shape)]
    return torch.empty(part.shape, dtype=torch.float32, device=part.device).copy_(part)


def _leaves(model: nn.Module, prefix: str = "") -> Iterable[tuple[str, nn.Module]]:
    """Yield modules that compute something themselves; attention and parametrised layers are taken as one."""
    whole = isinstance(model, nn.MultiheadAttention) or hasattr(model, "parametrizations")
    children = [] if whole else list(model.named_children())
    if not children and not isinstance(model, (*_PLAIN, *_EMPTY)):
        yield canonical_name(prefix), model
    for name, child in children:
        yield from _leaves(child, f"{prefix}.{name}" if prefix else name)


def _wholes(model: nn.Module, seen: set[int]) -> Iterable[tuple[str, nn.Module]]:
    """Yield modules that have parts and are not seen already; what the model itself returns is no attention."""
    for name, module in model.named_modules():
        if name and id(module) not in seen and any(True for _ in module.children()) and not isinstance(module, _EMPTY):
            yield canonical_name(name), module


def _around(name: str) -> Iterable[str]:
    """Yield names of the modules that a module is a part of."""
    while name := name.rpartition(".")[0]:
        yield name


def _joined(values: torch.Tensor, entropies: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Put moments (the first modules × MOMENTS) and entropies (of some modules) into one table (modules × FIELDS)."""
    known = [entropy for entropy in entropies if entropy is not None]
    device = values.device if len(values) or not known else known[0].device
    table = torch.full((len(entropies), len(FIELDS)), math.nan, dtype=torch.float32, device=device)
    table[: len(values), : len(MOMENTS)] = values
    for row, entropy in zip(table, entropies, strict=True):
        if entropy is not None:
            row[-1] = entropy
    return table


def _thinned(leaves: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    unique = list({id(module): (name, module) for name, module in reversed(leaves)}.values())[::-1]
    wanted = min(_MODULES, len(unique))
    return [unique[index * len(unique) // wanted] for index in range(wanted)]


def compiles() -> bool:
    """Say whether this process has compiled anything with torch.compile."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and bool(dynamo.counters.get("stats"))
