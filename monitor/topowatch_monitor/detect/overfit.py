"""The training loss goes down while the loss on the probes goes up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.level import WIDTH, noise_of
from topowatch_monitor.detect.series import bounded

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History
    from topowatch_monitor.detect.series import Series


@dataclass(frozen=True)
class OverfitThresholds:
    """When a run counts as overfitted. Levels are medians of 5 probe losses.

    Attributes:
        after: probe passes since the lowest level.
        stays: latest levels that all have to be above it, so that it is no passing bump.
        share: of the lowest level by which they are; 0.1 is SageMaker Debugger's ratio.
        descent: share of the way down from where the probe loss began, if that is more: near zero, where a tenth is
            next to nothing, a loss doubles and halves on healthy runs.
        noise: standard deviations of single probe losses, if that is more. The lowest of many levels lies 1.7 under the
            curve by chance; that 8 of them lie 1.3 above it is none.
        sure: standard errors by which the training loss has fallen meanwhile.
        release: share of `share`, `descent` and `noise` under which it lets go.
    """

    after: int = 16
    stays: int = 8
    share: float = 0.1
    descent: float = 0.02
    noise: float = 3.0
    sure: float = 3.0
    release: float = 0.5


def detect(history: History, active: bool, thresholds: OverfitThresholds) -> str | None:
    """Say how far the probe loss has risen while the training loss fell; None while it has not.

    Needs a probe set that is not trained on, and a training loss that is logged.
    """
    curve = history.probe_curve
    if curve is None or len(curve.levels) - 1 - curve.lowest < thresholds.after:
        return None
    lowest, recent = float(curve.levels[curve.lowest]), curve.levels[-thresholds.stays :]
    descent = float(curve.levels[0]) - lowest
    needed = max(thresholds.share * abs(lowest), thresholds.descent * descent, thresholds.noise * curve.noise)
    if float(recent.min()) - lowest <= needed * (thresholds.release if active else 1.0):
        return None
    at = int(curve.steps[curve.lowest])
    fall, error = _fall(history["loss"], at)
    if not fall > (0.0 if active else thresholds.sure * error):
        return None
    risen = f"probe loss {recent[-1]:.4g}, it was {lowest:.4g} until step {at}"
    return f"{risen}; the training loss fell by {fall:.3g} since"


def _fall(loss: Series, step: int) -> tuple[float, float]:
    """How far the loss has fallen since a step, from means of 32 values, and the standard error; NaN if unknown."""
    steps = np.concatenate([loss.old_steps, loss.steps])
    values = bounded(np.concatenate([loss.old, loss.values]))
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    end = int(np.searchsorted(steps, step, side="right"))
    if end == 0 or len(values) - end < WIDTH:
        return float("nan"), float("nan")
    error = noise_of(values) * (2 / WIDTH) ** 0.5
    return float(values[max(0, end - WIDTH) : end].mean() - values[-WIDTH:].mean()), error
