"""Which bars of a persistence diagram are more than noise.

Omer Bobrowski, Primoz Skraba: A universal null-distribution for topological data analysis, Scientific Reports 13
(2023): with π = death/birth and L = log log π, A·L + B of the noise bars follows a left-skewed Gumbel law whatever the
sample. Paths are no uniform sample, so A and B are fitted to the bulk of the bars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Fewer bars say nothing about the law of noise.
MIN_BARS = 20
# The bulk: smaller bars are rounding, larger ones may be signal.
BULK = (0.3, 0.9)
_QUANTILES = np.linspace(*BULK, 25)


def bar_p_values(bars: NDArray[np.float64], floor: float) -> NDArray[np.float64] | None:
    """Chance that noise gives any bar as long as each, Bonferroni-corrected.

    A loop is no evidence if it is only a gap between neighbouring paths: its birth counts as `floor` at least.

    Args:
        bars: B × (birth, death), 0 ≤ birth < death; a death may be infinite.
        floor: distance between siblings, in the unit of the bars.

    Returns:
        B p-values; None with under MIN_BARS finite bars, or if they do not spread.
    """
    finite = np.isfinite(bars[:, 1]) & (bars[:, 0] > 0)
    if np.count_nonzero(finite) < MIN_BARS:
        return None
    sizes = np.log(np.log(bars[finite, 1] / bars[finite, 0]))
    empirical = np.quantile(sizes, _QUANTILES)
    if not empirical[-1] > empirical[0]:
        return None
    slope, intercept = np.polyfit(empirical, np.log(-np.log1p(-_QUANTILES)), 1)
    p_values = np.zeros(len(bars))
    ratio = bars[finite, 1] / np.maximum(bars[finite, 0], floor)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        size = np.where(ratio > 1.0, np.log(np.log(ratio)), -np.inf)
        p_values[finite] = np.exp(-np.exp(slope * size + intercept))
    return np.minimum(1.0, p_values * len(bars))
