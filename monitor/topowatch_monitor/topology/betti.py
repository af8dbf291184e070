"""Betti curves and amplitudes of diagrams, and how far two diagrams are apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Levels at which giotto-tda samples landscapes and Betti curves; its own default.
BINS = 100


class Drift(NamedTuple):
    """How far two diagrams are apart, in the unit of births and deaths; see `bottleneck` and `wasserstein`."""

    bottleneck: float
    wasserstein: float


def betti_curve(diagram: ArrayLike, levels: ArrayLike) -> NDArray[np.intp]:
    """Betti numbers at the given levels: bars that are born at or before a level and die after it.

    Args:
        diagram: bars × (birth, death, …); a death may be inf, further columns are ignored.
        levels: L numbers, in the unit of births and deaths.

    Returns:
        L numbers of bars.

    Raises:
        ValueError: as for `bottleneck`.
    """
    bars = _bars(diagram)
    at = np.asarray(levels, dtype=np.float64)
    born = np.searchsorted(np.sort(bars[:, 0]), at, side="right")
    died = np.searchsorted(np.sort(bars[:, 1]), at, side="right")
    return np.asarray(born - died, dtype=np.intp)


def bottleneck(first: ArrayLike, second: ArrayLike) -> float:
    """Bottleneck distance of two diagrams, exact to 1e-9 of the largest death, by giotto-tda.

    The least δ for which the bars can be paired so that births and deaths differ by at most δ; a bar may also be paired
    with the diagonal, at half of its length. Bars that never die are paired among each other: another number of them is
    an infinite distance. Of bars of length zero, with which giotto-tda fills up diagrams, nothing is seen.

    Args:
        first: bars × (birth, death, …) of one homology dimension; a death may be inf, further columns are ignored.
        second: the same.

    Returns:
        The distance, in the unit of births and deaths.

    Raises:
        ValueError: a diagram is no matrix of at least two columns, holds NaN or an infinite birth, or a bar that dies
            before it is born.
    """
    one, other, immortal = _apart(first, second)
    unit = _unit(one, other)
    if not math.isfinite(immortal.max(initial=0.0)) or unit == 0:
        return float(immortal.max(initial=0.0))
    # Imported here: a process that compares no diagrams need not load it.
    from gtda.externals import bottleneck_distance

    mortal = unit * float(bottleneck_distance(_with_length(one / unit), _with_length(other / unit), 0.0))
    return max(mortal, float(immortal.max(initial=0.0)))


def wasserstein(first: ArrayLike, second: ArrayLike, power: float = 1.0) -> float:
    """Wasserstein distance of two diagrams: as `bottleneck`, with the sum of powers in place of the largest.

    Exact, by an assignment. giotto-tda's auction gives the same to 1 % and takes longer at our sizes (measured).

    Args:
        first: as for `bottleneck`.
        second: the same.
        power: p, at least 1. Differences of bars are taken in the maximum norm.

    Returns:
        (Σ difference^p)^(1/p), in the unit of births and deaths.

    Raises:
        ValueError: as for `bottleneck`, or `power` is less than 1.
    """
    if not power >= 1:
        raise ValueError(f"the power is at least 1, not {power}")
    one, other, immortal = _apart(first, second)
    unit = max(_unit(one, other), float(immortal.max(initial=0.0)))
    if unit == 0 or not math.isfinite(unit):
        return unit
    from scipy.optimize import linear_sum_assignment  # here for the same reason as giotto-tda

    one, other, immortal = one / unit, other / unit, immortal / unit
    # Each bar may also go to the diagonal, where what is left over of the others waits at no cost.
    costs = np.zeros((len(one) + len(other), len(one) + len(other)))
    costs[: len(one), : len(other)] = np.abs(one[:, None] - other[None]).max(axis=2)
    costs[: len(one), len(other) :] = _half_lengths(one)[:, None]
    costs[len(one) :, : len(other)] = _half_lengths(other)[None]
    costs **= power
    total = costs[linear_sum_assignment(costs)].sum() + (immortal**power).sum()
    return unit * float(total ** (1 / power))


def betti_drift(first: ArrayLike, second: ArrayLike) -> Drift:
    """How far the diagrams of consecutive windows are apart: bottleneck and 1-Wasserstein distance.

    If every point moves by at most ε, the bottleneck distance is at most 2ε; of diagrams of landmarks with cover radii
    r and s it is known to within 2r + 2s.

    Args:
        first: bars × (birth, death, …) of one homology dimension.
        second: the same.

    Returns:
        Both distances.

    Raises:
        ValueError: as for `bottleneck`.
    """
    return Drift(bottleneck(first, second), wasserstein(first, second))


def amplitudes(diagram: ArrayLike) -> dict[str, float]:
    """How far a diagram is from the empty one, in four ways, by giotto-tda.

    Args:
        diagram: bars × (birth, death, …) of one homology dimension; bars that never die and further columns are
            ignored.

    Returns:
        By name: `bottleneck` (half of the longest bar), `wasserstein` (Euclidean norm of the half lengths), `landscape`
        and `betti` (L² norms of the first landscape and of the Betti curve over the diagram's range, at BINS levels).
        The first two are in the unit of births and deaths, the others in its powers 3/2 and 1/2. 0 without a bar.

    Raises:
        ValueError: as for `bottleneck`.
    """
    bars = _bars(diagram)
    bars = bars[np.isfinite(bars[:, 1]) & (bars[:, 1] > bars[:, 0])]
    powers = {"bottleneck": 1.0, "wasserstein": 1.0, "landscape": 1.5, "betti": 0.5}
    if not len(bars):
        return dict.fromkeys(powers, 0.0)
    from gtda.diagrams import Amplitude

    unit = float(np.abs(bars).max())
    padded = np.column_stack([bars / unit, np.ones(len(bars))])[None]
    found = {}
    for name, power in powers.items():
        parameters = {"n_bins": BINS} if name in ("landscape", "betti") else {}
        amplitude = Amplitude(metric=name, metric_params=parameters, order=None).fit_transform(padded)
        found[name] = float(amplitude.item()) * unit**power
    return found


def _apart(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The bars of both diagrams that die, without those of length zero, and the differences of those that never do."""
    mortal, births = [], []
    for bars in (_bars(first), _bars(second)):
        dies = np.isfinite(bars[:, 1])
        mortal.append(_with_length(bars[dies]))
        births.append(np.sort(bars[~dies, 0]))
    same = len(births[0]) == len(births[1])
    # Births in their order are the best pairing, for the largest difference as for the sum of powers.
    return mortal[0], mortal[1], np.abs(births[0] - births[1]) if same else np.array([np.inf])


def _bars(diagram: ArrayLike) -> NDArray[np.float64]:
    bars = np.asarray(diagram, dtype=np.float64)
    if not bars.size:
        return np.empty((0, 2))
    if bars.ndim != 2 or bars.shape[1] < 2:
        raise ValueError(f"a diagram is bars × (birth, death), not of shape {bars.shape}")
    bars = bars[:, :2]
    if not np.isfinite(bars[:, 0]).all() or not (bars[:, 1] >= bars[:, 0]).all():
        raise ValueError("bars are born at finite levels and die at or after their birth")
    return bars


def _unit(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The largest number in both diagrams: divided by it, no diagram is too large or too small for a solver."""
    return max(float(np.abs(one).max(initial=0.0)), float(np.abs(other).max(initial=0.0)))


def _with_length(bars: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out bars of length zero; dividing may make some of very short ones."""
    return bars[bars[:, 1] > bars[:, 0]]


def _half_lengths(bars: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((bars[:, 1] - bars[:, 0]) / 2)
