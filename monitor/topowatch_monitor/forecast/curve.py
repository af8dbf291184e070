"""The curve of a metric that is logged on the way: its newest value, drawn on to the end, and what else it shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Values that a power law is fitted to, at least.
LEAST_VALUES = 4
_LEVEL = 4  # newest values that are averaged


def last_value(values: ArrayLike) -> float | None:
    """The newest finite value of a curve; None without any."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known[-1]) if len(known) else None


def power_law(steps: ArrayLike, values: ArrayLike, at: float) -> float | None:
    """Draw a curve on to a step by a + b·(step + 1)^−c, c from 0 to 3, fitted by least squares.

    Args:
        steps: k steps from 0 on, ascending.
        values: k numbers; what is not finite is left out.
        at: the step to draw it on to.

    Returns:
        The value there, within one range of the known values beyond them; the last value where too few are known.
    """
    known = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(known)
    known, times = known[finite], np.asarray(steps, dtype=np.float64)[finite] + 1.0
    if len(known) < LEAST_VALUES or np.ptp(known) == 0 or np.ptp(times) == 0:
        return last_value(known)
    middle, scale, unit = known.mean(), np.ptp(known), times[-1]
    heights = (known - middle) / scale

    def rest(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        end, height, power = parameters
        found: NDArray[np.float64] = end + height * (times / unit) ** -power - heights
        return found

    bounds = [-3.0, -10.0, 0.0], [3.0, 10.0, 3.0]
    starts = ([heights[-1], sign * 0.5, power] for sign in (-1.0, 1.0) for power in (0.3, 1.0))
    best = min((least_squares(rest, start, bounds=bounds) for start in starts), key=lambda found: found.cost)
    end, height, power = best.x
    drawn = middle + scale * (end + height * ((at + 1.0) / unit) ** -power)
    return (
        float(np.clip(drawn, known.min() - scale, known.max() + scale)) if math.isfinite(drawn) else last_value(known)
    )


def curve_features(steps: ArrayLike, values: ArrayLike, end: float) -> dict[str, float]:
    """Features of the family `curve` in `table.FEATURES`; none without a finite value.

    Args:
        steps: k steps up to now, ascending.
        values: k numbers.
        end: the last step of the run.
    """
    at, known = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    at, known = at[np.isfinite(known)], known[np.isfinite(known)]
    if not len(known):
        return {}
    found = {"curve_last": float(known[-1]), "curve_level": float(known[-_LEVEL:].mean())}
    drawn = power_law(at, known, end)
    if drawn is not None:
        found["curve_drawn"] = drawn
    half = last_value(known[at <= at[-1] / 2])
    if half is not None:
        found["curve_rise"] = float(known[-1]) - half
    return found
