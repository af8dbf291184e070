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
        looked_at = history.fresh(name)
        if active:
            looked_at = np.append(looked_at, np.arange(max(0, len(series) - thresholds.release_after), len(series)))
        bad = looked_at[~np.isfinite(series.values[looked_at])]
        if len(bad):
            place = int(bad.max())
            return f"{name.replace('_', ' ')} is {series.values[place]} at step {series.steps[place]}"
    return None
