"""The critical step: how far along the last update the loss stands above where the update began.

A line search of at most 10 forward passes (after arXiv 2601.16979, with the last update as the direction). The learning
rate over the critical one is the inverse of the multiple found here. Its losses tell the curvature along the update.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from topowatch_client.displaced import moving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

PASSES = 10
_DOUBLINGS = 6  # or halvings; what lies beyond is told as the last of them
_PRECISION = 2.0**-24  # of a loss in float32
_NEAR = 4.0  # multiples of an update: farther away the loss is no parabola
_FEW = 4  # losses that tell a curvature and how sure it is
_SURE = 8.0  # standard errors


class Along(NamedTuple):
    """What the losses along an update tell.

    Attributes:
        multiple: See `critical_multiple`.
        curvature: See `secant_curvature`.
    """

    multiple: float
    curvature: float


def critical_multiple(loss: Callable[[float], float]) -> float | None:
    """Find the smallest multiple of an update at which the loss stands above that at the start of the update.

    Brackets it by doubling, or halving, from 1, then bisects; a multiple below the bracket goes unseen.

    Args:
        loss: Loss at a multiple of the update; called at most `PASSES` times. What is not finite counts as above.

    Returns:
        The multiple, to within 0.3 % near 1 and 9 % near 2^±6; where the true one is farther, 2^±6. None where the
        loss at the start is not finite.
    """
    start = loss(0.0)
    if not math.isfinite(start):
        return None

    def above(multiple: float) -> bool:
        return not loss(multiple) <= start

    here, is_above, spent = 1.0, above(1.0), 2
    while True:
        other = here * (0.5 if is_above else 2.0)
        spent += 1
        if above(other) != is_above:
            break
        here = other
        if spent == 2 + _DOUBLINGS:
            return here
    low, high = sorted((here, other))
    for _ in range(PASSES - spent):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if above(middle) else (middle, high)
    return math.sqrt(low * high)


def secant_curvature(losses: Sequence[tuple[float, float]], length: float) -> float:
    """Return how fast the slope of the loss grows along an update, ⟨Δg, Δθ⟩/⟨Δθ, Δθ⟩ where the loss is quadratic.

    Gradients are not needed: it is the curvature of the parabola that fits the losses best (least squares).

    Args:
        losses: Multiples of the update, and the loss at each.
        length: Norm of the update.

    Returns:
        In loss a squared unit of the weights. NaN where it is not known: fewer than 4 losses up to 4 times the update
        are finite, or it is not 8 standard errors from 0, as where losses are rounded, in half precision say, or do
        not lie on a parabola.
    """
    near = [(multiple, loss) for multiple, loss in losses if multiple <= _NEAR and math.isfinite(loss)]
    if len(near) < _FEW or not length > 0:
        return math.nan
    multiples, values = np.array(near).T
    terms = np.vander(multiples, 3)
    inverse = np.linalg.pinv(terms)
    fit = inverse @ values
    variance = float(np.square(values - terms @ fit).sum()) / (len(near) - 3)
    variance += (_PRECISION * float(np.abs(values).max())) ** 2
    error = math.sqrt(variance) * float(np.linalg.norm(inverse[0]))
    return 2 * float(fit[0]) / length**2 if abs(float(fit[0])) > _SURE * error else math.nan


def search(
    tensors: Sequence[torch.Tensor],
    before: Sequence[torch.Tensor],
    losses: Callable[[], AbstractContextManager[Callable[[], torch.Tensor]]],
) -> Along | None:
    """Search along the last update of a model, whose weights are afterwards what they were.

    Args:
        tensors: The parameters.
        before: Copies of them before the update.
        losses: Gives a context in which the model's loss can be asked for; entered anew at each multiple, as what a
            pass keeps of weights (casts of autocast, a module's own) lasts as long.
    """
    told: list[tuple[float, float]] = []
    with moving(tensors) as now:

        def at(multiple: float) -> float:
            for tensor, start, end in zip(tensors, before, now, strict=True):
                wide = torch.promote_types(tensor.dtype, torch.float32)
                tensor.data.copy_(torch.lerp(start.to(wide), end.to(wide), multiple))
            with losses() as loss:
                told.append((multiple, float(loss())))
            return told[-1][1]

        found = critical_multiple(at)
        return None if found is None else Along(found, secant_curvature(told, _distance(before, now)))


def _distance(before: Sequence[torch.Tensor], now: Sequence[torch.Tensor]) -> float:
    squares = [(end - start).float().square().sum().cpu() for start, end in zip(before, now, strict=True)]
    return math.sqrt(float(torch.stack(squares).sum()))
