"""The loss has left its lowest level and stays above it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.level import WIDTH, rolling_sums

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class LossRiseThresholds:
    """When a rise counts: a cumulative sum (CUSUM) of the excess over the lowest level.

    One unit is the largest of: the noise of single values, `levels` times that of levels (means of 32 values), and
    `share` of the way down from where the loss began.

    Attributes:
        minimum_values: finite values of the loss before it may fire: three levels, so that there is one to leave and a
            notion of its noise.
        levels: standard deviations. The lowest of many levels lies 3 below the curve by chance, and the present one may
            lie 2 above it.
        share: of the descent so far, 0 to 1. Rises within 5 % of it are the usual wandering at convergence.
        allowance: units of excess that are free, so that what wanders within the noise adds nothing.
        clip: units that one value can add at most, so that no single batch decides.
        alarm: units. With `allowance` and `clip`, a jump fires in 7 values and an excess of 2 units in 24.
    """

    minimum_values: int = 96
    levels: float = 5.5
    share: float = 0.05
    allowance: float = 1.0
    clip: float = 4.0
    alarm: float = 24.0


def detect(history: History, active: bool, thresholds: LossRiseThresholds) -> str | None:
    """Say how far the loss stands above its lowest level; None while it does not.

    Releases when the mean of the last 32 values is back within the allowance.
    """
    curve = history.curve
    lowest = curve.lowest
    if lowest is None or curve.initial is None or curve.count < thresholds.minimum_values:
        return None
    after = curve.values[int(np.searchsorted(curve.steps, lowest.step, side="right")) :]
    if not len(after):
        return None
    descent = max(curve.initial - lowest.level, abs(lowest.level))
    unit = max(lowest.noise, thresholds.levels * lowest.level_noise, thresholds.share * descent)
    if unit <= 0:
        unit = float(np.finfo(np.float64).tiny)
    level = float(after[-WIDTH:].mean())
    reason = (
        f"loss {level:.4g} stands {level - lowest.level:.3g} above its lowest level {lowest.level:.4g}"
        f" (until step {lowest.step})"
    )
    if active:
        return reason if level > lowest.level + thresholds.allowance * unit else None
    # What was before the loss last came back is over: it must not count a second time.
    bearable = lowest.level + thresholds.allowance * unit
    if level <= bearable and len(after) >= WIDTH:
        after = after[-WIDTH:]
    else:
        calm = np.flatnonzero(rolling_sums(after) <= WIDTH * bearable)
        after = after[calm[-1] if len(calm) else 0 :]
    with np.errstate(over="ignore"):  # what overflows is clipped
        excess = np.clip((after - lowest.level) / unit - thresholds.allowance, -thresholds.clip, thresholds.clip)
    total = np.cumsum(excess)
    return reason if total[-1] - min(0.0, float(total.min())) >= thresholds.alarm else None
