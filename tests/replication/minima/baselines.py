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
_FIRST = 32  # values before anything is said
_DECAY = 0.97  # of ZClip (arXiv 2504.02507)


def cusum(values: np.ndarray) -> np.ndarray:
    """Return the upward cumulative sum over the running median in standard deviations, with half of one allowed."""
    total, sums = 0.0, np.zeros(len(values))
    for step in range(_FIRST, len(values)):
        past = values[max(0, step - _LEVEL) : step]
        past = past[np.isfinite(past)]
        noise = 1.4826 / 2**0.5 * float(np.median(np.abs(np.diff(past)))) if len(past) > 2 else 0.0
        if not np.isfinite(values[step]):
            sums[step:] = np.inf
            break
        excess = (values[step] - float(np.median(past))) / max(noise, 1e-12)
        total = max(0.0, total + min(excess - 0.5, 10.0))
        sums[step] = total
    return sums


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


def _trainscope(make: Callable[[], AnomalyDetector], values: np.ndarray) -> np.ndarray:
    """Return what a detector says, with a threshold of its own that lets everything pass; what is low is no alarm."""
    detector = make()
    scores = np.zeros(len(values))
    for step, value in enumerate(values):
        if not np.isfinite(value):
            scores[step:] = np.inf
            break
        found = detector.update(float(value))
        # The sum of the change point detector, without the threshold at which it would begin anew.
        total = getattr(detector, "_positive_cusum", None)
        scores[step] = max(found or 0.0, 0.0) if total is None else total
    return scores


@dataclass(frozen=True)
class Baseline:
    """One of them.

    Attributes:
        scores: of a run, one a step.
        usual: the threshold that its makers use; None where there is none.
    """

    scores: Callable[[Run], np.ndarray]
    usual: float | None = None


BASELINES = {
    "CUSUM of the training loss": Baseline(lambda run: cusum(run["losses"])),
    "CUSUM of the probe loss at every step": Baseline(lambda run: cusum(run["probes"])),
    "z-score of the training loss": Baseline(lambda run: z_scores(run["losses"]), 3.0),
    "ZClip's z-score of the gradient norm": Baseline(lambda run: zclip(run["gradients"]), 2.5),
    "trainscope, z-score": Baseline(lambda run: _trainscope(lambda: ZScoreDetector(threshold=0.0), run["losses"]), 3.5),
    "trainscope, percentile": Baseline(lambda run: _trainscope(PercentileDetector, run["losses"]), 0.0),
    "trainscope, change point": Baseline(
        lambda run: _trainscope(lambda: ChangePointDetector(threshold=np.inf), run["losses"]), 6.0
    ),
}
GRID = (*np.geomspace(0.5, 1e5, 80).tolist(), np.inf)  # thresholds that are tried


def flags_of(scores: np.ndarray, threshold: float) -> list[tuple[int, int | None]]:
    """Return the (on, off) steps at which scores are above a threshold."""
    edges = np.diff((scores > threshold).astype(int), prepend=0, append=0)
    on, off = np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist()
    return [(start, stop if stop < len(scores) else None) for start, stop in zip(on, off, strict=True)]
