"""The learning rate stays above the critical one, and farther above than the run is used to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.series import median

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class CriticalLearningRateThresholds:
    """When a ratio (learning rate over critical learning rate) counts as too high.

    A single one says little: to hover at 1 is normal (the edge of stability), and in a trial 45 % of those of healthy
    runs stood above it. Of a small CNN 23 to 71 % were at the end of the search: there the update of one batch leads up
    on the probes from the start, whatever its length, so that they say nothing of the rate.

    Attributes:
        reach: ratio, and inverse of one, at which a search ends; what lies there is left out.
        persist: searches in a row that must all be above `level`.
        level: ratio at which a step leads back up to where it began.
        minimum: searches before those, so that there is a past to compare with.
        rise: times the median of the past that the median of the last ones has to be.
        noise: standard deviations of such a median, by what single ratios differ by, that the rise has to be at least.
        calm: times the median of the past at which it lets go, or at `level`, whichever is higher.
    """

    reach: float = 64.0
    persist: int = 6
    level: float = 1.0
    minimum: int = 8
    rise: float = 2.0
    noise: float = 4.0
    calm: float = 1.25


def detect(history: History, active: bool, thresholds: CriticalLearningRateThresholds) -> str | None:
    """Say how far the rate stands above the critical one; None while that is usual.

    Releases when the median of the last ratios is back near that of the past.
    """
    ratios = history["critical_lr_ratio"].values
    ratios = ratios[(ratios > 1 / thresholds.reach) & (ratios < thresholds.reach)]
    if len(ratios) < thresholds.persist + thresholds.minimum:
        return None
    recent, past = np.log(ratios[-thresholds.persist :]), np.log(ratios[: -thresholds.persist])
    level, usual = float(median(recent)), float(median(past))
    reason = f"the learning rate is {np.exp(level):.2g} of the critical one, where {np.exp(usual):.2g} was usual"
    if active:
        return reason if level > max(np.log(thresholds.level), usual + np.log(thresholds.calm)) else None
    # The median of k values varies by 1.25/√k of their deviation, and that is 1.48 of their median distance.
    deviation = 1.4826 * float(median(np.abs(past - usual)))
    needed = max(np.log(thresholds.rise), thresholds.noise * 1.2533 * deviation / thresholds.persist**0.5)
    above = recent.min() > np.log(thresholds.level)
    return reason if above and level > usual + needed else None
