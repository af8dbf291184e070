"""Updates have become large beside the weights that they change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.series import bounded, median

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class ExplodingUpdateThresholds:
    """When updates count as exploding. A ratio is the norm of an update over the norm of the weights.

    Attributes:
        minimum_samples: samples before it may fire: first steps of adaptive optimisers and of layers that begin at zero
            are large and mean nothing.
        jump: times the run's own 95 % quantile. Warm-up, decay and restarts stay within 3; losses that blow up pass 10.
        floor: ratio below which a jump does no harm; 1e-3 is usual, 0.05 moves the weights by a twentieth in one step.
        always: ratio that is too large for any run, whatever it did before: half of the weights in one step.
        persist: samples of which the median has to be over the threshold, so that one odd batch does not count.
        release: ratio under which the last `release_samples` have to be (or under twice the run's median, if that is
            below half of `always`).
        release_samples: samples that have to be calm before it lets go.
    """

    minimum_samples: int = 8
    jump: float = 8.0
    floor: float = 0.05
    always: float = 0.5
    persist: int = 3
    release: float = 0.02
    release_samples: int = 5


def update_ratios(history: History) -> NDArray[np.float64]:
    """Update over weight norm at the recent samples: the largest of any layer, else that of the whole model."""
    largest = history["update_ratio_max"]
    if len(largest):
        return bounded(largest.values)
    update, weight = history["update_norm"], history["weight_norm"]
    updates, weights = update.values, weight.values
    if not np.array_equal(update.steps, weight.steps):
        _, at_update, at_weight = np.intersect1d(update.steps, weight.steps, assume_unique=True, return_indices=True)
        updates, weights = updates[at_update], weights[at_weight]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios = updates / weights
    return bounded(ratios)


def detect(history: History, active: bool, thresholds: ExplodingUpdateThresholds) -> str | None:
    """Say how large the updates are; None while they are usual.

    Fires when they jump over the run's own past and over `floor`, or stay over `always`. Releases when the last
    `release_samples` are all calm.
    """
    ratios = update_ratios(history)
    if not len(ratios):
        return None
    newest = float(ratios[-1])
    if not np.isfinite(newest):
        return "the last update is not finite"
    known = ratios[np.isfinite(ratios)]
    if active:
        calm = max(thresholds.release, min(2 * float(median(known)), thresholds.always / 2))
        largest = float(ratios[-thresholds.release_samples :].max())
        return None if largest <= calm else f"updates are {newest:.2g} of the weights"
    return _jump(known, thresholds) if len(known) >= max(thresholds.minimum_samples, thresholds.persist + 1) else None


def _jump(known: NDArray[np.float64], thresholds: ExplodingUpdateThresholds) -> str | None:
    recent, before = known[-thresholds.persist :], known[: -thresholds.persist]
    level = float(median(recent))
    if level <= thresholds.floor:
        return None
    usual = float(np.quantile(before, 0.95))
    if level > thresholds.jump * usual:
        return f"updates are {level:.2g} of the weights, {level / max(usual, 1e-12):.0f} times their usual size"
    return f"updates are {level:.2g} of the weights" if float(recent.min()) > thresholds.always else None
