"""One forward pass on a fixed probe set: what the model computes now, as a point that other runs can be compared with.

The pass leaves no trace: modes, buffers, random states, grad mode and autocast are as before.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from topowatch_client.messages import ProbeFacts, ProbeResult
from topowatch_client.sketch import FoldSketch, name_key, signs

if TYPE_CHECKING:
    from topowatch_client.messages import Array

OUTPUTS = ("logits", "probs", "values")
FRAME_FEATURES = 64
_SKETCH_NAME = "topowatch/predictions"
_MICRO_BATCH = 64
_DIGEST_BYTES = 4 << 20
_KEPT_BUFFER_BYTES = 16 << 20


class ProbeError(ValueError):
    """The probe set cannot be used; the message says why."""


@dataclass(frozen=True)
class ProbeSettings:
    """How to look at a model, as given to `attach`."""

    inputs: Any  # tensor, tuple of tensors, or mapping of names to tensors; the first dimension counts examples
    targets: Any = None
    loss: Callable[[Any, Any], Any] | None = None
    forward: Callable[[Any, Any], Any] | None = None
    output: str = "logits"
    layer: str | None = None
    positions: int = 256


class Probe:
    """A fixed probe set and what is needed to pass it through a model.

    More than `positions` examples, or output positions (tokens), are thinned evenly.

    Raises:
        ProbeError: Inputs, output kind or layer cannot be used.
    """

    def __init__(self, model: nn.Module, settings: ProbeSettings, sketch: FoldSketch) -> None:
        if settings.output not in OUTPUTS:
            raise ProbeError(f"output must be one of {', '.join(OUTPUTS)}, not {settings.output!r}")
        self._settings = settings
        self._sketch = sketch
        self._model = model
        self.layer, self._module = _find_layer(model, settings.layer)
        examples = _length(settings.inputs)
        _check_targets(settings.targets, examples)
        chosen = _thin(examples, settings.positions)
        self._inputs = _map(settings.inputs, lambda tensor: tensor.detach()[chosen.to(tensor.device)])
        self._targets = None
        if settings.targets is not None:
            self._targets = _map(settings.targets, lambda tensor: tensor.detach()[chosen.to(tensor.device)])
        self._examples = len(chosen)
        self._digest = _digest(self._inputs)
        self._projection: torch.Tensor | None = None
        self.facts: ProbeFacts | None = None  # for the run's descriptor; known from the first pass on
        self._loss = settings.loss or _usual_loss(settings.output, self._targets)

    def run(self, *, frames: bool = False) -> ProbeResult:
        """Pass the probe set through the model.

        Args:
            frames: Also take features of the watched layer along.

        Returns:
            Predictions, losses and perhaps features, on the host.

        Raises:
            ProbeError: The outputs cannot be read as `output` says.
        """
        outputs, losses, features = [], [], []
        caught: list[torch.Tensor] = []
        with _untouched(self._model, self._inputs), _catching(self._module if frames else None, self.layer, caught):
            for first in range(0, self._examples, _MICRO_BATCH):
                part = slice(first, min(first + _MICRO_BATCH, self._examples))
                inputs = self._part(self._inputs, part)
                result = self._forward(inputs)
                rows = _positions(result, self._settings.output)
                per_example = rows.shape[0] // (part.stop - first)
                keep = _keep(part, per_example, self._examples, self._settings.positions).to(rows.device)
                outputs.append(rows[keep].float())
                if self._loss is not None and self._targets is not None:
                    targets = self._part(self._targets, part)
                    losses.append((self._loss(result, targets), rows.shape[0], keep, part.stop - first))
                if caught:
                    features.append(_feature_rows(caught, rows.shape[0], keep))
                    caught.clear()
            return self._summarise(torch.cat(outputs), losses, [part for part in features if part is not None])

    def _part(self, whole: Any, part: slice) -> Any:
        parameter = next(self._model.parameters(), None)
        device = parameter.device if parameter is not None else None
        return _map(whole, lambda tensor: tensor[part].to(device))

    def _forward(self, inputs: Any) -> Any:
        if self._settings.forward is not None:
            return self._settings.forward(self._model, inputs)
        if isinstance(inputs, Mapping):
            return self._model(**inputs)
        return self._model(*inputs) if isinstance(inputs, tuple) else self._model(inputs)

    def _summarise(
        self,
        outputs: torch.Tensor,
        losses: list[tuple[Any, int, torch.Tensor, int]],
        features: list[torch.Tensor],
    ) -> ProbeResult:
        count = outputs.shape[0]
        if self.facts is None:
            self.facts = ProbeFacts(count, outputs.shape[1], self._settings.output, self._digest)
        argmax, confidence = np.zeros(0, np.uint32), np.zeros(0, np.float16)
        if self._settings.output == "values":
            point = _standardise(outputs, self._targets)
        else:
            chances = _probabilities(outputs, self._settings.output)
            point = chances.sqrt()
            best = chances.max(dim=1)
            argmax = best.indices.cpu().numpy().astype(np.uint32)
            confidence = best.values.cpu().numpy().astype(np.float16)
        sketch = self._sketch.slice(_SKETCH_NAME, point / count**0.5)
        per_position, mean = _collect_losses(losses)
        whole = features if len(features) == -(-self._examples // _MICRO_BATCH) else []
        return ProbeResult(
            sketch=sketch.cpu().numpy(),
            argmax=argmax,
            confidence=confidence,
            losses=per_position,
            mean_loss=mean,
            layer=self.layer if whole else "",
            frames=self._project(torch.cat(whole)) if whole else None,
        )

    def _project(self, features: torch.Tensor) -> Array:
        """Reduce features to 64 columns with fixed random signs; narrower layers travel as they are."""
        width = features.shape[1]
        if width > FRAME_FEATURES:
            if self._projection is None or self._projection.shape[0] != width:
                key = name_key(f"topowatch/frames/{width}") ^ self._sketch.seed
                table = torch.from_numpy(signs(key, width * FRAME_FEATURES)).view(width, FRAME_FEATURES)
                self._projection = (table / FRAME_FEATURES**0.5).to(features.device)
            features = features.float() @ self._projection
        limit = float(np.finfo(np.float16).max)
        return features.float().clamp(-limit, limit).cpu().numpy().astype(np.float16)


@contextlib.contextmanager
def _untouched(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Evaluate without a trace. Modes are set as plain attributes: `train()` may be overridden to do more than that."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [buffer for buffer in model.buffers() if buffer.numel()]
    budget = _KEPT_BUFFER_BYTES
    kept = []
    for buffer in buffers:
        budget -= buffer.numel() * buffer.element_size()
        if budget >= 0:
            kept.append((buffer, buffer._version, buffer.detach().clone()))
    devices = {tensor.device for tensor in [*model.parameters(), *_tensors(inputs)] if tensor.device.type == "cuda"}
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 -- `forward` may draw from it
    autocasts = [torch.autocast(kind, enabled=False) for kind in {"cpu", *(device.type for device in devices)}]
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[device.index for device in devices]))
            for autocast in autocasts:
                stack.enter_context(autocast)
            stack.enter_context(torch.no_grad())
            for module, _ in modes:
                module.training = False
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 -- see above
        with torch.no_grad():
            for buffer, version, before in kept:
                if buffer._version != version:
                    buffer.copy_(before)


@contextlib.contextmanager
def _catching(module: nn.Module | None, layer: str, caught: list[torch.Tensor]) -> Iterator[None]:
    """Collect the output of the named layer, or the input of the last Linear, while the block runs."""
    if module is None:
        yield
        return

    def take_input(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments and isinstance(arguments[0], torch.Tensor):
            caught.append(arguments[0].detach())

    def take_output(_module: nn.Module, _arguments: tuple[Any, ...], result: Any) -> None:
        if isinstance(result, torch.Tensor):
            caught.append(result.detach())

    by_input = layer.endswith(_INPUT_MARK)
    handle = module.register_forward_pre_hook(take_input) if by_input else module.register_forward_hook(take_output)
    try:
        yield
    finally:
        handle.remove()


_INPUT_MARK = ":input"


def _find_layer(model: nn.Module, name: str | None) -> tuple[str, nn.Module | None]:
    modules = dict(model.named_modules())
    if name is not None:
        if name not in modules:
            raise ProbeError(f"the model has no module named {name!r}")
        return name, modules[name]
    linear = [(name, module) for name, module in modules.items() if isinstance(module, nn.Linear)]
    return (linear[-1][0] + _INPUT_MARK, linear[-1][1]) if linear else ("", None)


def _tensors(inputs: Any) -> list[torch.Tensor]:
    if isinstance(inputs, torch.Tensor):
        return [inputs]
    values = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else ()
    return [value for value in values if isinstance(value, torch.Tensor)]


def _map(inputs: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(inputs, torch.Tensor):
        return change(inputs)
    if isinstance(inputs, Mapping):
        return {key: change(value) if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
    return tuple(change(value) if isinstance(value, torch.Tensor) else value for value in inputs)


def _length(inputs: Any) -> int:
    lengths = {tensor.shape[0] if tensor.dim() else 0 for tensor in _tensors(inputs)}
    if len(lengths) != 1 or 0 in lengths:
        raise ProbeError("probe inputs must be a tensor, a tuple or a mapping of tensors with one example a row")
    return lengths.pop()


def _check_targets(targets: Any, examples: int) -> None:
    for tensor in _tensors(targets):
        rows = tensor.shape[0] if tensor.dim() else 0
        if rows != examples:
            raise ProbeError(
                f"probe inputs have {examples} rows and the targets {rows}: one target an example is needed"
            )


def _thin(available: int, wanted: int) -> torch.Tensor:
    """Return at most `wanted` indices, evenly spaced."""
    if available <= wanted:
        return torch.arange(available)
    return torch.arange(wanted) * available // wanted


def _keep(part: slice, per_example: int, examples: int, wanted: int) -> torch.Tensor:
    """Return which of the part's positions belong to the thinned set of all positions."""
    chosen = _thin(examples * per_example, wanted)
    first, behind = part.start * per_example, part.stop * per_example
    inside: torch.Tensor = chosen[(chosen >= first) & (chosen < behind)] - first
    return inside


def _positions(result: Any, kind: str) -> torch.Tensor:
    """Return outputs as (positions × classes): the last dimension holds classes, all before it count positions."""
    if isinstance(result, Mapping) and "logits" in result:
        result = result["logits"]
    elif hasattr(result, "logits"):
        result = result.logits
    elif isinstance(result, (tuple, list)) and result:
        result = result[0]
    if not isinstance(result, torch.Tensor) or result.dim() == 0:
        raise ProbeError(f"outputs must be a tensor of {kind}, not {type(result).__name__}; see `forward`")
    if result.is_complex():
        raise ProbeError(f"outputs must be real numbers, not {result.dtype}; `forward` may turn them into such")
    return result.reshape(result.shape[0], 1) if result.dim() == 1 else result.reshape(-1, result.shape[-1])


def _probabilities(outputs: torch.Tensor, kind: str) -> torch.Tensor:
    if outputs.shape[1] == 1:  # one output a position: the chance of "yes"
        yes = outputs.sigmoid() if kind == "logits" else outputs.clamp(0, 1)
        return torch.cat([1 - yes, yes], dim=1)
    return outputs.softmax(dim=1) if kind == "logits" else outputs.clamp(min=0)


def _standardise(outputs: torch.Tensor, targets: Any) -> torch.Tensor:
    """Centre and scale columns: by targets of the same shape, which all runs share, else by themselves."""
    scale = outputs
    if isinstance(targets, torch.Tensor) and targets.is_floating_point():
        rows = targets.reshape(-1, outputs.shape[1]) if targets.numel() % outputs.shape[1] == 0 else targets
        scale = rows.to(outputs.device).float() if rows.shape[:1] == outputs.shape[:1] else outputs
    deviation = scale.std(dim=0, unbiased=False)
    divisor: torch.Tensor = torch.where(deviation > 0, deviation, 1.0) * outputs.shape[1] ** 0.5
    return (outputs - scale.mean(dim=0)) / divisor


def _usual_loss(kind: str, targets: Any) -> Callable[[Any, Any], Any] | None:
    """Return cross-entropy for integer targets of logits, squared error for values; None where neither fits."""
    if not isinstance(targets, torch.Tensor):
        return None
    if kind == "logits" and not targets.is_floating_point():

        def cross_entropy(outputs: Any, targets: torch.Tensor) -> torch.Tensor | None:
            rows = _positions(outputs, kind)
            if rows.shape[1] == 1 or rows.shape[0] != targets.numel():
                return None
            return nn.functional.cross_entropy(rows.float(), targets.reshape(-1).long(), reduction="none")

        return cross_entropy
    if kind == "values" and targets.is_floating_point():

        def squared_error(outputs: Any, targets: torch.Tensor) -> torch.Tensor | None:
            rows = _positions(outputs, kind)
            return (rows - targets.reshape(rows.shape)).square().mean(1) if rows.numel() == targets.numel() else None

        return squared_error
    return None


def _collect_losses(losses: list[tuple[Any, int, torch.Tensor, int]]) -> tuple[Array | None, float | None]:
    """Return (losses a position or None, their mean or None). A scalar loss gives the mean alone."""
    vectors, means, weights = [], [], []
    for value, positions, keep, examples in losses:
        if value is None:
            return None, None
        loss = torch.as_tensor(value).detach()
        if loss.is_complex():
            raise ProbeError(f"the loss must be a real number, not {loss.dtype}: take its .real or .abs()")
        loss = loss.float()
        means.append(float(loss.mean()))
        weights.append(examples)
        if loss.numel() == positions and (positions > 1 or loss.dim() > 0):
            vectors.append(loss.reshape(-1)[keep.to(loss.device)])
    if not means:
        return None, None
    if len(vectors) == len(losses):
        flat = torch.cat(vectors).cpu().numpy().astype(np.float32)
        return flat, float(flat.mean())
    return None, float(np.average(means, weights=weights))


def _feature_rows(caught: list[torch.Tensor], positions: int, keep: torch.Tensor) -> torch.Tensor | None:
    """Return the features of the kept positions; None if the layer ran more than once or does not match the outputs."""
    if len(caught) != 1 or caught[0].dim() < 2:
        return None
    features = caught[0]
    if features.shape[0] == positions and features.dim() > 2:
        rows = features.flatten(1)
    else:
        rows = features.reshape(-1, features.shape[-1])
    return rows[keep.to(rows.device)] if rows.shape[0] == positions else None


def _digest(inputs: Any) -> bytes:
    """SHA-256 over shapes, types and contents (of an evenly spaced part of tensors beyond 4 MiB)."""
    digest = hashlib.sha256()
    for tensor in _tensors(inputs):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() * flat.element_size() // _DIGEST_BYTES)
        part = flat[::stride].cpu().contiguous()
        digest.update(part.view(torch.uint8).numpy().tobytes() if part.numel() else b"")
    return digest.digest()
