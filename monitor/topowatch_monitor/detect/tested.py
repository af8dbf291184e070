"""How far a quantity has left the range that a run has been through without harm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from topowatch_monitor.detect.history import History
    from topowatch_monitor.detect.series import Series


class _Past(Protocol):
    """Thresholds that say what a past is; all count values."""

    @property
    def window(self) -> int: ...
    @property
    def minimum(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def lag(self) -> int: ...


def check_past(thresholds: _Past) -> None:
    """Raise a ValueError where a past that is long enough can never be."""
    least = thresholds.lag + max(thresholds.minimum, thresholds.width)
    if thresholds.window < least:
        raise ValueError(
            f"window {thresholds.window} is too short: it has to hold lag {thresholds.lag} and the larger of"
            f" minimum {thresholds.minimum} and width {thresholds.width}, so make it {least} at least"
        )


def at_comparable_rates(
    history: History, name: str, comparable: float, most: int, *, since: int = 0, relative: bool = False
) -> NDArray[np.float64]:
    """Return the newest values of a series at steps whose learning rate was not far below the newest, oldest first.

    After a restart a run is again what it was before at such rates, and not what it was at the end of the cycle.

    Args:
        history: of the run; where it has no rates, all values are returned.
        name: of the series.
        comparable: share of the newest rate, at least.
        most: values that are wanted; there may be more.
        since: step of the first value that counts.
        relative: per unit of learning rate, as updates grow with it; steps at a rate of 0 tell nothing then.
    """
    series, rates = history[name], history["learning_rate"]
    count = len(series) - int(np.searchsorted(series.steps, since))
    if not len(rates) or not count:
        return series.values[len(series) - count :]
    chosen = series.values[:0]
    for reach in (min(2 * most, count), count):  # as a rule the newest are enough, and it is asked at every item
        values, used = _with_rates(series, rates, reach)
        if len(used) and (used[-1] > 0 or not relative):
            if relative:
                with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                    values = values / used
            least = used.min()  # at one rate all are comparable, and nothing has to be copied
            alike = least >= comparable * used[-1] and (least > 0 or not relative)
            chosen = values if alike else values[(used >= comparable * used[-1]) & (used > 0 if relative else True)]
        if len(chosen) >= most or reach == count:
            break
    return chosen


def _with_rates(series: Series, rates: Series, reach: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Those of the newest values whose rate is known, and these rates."""
    steps, values = series.steps[-reach:], series.values[-reach:]
    if np.array_equal(rates.steps[-len(steps) :], steps):  # as usual, and far faster
        return values, rates.values[-len(steps) :]
    there = np.searchsorted(rates.steps, steps)
    known = there < len(rates)
    known[known] &= rates.steps[there[known]] == steps[known]
    return values[known], rates.values[there[known]]


def beyond_tested(values: NDArray[np.float64], *, window: int, minimum: int, width: int, lag: int) -> float | None:
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
    past = values[max(0, len(values) - window) : max(0, len(values) - lag)]
    if len(past) and not (past.min() > 0 and past.max() < np.inf):  # as it is for NaN
        past = past[np.isfinite(past) & (past > 0)]
    if len(past) < max(minimum, width):
        return None
    known = newest[np.isfinite(newest)]
    if len(known) <= width // 2:
        return math.inf
    level = float(np.sort(known)[len(known) // 2])
    if level <= 0:
        return -math.inf
    return math.log(level / float(_medians(past, width).max()))


def _medians(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Medians of `width` neighbours, the upper ones of an even number."""
    if width == 1:
        return values
    # By hand: it is asked at every item, and np.median and sliding_window_view take as long as all the rest.
    stride = values.strides[0]
    windows: NDArray[np.float64] = np.ndarray(
        (len(values) - width + 1, width), values.dtype, values, strides=(stride, stride)
    )
    return np.sort(windows, axis=1)[:, width // 2]


def beyond_past(values: NDArray[np.float64], past: _Past) -> float | None:
    """Return the same for a past that thresholds describe."""
    return beyond_tested(values, window=past.window, minimum=past.minimum, width=past.width, lag=past.lag)
