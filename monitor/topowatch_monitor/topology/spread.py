"""Whether the results of runs go with their classes: spread within and between, and a stratified permutation test.

The paper claims that runs of one class end within 0.5 % of each other and runs of different classes over 3 % apart. A
class that merely follows the learning rate would show that too, so labels are exchanged only among runs that share
their settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import ArrayLike, NDArray

# Level of the test; with fewer arrangements of the labels than 1/LEVEL no data could reach it.
LEVEL = 0.05
PERMUTATIONS = 9999
_BLOCK = 1000


@dataclass(frozen=True)
class Spread:
    """What was found; None where nothing can be said.

    Attributes:
        within: standard deviation of the values about their class's mean, in their unit.
        between: standard deviation of the class means about the overall mean, weighted by size.
        p_value: share of the arrangements of labels within the strata that part the values at least as well.
        verdict: difference, if p_value is below LEVEL; no difference; or abstained.
        reason: the verdict in words.
    """

    within: float | None
    between: float | None
    p_value: float | None
    verdict: Literal["difference", "no difference", "abstained"]
    reason: str


def spread(
    values: ArrayLike,
    labels: Sequence[Hashable],
    strata: Sequence[Hashable],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Spread:
    """Compare the values of the classes.

    The statistic is Σ size · (mean of the class − what its strata have on average)², over the classes.

    Args:
        values: n finite numbers, one a run.
        labels: n classes.
        strata: n settings; labels are exchanged only between equal ones.
        permutations: random arrangements, at least 1.
        seed: of these.

    Raises:
        ValueError: the lengths differ, or a value is not finite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) == len(labels) == len(strata):
        raise ValueError(
            f"a value, a class and a stratum a run are needed, not {len(numbers)}, {len(labels)}, {len(strata)}"
        )
    if not np.isfinite(numbers).all():
        raise ValueError("values have to be finite: leave out runs without a result")
    classes, strata_numbers = _numbered(labels), _numbered(strata)
    if len(numbers) < 2 or classes.max(initial=0) == 0:
        found = "no run" if not len(numbers) else "one class"
        return Spread(None, None, None, "abstained", f"{found} with a result: there is nothing to compare")
    unit = float(np.abs(numbers).max()) or 1.0  # squares of huge numbers would overflow
    numbers = numbers / unit
    within, between = (deviation * unit for deviation in _deviations(numbers, classes))
    arrangements = _log_arrangements(classes, strata_numbers)
    if arrangements < math.log(1 / LEVEL):
        return Spread(
            within,
            between,
            None,
            "abstained",
            f"classes can be exchanged among runs of equal settings in only {round(math.exp(arrangements))} ways: "
            f"at least {round(1 / LEVEL)} are needed",
        )
    p_value = _permutation_p(numbers, classes, strata_numbers, permutations, np.random.default_rng(seed))
    told = f"spread within classes {within:.3g}, between them {between:.3g}, p = {p_value:.2g}"
    if p_value < LEVEL:
        return Spread(within, between, p_value, "difference", f"classes end apart: {told}")
    return Spread(within, between, p_value, "no difference", f"no difference between classes: {told}")


def _numbered(names: Sequence[Hashable]) -> NDArray[np.intp]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)


def _deviations(values: NDArray[np.float64], classes: NDArray[np.intp]) -> tuple[float, float]:
    sizes = np.bincount(classes)
    means = np.bincount(classes, values) / sizes
    within = float(np.sqrt(np.mean((values - means[classes]) ** 2)))
    between = float(np.sqrt(np.average((means - values.mean()) ** 2, weights=sizes)))
    return within, between


def _log_arrangements(classes: NDArray[np.intp], strata: NDArray[np.intp]) -> float:
    """Logarithm of the number of different ways to arrange the labels within the strata."""
    total = 0.0
    for stratum in np.unique(strata):
        sizes = np.bincount(classes[strata == stratum])
        total += math.lgamma(sizes.sum() + 1) - sum(math.lgamma(size + 1) for size in sizes)
    return total


def _permutation_p(
    values: NDArray[np.float64],
    classes: NDArray[np.intp],
    strata: NDArray[np.intp],
    permutations: int,
    rng: np.random.Generator,
) -> float:
    centred = values - (np.bincount(strata, values) / np.bincount(strata))[strata]
    member = (classes[:, None] == np.arange(classes.max() + 1)).astype(np.float64)
    sizes = member.sum(axis=0)
    seen = float(np.sum((centred @ member) ** 2 / sizes))
    # Sums of the same numbers in another order differ by rounding, and ties count.
    threshold = seen - 1e-9 * float(np.sum(centred**2))
    order = np.argsort(strata, kind="stable")
    by_stratum, sorted_strata = centred[order], strata[order]
    at_least = 1
    for start in range(0, permutations, _BLOCK):
        count = min(_BLOCK, permutations - start)
        keys = sorted_strata + rng.random((count, len(values)))
        shuffled = by_stratum[np.argsort(keys, axis=1)]
        at_least += int(np.count_nonzero(((shuffled @ member[order]) ** 2 / sizes).sum(axis=1) >= threshold))
    return at_least / (permutations + 1)
