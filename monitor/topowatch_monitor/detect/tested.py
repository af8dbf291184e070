"""How far a quantity has left the range that a run has been through without harm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from topowatch_monitor.detect.history import History

WIDTH = 8
LAG = 48
COMPARABLE = 0.6


def at_comparable_rates(history: History, name: str, *, relative: bool = False) -> NDArray[np.float64]:
    """Return the values of a series at the steps whose learning rate was at least 0.6 of the newest, oldest first.

    After a restart a run is again what it was before at such rates, and not what it was at the end of the cycle.

    Args:
        history: of the run; where it has no rates, all values are returned.
        name: of the series.
        relative: per unit of learning rate, as updates grow with it.
    """
    series, rates = history[name], history["learning_rate"]
    if not len(rates) or not len(series):
        return series.values
    there = np.searchsorted(rates.steps, series.steps)
    known = there < len(rates)
    known[known] &= rates.steps[there[known]] == series.steps[known]
    values, used = series.values[known], rates.values[there[known]]
    if not len(used):
        return values
    chosen = used >= COMPARABLE * used[-1]
    found: NDArray[np.float64] = values[chosen]
    if relative:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found = found / used[chosen]
    return found


def beyond_tested(
    values: NDArray[np.float64], *, window: int, minimum: int, width: int = WIDTH, lag: int = LAG
) -> float | None:
    """Return how far the newest level stands above the highest one of the past, as a natural logarithm.

    A level is the median of `width` neighbouring values; the past are levels that ended `lag` to `window` values ago.

    Args:
        values: positive ones, oldest first; others tell nothing, except at the end, where they are beyond everything.
        window: values that the past reaches back.
        minimum: values that it must have.
        width: values whose median is a level: one odd batch moves none.
        lag: values that are too new to have proved harmless.

    Returns:
        Nats, below 0 within the range that was tested; infinity where the newest values are mostly not finite; None
        where too little is known.
    """
    newest = values[-width:]
    if len(newest) < width:
        return None
    past = values[max(0, len(values) - window) : len(values) - lag]
    past = past[np.isfinite(past) & (past > 0)]
    if len(past) < max(minimum, width):
        return None
    known = newest[np.isfinite(newest)]
    if len(known) <= width // 2:
        return math.inf
    level = float(np.sort(known)[len(known) // 2])
    if level <= 0:
        return -math.inf
    # Sorted by hand: it is asked at every item, and np.median takes as long as all the rest.
    levels = np.sort(np.lib.stride_tricks.sliding_window_view(past, width), axis=1)[:, width // 2]
    return math.log(level / float(levels.max()))
