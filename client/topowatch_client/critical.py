"""The critical step: how far along the last update the loss stands above where the update began.

A line search of at most 10 forward passes (after arXiv 2601.16979, with the last update as the direction). The learning
rate over the critical one is the inverse of the multiple found here. Three of the passes tell the curvature along it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from topowatch_client.displaced import moving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

PASSES = 10
_DOUBLINGS = 6  # or halvings; what lies beyond is told as the last of them
_PRECISION = 8 * 2.0**-24  # of a loss in float32, times what the differences of three of them make of it


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

    Gradients are not needed: their difference along the update is a second difference of the losses.

    Args:
        losses: Three multiples of the update, all different, and the loss at each.
        length: Norm of the update.

    Returns:
        In loss a squared unit of the weights; NaN where it drowns in the precision of float32, or a loss is not finite.
    """
    (a, at_a), (b, at_b), (c, at_c) = losses
    bend = (at_c - at_b) / (c - b) - (at_b - at_a) / (b - a)
    if not abs(bend) > _PRECISION * max(map(abs, (at_a, at_b, at_c))) or not length > 0:
        return math.nan
    return 2 * bend / (c - a) / length**2 if math.isfinite(bend) else math.nan


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
        return None if found is None else Along(found, secant_curvature(told[:3], _distance(before, now)))


def _distance(before: Sequence[torch.Tensor], now: Sequence[torch.Tensor]) -> float:
    squares = [(end - start).float().square().sum().cpu() for start, end in zip(before, now, strict=True)]
    return math.sqrt(float(torch.stack(squares).sum()))
