"""The loss or the weights are NaN or infinite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class NonFiniteLossThresholds:
    """When a run counts as not finite.

    Attributes:
        release_after: values in a row. One NaN loss is enough to fire, since the step that made it has been taken; a
            loss scaler that skips such steps is back to finite values at once, and 20 of them say that it is over.
    """

    release_after: int = 20


def detect(history: History, active: bool, thresholds: NonFiniteLossThresholds) -> str | None:
    """Say which scalar is not finite; None while all are.

    Fires on the first NaN or infinity since detectors last looked, and releases after `release_after` finite values.
    """
    weights = history["nonfinite_weights"]
    if len(weights) and weights.values[-1] > 0:
        return f"{weights.values[-1]:.0f} weights are NaN or infinite at step {weights.steps[-1]}"
    for name in ("loss", "probe_loss"):
        series = history[name]
        new = max(history.fresh(name), thresholds.release_after if active else 0)
        recent = slice(max(0, len(series) - new), None)
        bad = np.flatnonzero(~np.isfinite(series.values[recent]))
        if len(bad):
            value, step = series.values[recent][bad[-1]], series.steps[recent][bad[-1]]
            return f"{name.replace('_', ' ')} is {value} at step {step}"
    return None
