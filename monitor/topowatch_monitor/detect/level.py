"""Level and noise of a loss curve: what several detectors mean by "initial", "lowest" and "low"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.series import HEAD, bounded, median

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from topowatch_monitor.detect.series import Series

# Values in a level; 32 bring the noise of a level down to a fifth of that of a value.
WIDTH = 32
SETTLING = 16
# Values that say enough of the noise of levels; after an early minimum, what follows it has to help.
ENOUGH = 16 * WIDTH
# Times the noise of single values: what levels differ by beyond that is a steep descent, not noise.
MOST = 2.0


@dataclass(frozen=True)
class Curve:
    """What detectors ask of a loss curve.

    Attributes:
        steps: steps of the recent finite values, ascending.
        values: these values, cut down where their sums would overflow.
        count: finite values in all, old ones included.
        initial: mean of its first 4 or its first 32 finite values, whichever is higher; None before 4.
        head: mean of its first 32 finite values (fewer at the start); None before 4.
        lowest: its lowest level among the settled values; None before 32 of these.
        begun: whether its first 32 values are all there, so that `initial` and `head` are final.
        settled: how many of `values` are: all but what the count exceeds a multiple of 16 by, so that what takes long
            is worked out once for 16 of them.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    count: int
    initial: float | None
    head: float | None
    lowest: Lowest | None
    settled: int
    begun: bool

    @property
    def moment(self) -> tuple[int, int]:
        """What is equal for two curves of a growing series whose settled values are the same."""
        return self.count // SETTLING, self.settled


@dataclass(frozen=True)
class Lowest:
    """The lowest level of a loss curve.

    Attributes:
        level: mean of the 32 (or more) values at which it is lowest, in the unit of the loss.
        step: step of the last of them.
        noise: standard deviation of single values around the curve, robust, as it was up to that step.
        level_noise: standard deviation of such means, likewise. It is above noise/√32 where neighbouring values go up
            and down together or now and then one is very large.
    """

    level: float
    step: int
    noise: float
    level_noise: float


def curve_of(series: Series, before: Curve | None = None) -> Curve:
    """Summarise a loss series; `before` is its curve when it was shorter, and spares some work."""
    steps, values = series.steps, series.values
    mask = np.isfinite(values)
    if not mask.all():
        steps, values = steps[mask], values[mask]
    values = bounded(values)
    count = len(values) + series.old_count
    begun = len(series.head) == HEAD
    if before is not None and before.begun:
        initial, first = before.initial, before.head
    else:
        head = bounded(series.head[np.isfinite(series.head)])
        first = float(head.mean()) if len(head) >= 4 else None
        initial = None if first is None else max(float(head[:4].mean()), first)
    settled = len(values) - count % SETTLING
    if before is not None and before.moment == (count // SETTLING, settled):
        lowest = before.lowest
    else:
        lowest = _lowest(steps[:settled], values[:settled], series)
    return Curve(steps, values, count, initial, first, lowest, settled, begun)


def learned(curve: Curve, series: Series, share: float, chance: float | None) -> int | None:
    """Return the step from which on a run had learned something; None where it has not yet, 0 where no loss is told.

    Args:
        curve: of its loss, from the beginning of the training on.
        series: its loss.
        share: of where the loss began, or of chance, that the mean of 32 settled values has to come down to.
        chance: loss of a model that knows nothing; None where it is not known.
    """
    if not curve.count:
        return 0
    if curve.initial is None or curve.settled < WIDTH:
        return None
    level = share * max(curve.initial, chance or curve.initial)
    if (old := series.old <= level).any():
        return int(series.old_steps[np.argmax(old)])
    low = rolling_sums(curve.values[: curve.settled]) <= WIDTH * level
    return int(curve.steps[np.argmax(low) + WIDTH - 1]) if low.any() else None


def rolling_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of every 32 neighbours, by the first of them; none of fewer than 32 values."""
    totals = np.cumsum(values)
    sums: NDArray[np.float64] = totals[WIDTH - 1 :].copy()
    sums[1:] -= totals[:-WIDTH]
    return sums


def noise_of(values: NDArray[np.float64]) -> float:
    """Robust standard deviation of the noise on a slowly moving curve, from the differences of neighbours."""
    if len(values) < 3:
        return 0.0
    return float(median(np.abs(np.diff(values)))) * 1.4826 / 2**0.5


def noise_of_levels(values: NDArray[np.float64]) -> float:
    """Robust standard deviation of means of 32 neighbours, put higher where there are few of them."""
    blocks = len(values) // WIDTH
    if blocks < 3:
        return noise_of(values)
    return _bend(values[len(values) - blocks * WIDTH :].reshape(blocks, WIDTH).mean(axis=1))


def _bend(means: NDArray[np.float64]) -> float:
    """Noise of levels from their second differences: those of a steady descent or rise are zero."""
    if len(means) < 3:
        return 0.0
    return float(median(np.abs(np.diff(means, 2)))) * 1.4826 / 6**0.5 * (1 + 4 / (len(means) - 2))


def _lowest(steps: NDArray[np.int64], values: NDArray[np.float64], series: Series) -> Lowest | None:
    if len(values) < WIDTH:
        return None
    best = int(np.argmin(rolling_sums(values)))
    end = best + WIDTH
    level = float(values[best:end].mean())
    old = series.old
    if len(old) and np.isfinite(old).any():
        place = int(np.nanargmin(old))
        if old[place] < level:
            noise = noise_of(values[:256])
            wander = max(_bend(old[np.isfinite(old)]), noise_of_levels(values))
            return Lowest(float(old[place]), int(series.old_steps[place]), noise, min(wander, MOST * noise))
    noise = noise_of(values[max(0, end - 256) : end])
    wander = noise_of_levels(values[:end] if end >= ENOUGH else values)
    return Lowest(level, int(steps[end - 1]), noise, min(wander, MOST * noise))


@dataclass(frozen=True)
class LowLossThresholds:
    """When a run counts as having a minimum to lose; without one no critical detector makes it `minimum_unstable`.

    Attributes:
        share: of where the loss began (or of chance, where that is known), 0 to 1, that it has to come down to: three
            quarters are what a language model reaches soon, and are worth being told.
        floor: loss that is low at any rate, in its own unit (nats): fine-tuned models begin there.
    """

    share: float = 0.75
    floor: float = 0.5


def was_low(curve: Curve, chance_loss: float | None, thresholds: LowLossThresholds) -> bool:
    """Whether the run has ever been at low loss, so that there is a minimum to lose."""
    if curve.lowest is None or curve.initial is None:
        return False
    began = max(curve.initial, chance_loss or curve.initial)
    return curve.lowest.level <= max(thresholds.share * began, thresholds.floor)
