"""The loss swings ever wider and slower around its level: critical slowing down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.series import median

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from topowatch_monitor.detect.history import History

# Robust standard deviations within which a loss counts in full.
CLIP = 3.0


@dataclass(frozen=True)
class VarianceGrowthThresholds:
    """When swings count as growing.

    Blocks of successive losses are detrended; each has a variance and an autocorrelation at lag 1 (Scheffer et al.
    2009, "Early-warning signals for critical transitions").

    Attributes:
        block: losses in a block; the standard error of an autocorrelation is 1 / √block.
        least: blocks of the past, before the newest two, before it may fire.
        most: blocks of the past that are looked at; what grows slowly has to be compared with what was long before.
        variance: times the median of the past, in the mean of the newest two; training near its end halves and doubles
            it. That mean is over all of the older half of the past as well.
        correlation: what their autocorrelations are above the median of the past, at least: three standard errors.
        floor: autocorrelation that they have at least; wide swings without memory are noise of the batches.
        release: share of the threshold of the variance under which it lets go.
    """

    block: int = 64
    least: int = 8
    most: int = 24
    variance: float = 4.0
    correlation: float = 0.375
    floor: float = 0.5
    release: float = 0.5


def detect(history: History, active: bool, thresholds: VarianceGrowthThresholds) -> str | None:
    """Say how much wider the loss swings than before; None while it does not.

    Both variance and autocorrelation have to grow: each alone does in healthy runs as well.
    """
    curve = history.curve
    values = curve.values[: curve.settled]
    return history.once(
        "variance_growth", (curve.moment, active, thresholds), lambda: _told(values, active, thresholds)
    )


def _told(values: NDArray[np.float64], active: bool, thresholds: VarianceGrowthThresholds) -> str | None:
    count = min(len(values) // thresholds.block, thresholds.most + 2)
    if count < thresholds.least + 2:
        return None
    blocks = values[-count * thresholds.block :].reshape(count, thresholds.block)
    now, correlation = swings(blocks[-2:])
    if not active and correlation.min() <= thresholds.floor:
        return None
    past, usual = swings(blocks[:-2])
    middle, before = float(median(past)), float(median(usual))
    limit = thresholds.variance * middle
    wide = now.mean() > max(limit, float(past[: len(past) // 2].max()))
    slow = correlation.min() > before + thresholds.correlation
    if not (now.mean() > thresholds.release * limit if active else wide and slow):
        return None
    return (
        f"the loss swings {np.sqrt(now.mean() / max(middle, 1e-300)):.2g} times as wide as before, with an"
        f" autocorrelation of {correlation.mean():.2f} instead of {before:.2f}"
    )


def swings(blocks: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance and autocorrelation at lag 1 of what is left of each block without its own straight line.

    What lies beyond three robust standard deviations is cut down to them beforehand: a brief spike is no swing.

    Args:
        blocks: b × n values, n at least 3.

    Returns:
        b variances, and b autocorrelations from -1 to 1, 0 where nothing varies.
    """
    scale = np.maximum(np.abs(blocks).max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    centred = blocks / scale
    centred -= median(centred)[:, None]
    reach = CLIP * 1.4826 * median(np.abs(centred))[:, None]
    centred = np.clip(centred, -reach, reach)
    centred -= centred.mean(axis=1, keepdims=True)
    time = np.arange(blocks.shape[1]) - (blocks.shape[1] - 1) / 2
    rest = centred - (centred @ time / (time @ time))[:, None] * time
    power = (rest**2).sum(axis=1)
    correlation = np.zeros(len(blocks))
    np.divide((rest[:, 1:] * rest[:, :-1]).sum(axis=1), power, out=correlation, where=power > 1e-24)
    with np.errstate(over="ignore"):
        variance: NDArray[np.float64] = power / blocks.shape[1] * scale[:, 0] ** 2
    return variance, correlation
