"""Reads what models return: outputs as rows, the representation point, losses (DESIGN: Representation point)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from topowatch_client.probe_set import IGNORED, ProbeError
from topowatch_client.sketch import to_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from topowatch_client.sketch import FoldSketch

_SKETCH_NAME = "topowatch/predictions"
_TOLERANCE = 0.05  # by which probabilities may miss a sum of one: half-precision sums over many classes do


def tensor_of(result: Any, kind: str) -> torch.Tensor:
    """Return the tensor of outputs: the result itself, its `logits`, or the first of several.

    A DTensor is gathered, on all ranks.

    Raises:
        ProbeError: There is none that can be read.
    """
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
    if result.device.type == "meta":
        raise ProbeError("the model lies on the meta device, where nothing is computed")
    return result.full_tensor() if hasattr(result, "full_tensor") else result


def rows_of(outputs: torch.Tensor) -> torch.Tensor:
    """Return outputs as (positions × classes): the last dimension holds classes, all before it count positions."""
    return outputs.reshape(outputs.shape[0], 1) if outputs.dim() == 1 else outputs.reshape(-1, outputs.shape[-1])


def check_layout(outputs: torch.Tensor, targets: Any) -> None:
    """Raise ProbeError where the targets say that classes are not in the last dimension."""
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point() or outputs.dim() < 3:
        return
    shape, wanted = tuple(outputs.shape[1:]), tuple(targets.shape[1:])
    if wanted == shape[1:] and wanted != shape[:-1]:
        raise ProbeError(
            f"outputs of shape {shape} an example have their classes first, targets being {wanted}: "
            "pass forward=lambda model, inputs: model(inputs).movedim(1, -1)"
        )


class Tally:
    """Takes in outputs call by call and makes the point of them.

    Memory: of logits and probabilities only what one call brought.
    """

    def __init__(self, kind: str, count: int, sketch: FoldSketch, *, checked: bool) -> None:
        """Args: kind of outputs; positions in all; the sketch; whether to check probabilities, which waits for them."""
        self._kind = kind
        self._checked = checked
        self._count = count
        self._sketch = sketch
        self._points: list[torch.Tensor] = []  # sketches of parts, which add up
        self._taken = 0
        self._values: list[torch.Tensor] = []
        self._argmax: list[torch.Tensor] = []
        self._confidence: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        """Take in the outputs (positions × classes) of one call.

        Raises:
            ProbeError: "probs" are no probabilities.
        """
        rows = rows.float()
        if self._kind == "values":
            self._values.append(rows)
            return
        chances = _probabilities(rows, self._kind, checked=self._checked)
        self._add_point(chances.sqrt())
        best = chances.max(dim=1)
        self._argmax.append(best.indices)
        self._confidence.append(best.values)

    def _add_point(self, part: torch.Tensor) -> None:
        self._points.append(self._sketch.slice(_SKETCH_NAME, part / self._count**0.5, self._taken))
        self._taken += part.numel()

    def result(self, targets: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return float32 `sketch`, `argmax` and `confidence`; values have neither of the last two.

        Args:
            targets: Targets in the shape of the outputs, which all runs share; they set the scale of values.
        """
        if self._kind == "values":
            self._add_point(_standardise(torch.cat(self._values), targets))
        found = {"sketch": torch.stack(self._points).sum(0)}
        if self._kind != "values":
            found |= {"argmax": torch.cat(self._argmax).float(), "confidence": torch.cat(self._confidence)}
        return found


def _probabilities(outputs: torch.Tensor, kind: str, *, checked: bool) -> torch.Tensor:
    if outputs.shape[1] == 1:  # one output a position: the chance of "yes"
        yes = outputs.sigmoid() if kind == "logits" else outputs
        chances = torch.cat([1 - yes, yes], dim=1)
    else:
        chances = outputs.softmax(dim=1) if kind == "logits" else outputs
    if kind != "probs":
        return chances
    off = torch.maximum((chances.sum(1) - 1).abs().max(), -chances.min()) if checked else 0.0
    if float(off) > _TOLERANCE:  # not where they are NaN: those of a model that diverged are no mistake
        raise ProbeError("outputs are no probabilities: they must lie between 0 and 1 and sum to 1 a position")
    return chances.clamp(0, 1)


def _standardise(outputs: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
    """Centre and scale columns: by targets of the same shape, which all runs share, else by themselves."""
    scale = outputs if targets is None else to_device(targets, outputs.device).float()
    deviation = scale.std(dim=0, unbiased=False)
    divisor: torch.Tensor = torch.where(deviation > 0, deviation, 1.0) * outputs.shape[1] ** 0.5
    return (outputs - scale.mean(dim=0)) / divisor


def usual_loss(kind: str, classes: int, rows: int, targets: Any) -> Callable[..., torch.Tensor] | None:
    """Return callable(outputs (n × classes), targets of these rows) → n losses; None where none is usual.

    Cross-entropy for integer targets of logits (of one logit: of yes or no), squared error for values.

    Args:
        kind: What the outputs are.
        classes: Outputs a position.
        rows: Positions of all examples.
        targets: Targets of all examples.

    Raises:
        ProbeError: Targets are no class indices; on an accelerator they would end the process.
    """
    if not isinstance(targets, torch.Tensor):
        return None
    if kind == "values" and targets.is_floating_point() and targets.numel() == rows * classes:
        return _squared_error
    if kind != "logits" or targets.is_floating_point() or targets.numel() != rows:
        return None
    counting = targets[targets != IGNORED]
    least, most = (int(counting.min()), int(counting.max())) if counting.numel() else (0, 0)
    if least < 0 or most >= max(classes, 2):
        raise ProbeError(f"targets from {least} to {most} do not fit the model's {classes} outputs")
    return _cross_entropy if classes > 1 else _binary_cross_entropy


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs.float(), targets.long(), reduction="none")


def _binary_cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0].float(), targets.float(), reduction="none")


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.float() - targets.float()).square().mean(1)


def loss_rows(value: Any, rows: int) -> torch.Tensor:
    """Return a user's loss as float32: `rows` numbers if it has them (or more a row, averaged), else its mean alone.

    Raises:
        ProbeError: It is no real number.
    """
    loss = torch.as_tensor(value).detach()
    if loss.is_complex():
        raise ProbeError(f"the loss must be a real number, not {loss.dtype}: take its .real or .abs()")
    loss = loss.full_tensor() if hasattr(loss, "full_tensor") else loss
    if loss.dim() and loss.numel() and loss.numel() % rows == 0:
        return loss.float().reshape(rows, -1).mean(1)
    return loss.float().mean()


class Losses:
    """Takes in losses call by call."""

    def __init__(self) -> None:
        self._values: list[torch.Tensor] = []
        self.weights: list[int] = []  # positions of each call

    def add(self, value: torch.Tensor, positions: int) -> None:
        """Take in the losses of one call's positions, or their mean as a tensor without dimensions."""
        self._values.append(value)
        self.weights.append(positions)

    def mean(self) -> torch.Tensor:
        """Return the mean over all positions, float32 without dimensions; there is at least one call."""
        means = torch.stack([value.mean() for value in self._values]).float()
        shares = torch.tensor(self.weights, dtype=torch.float32, device="cpu") / sum(self.weights)
        mean: torch.Tensor = means @ to_device(shares, means.device)
        return mean

    def result(self) -> dict[str, torch.Tensor]:
        """Return float32 `losses`, one a position, or `means`, one a call; nothing where there are none."""
        if not self._values:
            return {}
        if all(value.dim() for value in self._values):
            return {"losses": torch.cat(self._values).float()}
        return {"means": torch.stack([value.mean() for value in self._values]).float()}
