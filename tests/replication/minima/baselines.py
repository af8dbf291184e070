"""What else could have flagged the same runs, at every step and at once: numbers that alarm when they are high."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from trainscope.core.detectors.changepoint import ChangePointDetector
from trainscope.core.detectors.percentile import PercentileDetector
from trainscope.core.detectors.z_score import ZScoreDetector

if TYPE_CHECKING:
    from collections.abc import Callable

Series = dict[str, np.ndarray]  # what `training.train` returned
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


def _trainscope(make: Callable[[], object], values: np.ndarray) -> np.ndarray:
    detector = make()
    scores = np.zeros(len(values))
    for step, value in enumerate(values):
        if not np.isfinite(value):
            scores[step:] = np.inf
            break
        found = detector.update(float(value))  # type: ignore[attr-defined]
        scores[step] = 0.0 if found is None else max(float(found), 0.0)
    return scores


# name: (scores of a run, the threshold that its makers use; None where there is none)
BASELINES: dict[str, tuple[Callable[[Series], np.ndarray], float | None]] = {
    "CUSUM of the training loss": (lambda run: cusum(run["losses"]), None),
    "CUSUM of the probe loss, at every step": (lambda run: cusum(run["probes"]), None),
    "z-score of the training loss": (lambda run: z_scores(run["losses"]), 3.0),
    "ZClip's z-score of the gradient norm": (lambda run: zclip(run["gradients"]), 2.5),
    "trainscope, z-score": (lambda run: _trainscope(lambda: ZScoreDetector(threshold=0.0), run["losses"]), 3.5),
    "trainscope, percentile": (lambda run: _trainscope(PercentileDetector, run["losses"]), 0.0),
    "trainscope, change point": (lambda run: _trainscope(ChangePointDetector, run["losses"]), 6.0),
}


def flags_of(scores: np.ndarray, threshold: float) -> list[tuple[int, int | None]]:
    """Return the (on, off) steps at which scores are above a threshold."""
    on = np.flatnonzero(np.diff((scores > threshold).astype(int), prepend=0) == 1)
    off = np.flatnonzero(np.diff((scores > threshold).astype(int)) == -1) + 1
    pairs = zip(on.tolist(), [*off.tolist(), None][: len(on)], strict=True)
    return list(pairs)
