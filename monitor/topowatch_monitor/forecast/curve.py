"""The curve of a metric that is logged on the way: its newest value, drawn on to the end, and what else it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Values that a power law is fitted to, at least.
LEAST_VALUES = 4
_LEVEL = 4  # newest values that are averaged
_POWERS = np.linspace(0.05, 3.0, 60)


def last_value(values: ArrayLike) -> float | None:
    """The newest finite value of a curve; None without any."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known[-1]) if len(known) else None


def power_law(steps: ArrayLike, values: ArrayLike, at: float) -> float | None:
    """Draw a curve on to a step by a + b·(step + 1)^−c, fitted by least squares.

    For each c of a grid from 0.05 to 3 the best a and b have a closed form.

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
    bases = (times / times[-1])[:, None] ** -_POWERS  # k × powers
    centred, heights = bases - bases.mean(axis=0), known - known.mean()
    slopes = heights @ centred / (centred**2).sum(axis=0)
    best = int(((heights[:, None] - slopes * centred) ** 2).sum(axis=0).argmin())
    reached = ((at + 1.0) / times[-1]) ** -_POWERS[best] - bases[:, best].mean()
    scale = np.ptp(known)
    return float(np.clip(known.mean() + slopes[best] * reached, known.min() - scale, known.max() + scale))


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
