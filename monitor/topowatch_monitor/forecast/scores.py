"""How good forecasts were, once runs have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Score(NamedTuple):
    """Of the runs of which something was forecast; None where that cannot be told of so few, or of equal results.

    Attributes:
        runs: how many.
        r2: 1 − squared error over that of the mean of the results; below 0 where the mean is better.
        error: mean absolute error, in the unit of the results.
        tau: Kendall's τ_b of forecasts and results.
        coverage: share of the results within their intervals; None without intervals.
    """

    runs: int
    r2: float | None
    error: float | None
    tau: float | None
    coverage: float | None


def score(
    results: ArrayLike, values: ArrayLike, lower: ArrayLike | None = None, upper: ArrayLike | None = None
) -> Score:
    """Score forecasts.

    Args:
        results: n numbers.
        values: n forecasts; pairs that are not finite are left out.
        lower: ends of n intervals.
        upper: the other ends; both or neither.
    """
    true, said = np.asarray(results, dtype=np.float64), np.asarray(values, dtype=np.float64)
    both = np.isfinite(true) & np.isfinite(said)
    coverage = None
    if lower is not None and upper is not None and both.any():
        within = (np.asarray(lower) <= true) & (true <= np.asarray(upper))
        coverage = float(within[both].mean())
    true, said = true[both], said[both]
    if not len(true):
        return Score(0, None, None, None, None)
    error = float(np.abs(true - said).mean())
    if len(true) < 2 or np.ptp(true) == 0:
        return Score(len(true), None, error, None, coverage)
    r2 = 1 - float(((true - said) ** 2).sum() / ((true - true.mean()) ** 2).sum())
    from scipy.stats import kendalltau  # here, for the same reason as the regressor's

    tau = float(kendalltau(true, said).statistic)
    return Score(len(true), r2, error, tau if np.isfinite(tau) else None, coverage)


class Halving(NamedTuple):
    """What it brings to stop the worse half of the runs.

    Attributes:
        saved: share of all steps that were not taken.
        regret: what the best of the finished runs falls short of the best of all, in the unit of the results.
        kept_best: whether the best of all was finished.
    """

    saved: float
    regret: float
    kept_best: bool


def halve(results: ArrayLike, values: ArrayLike, at: float, *, higher_is_better: bool = True) -> Halving:
    """Stop the worse half of the runs, by forecast, after a share of their steps.

    Args:
        results: n finite numbers, what each run would have ended with.
        values: n forecasts; a run without one, NaN, is not stopped before those that have one.
        at: share of the steps, from 0 to 1, after which they are stopped.
        higher_is_better: of results.
    """
    sign = 1.0 if higher_is_better else -1.0
    true, said = sign * np.asarray(results, dtype=np.float64), sign * np.asarray(values, dtype=np.float64)
    order: NDArray[np.intp] = np.argsort(np.where(np.isnan(said), np.inf, said), kind="stable")
    kept = order[len(order) // 2 :]
    best = float(true.max())
    found = float(true[kept].max())
    return Halving((1 - at) * (len(order) // 2) / len(order), best - found, found == best)
