"""What else could have flagged the same runs, at every step and at once: numbers that alarm when they are high."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from trainscope.core.detectors.changepoint import ChangePointDetector
from trainscope.core.detectors.percentile import PercentileDetector
from trainscope.core.detectors.z_score import ZScoreDetector

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainscope.core.detectors.base import AnomalyDetector

Run = dict[str, np.ndarray]  # what `training.train` returned
_LEVEL = 200  # values that a level is the median of
_MEAN = 5  # values in a mean
_BEYOND = 1e5  # more than any threshold that is tried but the last, which nothing is above
_FIRST = 32  # values before anything is said
_DECAY = 0.97  # of ZClip (arXiv 2504.02507)


def excess(values: np.ndarray) -> np.ndarray:
    """Return what the mean of 5 values stands above the median of the 200 before, one a step; infinite from NaN on."""
    lost = _lost(values)
    found = np.full(len(values), np.inf)
    found[:lost] = 0.0
    for step in range(_FIRST, lost):
        recent, past = values[step - _MEAN + 1 : step + 1], values[max(0, step - _LEVEL - _MEAN + 1) : step - _MEAN + 1]
        found[step] = max(0.0, recent.mean() - np.median(past))
    return found


def cusum(values: np.ndarray, allowance: float = 0.1) -> np.ndarray:
    """Return the upward cumulative sum of what values stand above their running median, one a step.

    Args:
        values: nats, one a step; the sum is infinite from the first that is not finite on.
        allowance: nats that are free at every step.
    """
    lost = _lost(values)
    sums = np.full(len(values), np.inf)
    sums[:lost] = 0.0
    for step in range(_FIRST, lost):
        over = values[step] - np.median(values[max(0, step - _LEVEL) : step]) - allowance
        sums[step] = max(0.0, sums[step - 1] + over)
    return sums


def untested(rates: np.ndarray) -> np.ndarray:
    """Return whether a learning rate is 1.4 times all that were there until 128 steps ago, or in the first quarters."""
    highest = np.maximum.accumulate(rates)
    found = np.zeros(len(rates), dtype=bool)
    for step in range(128, len(rates)):
        found[step] = rates[step] > 1.4 * highest[step - min(step // 4, 128)]
    return found


def two_lines(run: Run) -> np.ndarray:
    """Return the excess of the training loss, beyond all alarms where the rate is untested: the rule of two lines."""
    return np.maximum(np.where(untested(run["rates"]), _BEYOND, 0.0), excess(run["losses"]))


def _lost(values: np.ndarray) -> int:
    """Return the first place of what is not finite; the number of values where all are."""
    finite = np.isfinite(values)
    return len(values) if finite.all() else int(np.argmin(finite))


def z_scores(values: np.ndarray) -> np.ndarray:
    """Return how many standard deviations each value stands above the mean of the 200 before."""
    scores = np.zeros(len(values))
    for step in range(_FIRST, len(values)):
        past = values[max(0, step - _LEVEL) : step]
        past = past[np.isfinite(past)]
        if not np.isfinite(values[step]):
            scores[step] = np.inf
        elif len(past) > 2:
            scores[step] = (values[step] - past.mean()) / max(float(past.std()), 1e-12)
    return scores


def zclip(norms: np.ndarray) -> np.ndarray:
    """Return ZClip's z-score of the gradient norm, against its moving mean and variance (arXiv 2504.02507)."""
    scores = np.zeros(len(norms))
    first = norms[:25][np.isfinite(norms[:25])]
    mean, variance = (float(first.mean()), float(first.var())) if len(first) else (0.0, 0.0)
    for step in range(25, len(norms)):
        if not np.isfinite(norms[step]):
            scores[step] = np.inf
            continue
        scores[step] = (norms[step] - mean) / max(variance**0.5, 1e-12)
        kept = min(norms[step], mean + 2.5 * variance**0.5)  # it learns from what it has clipped
        mean = _DECAY * mean + (1 - _DECAY) * kept
        variance = _DECAY * variance + (1 - _DECAY) * (kept - mean) ** 2
    return scores


def _trainscope(detector: AnomalyDetector, values: np.ndarray, *, summed: bool = False) -> np.ndarray:
    """Return what a detector says of each value; what is low is no alarm.

    Args:
        detector: a fresh one.
        values: one a step.
        summed: Whether to return the sum of the change point detector, which with a threshold begins anew there.
    """
    scores = np.zeros(len(values))
    lost = _lost(values)
    scores[lost:] = np.inf
    for step, value in enumerate(values[:lost].tolist()):
        found = detector.update(value)
        scores[step] = detector._positive_cusum if summed else max(found or 0.0, 0.0)
    return scores


@dataclass(frozen=True)
class Baseline:
    """One of them.

    Attributes:
        scores: of a run, one a step.
        usual: above 0 where it alarms as its makers set it; None where nobody has.
    """

    scores: Callable[[Run], np.ndarray]
    usual: Callable[[Run], np.ndarray] | None = None


BASELINES = {
    "excess of the training loss": Baseline(lambda run: excess(run["losses"])),
    "that, or a rate 1.4 times all before": Baseline(two_lines),
    "CUSUM of the training loss, 0.1 nat free": Baseline(lambda run: cusum(run["losses"])),
    "CUSUM of the probe loss at every step, 0.1 nat free": Baseline(lambda run: cusum(run["probes"])),
    "z-score of the training loss": Baseline(
        lambda run: z_scores(run["losses"]), lambda run: z_scores(run["losses"]) - 3
    ),
    "ZClip's z-score of the gradient norm": Baseline(
        lambda run: zclip(run["gradients"]), lambda run: zclip(run["gradients"]) - 2.5
    ),
    "trainscope, z-score": Baseline(
        lambda run: _trainscope(ZScoreDetector(threshold=0.0), run["losses"]),
        lambda run: _trainscope(ZScoreDetector(), run["losses"]),
    ),
    "trainscope, percentile": Baseline(
        lambda run: _trainscope(PercentileDetector(), run["losses"]),
        lambda run: _trainscope(PercentileDetector(), run["losses"]),
    ),
    "trainscope, change point": Baseline(
        lambda run: _trainscope(ChangePointDetector(threshold=np.inf), run["losses"], summed=True),
        lambda run: _trainscope(ChangePointDetector(), run["losses"]),
    ),
}
GRID = (*np.geomspace(0.02, 1e4, 120).tolist(), 1e6)  # thresholds that are tried


def flags_of(scores: np.ndarray, threshold: float) -> list[tuple[int, int | None]]:
    """Return the (on, off) steps at which scores are above a threshold."""
    edges = np.diff((scores > threshold).astype(int), prepend=0, append=0)
    on, off = np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist()
    return [(start, stop if stop < len(scores) else None) for start, stop in zip(on, off, strict=True)]
