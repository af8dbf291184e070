"""Gaussian-process regression with exact leave-out predictions, their jackknife+ intervals, and a sense of support.

To leave a block of runs B out needs no second fit: with A = (K + σ²I)⁻¹ and α = A·y its residuals are r_B = A_BB⁻¹·α_B,
and what the others forecast at x is μ(x) − (k(x)ᵀA)_B·r_B (Rasmussen and Williams, "Gaussian Processes for Machine
Learning", 2006, 5.4.2, for blocks of one). So the jackknife+ (Barber, Candès, Ramdas and Tibshirani, Annals of
Statistics 49, 2021) costs one product of a matrix and a vector. Residuals are divided by the deviation that the process
expects: intervals are wider where it knows less. The kernel's few parameters are found with all runs present, so what
is told of runs that were left out is better than of new ones: much of 12 runs, hardly of 24 (measured).
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.linalg import cho_solve

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.gaussian_process import GaussianProcessRegressor

# Runs that are learned from, at most: the time of a fit grows with their cube, and is 0.1 s for 100 (measured).
MOST_RUNS = 120
# By how much intervals are widened, over the number of runs: that of residuals which know the kernel already.
SMALL = 3.0
# Rounding may leave a variance a little below zero.
_LEAST_VARIANCE = 1e-12


class Prediction(NamedTuple):
    """What is forecast of one run, in the unit of the target.

    Attributes:
        value: the mean of the process.
        lower, upper: of the jackknife+ interval; infinite with fewer runs than its level needs.
        strangeness: how little the runs that were learned from say of this one: the variance of the process there over
            the largest that any of them had when it was left out. Above 1 it lies outside their support.
    """

    value: float
    lower: float
    upper: float
    strangeness: float


class Regressor:
    """A fitted process; read-only and small: an n × n matrix and a few vectors for n runs.

    Args:
        process: as fitted by scikit-learn on standardised rows and targets.
        mean, scale: of the targets, in their own unit.
        blocks: n numbers, the same of runs that are left out together: each by itself, or all of a group.

    Attributes:
        targets: n numbers, in their own unit.
    """

    def __init__(
        self, process: GaussianProcessRegressor, mean: float, scale: float, blocks: NDArray[np.integer[Any]]
    ) -> None:
        self._rows: NDArray[np.float64] = process.X_train_
        self._kernel = process.kernel_
        self._mean, self._scale = mean, scale
        self._inverse: NDArray[np.float64] = cho_solve((process.L_, True), np.eye(len(self._rows)))
        self._weights: NDArray[np.float64] = process.alpha_
        self._blocks = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
        self._residuals, variances = np.empty(len(self._rows)), np.empty(len(self._rows))
        for block in self._blocks:
            covariance = np.linalg.inv(self._inverse[np.ix_(block, block)])
            self._residuals[block] = covariance @ self._weights[block]
            variances[block] = np.diag(covariance)
        self._noise = float(process.kernel_.k2.noise_level)
        self._deviations = np.sqrt(variances)
        self._widest = float(max((variances - self._noise).max(), _LEAST_VARIANCE))
        self.targets = mean + scale * process.y_train_

    @property
    def left_out(self) -> NDArray[np.float64]:
        """What the runs outside its block forecast of each run, n numbers in the unit of the target."""
        found: NDArray[np.float64] = self.targets - self._residuals * self._scale
        return found

    @property
    def strangeness_left_out(self) -> NDArray[np.float64]:
        """`Prediction.strangeness` of each run when it was left out; at most 1."""
        found: NDArray[np.float64] = np.maximum(self._deviations**2 - self._noise, 0.0) / self._widest
        return found

    def values(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of the process for m × F standardised features, m numbers in the unit of the target."""
        found: NDArray[np.float64] = self._mean + self._scale * (self._kernel(rows, self._rows) @ self._weights)
        return found

    def predict(self, row: NDArray[np.float64], level: float = 0.9) -> Prediction:
        """Forecast one run.

        Args:
            row: its standardised features.
            level: of the interval, between 0 and 1.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # of a run that is beyond all measure; it is strange
            covariance = self._kernel(row[None], self._rows)[0]
            reduced = covariance @ self._inverse
            value = float(covariance @ self._weights)
            latent = float(self._kernel.diag(row[None])[0]) - self._noise - float(reduced @ covariance)
            deviation = math.sqrt(max(latent, 0.0) + self._noise)
            without = np.empty(len(self._rows))
            for block in self._blocks:
                without[block] = value - float(reduced[block] @ self._residuals[block])
            reach = (1 + SMALL / len(self._rows)) * np.abs(self._residuals) / self._deviations * deviation
            lower, upper = jackknife_plus(without, reach, level)
        return Prediction(
            self._mean + self._scale * value,
            self._mean + self._scale * lower,
            self._mean + self._scale * upper,
            max(latent, 0.0) / self._widest,
        )


def jackknife_plus(without: NDArray[np.float64], reach: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return the jackknife+ interval: at least 2·level − 1 of exchangeable cases lie within, as a rule `level` of them.

    Args:
        without: what is forecast with each of the n runs left out.
        reach: how far off the forecast of that run was, itself left out.
        level: between 0 and 1.

    Returns:
        Lower and upper end; infinite where n is too small for the level, below 1 / (1 − level) − 1.
    """
    count = len(without)
    place = math.floor((1 - level) * (count + 1) + 1e-9)
    if place < 1:
        return -math.inf, math.inf
    return float(np.sort(without - reach)[place - 1]), float(np.sort(without + reach)[count - place])


def all_same(values: NDArray[np.float64]) -> bool:
    """Whether finite numbers differ by no more than rounding."""
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def fit(
    rows: NDArray[np.float64], targets: NDArray[np.float64], blocks: NDArray[np.integer[Any]] | None = None
) -> Regressor:
    """Learn from finished runs.

    Args:
        rows: n × F standardised features, finite; n at least 2.
        targets: n finite numbers that are not all the same.
        blocks: see `Regressor`; None: each run by itself.

    Raises:
        ValueError: shapes differ, something is not finite, or the targets are all the same.
    """
    if rows.ndim != 2 or len(rows) != len(targets) or len(targets) < 2:
        raise ValueError(
            f"a row of features a target is needed, of two runs at least, not {rows.shape}, {len(targets)}"
        )
    if not (np.isfinite(rows).all() and np.isfinite(targets).all()):
        raise ValueError("features and targets have to be finite")
    if all_same(targets):
        raise ValueError("the targets are all the same")
    width = math.sqrt(rows.shape[1])
    # Imported here: it takes a second, for which a shard that starts need not wait.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    smooth = ConstantKernel(1.0, (1e-3, 1e3)) * RBF(width, (0.2 * width, 20.0 * width))
    straight = ConstantKernel(1.0 / rows.shape[1], (1e-6, 1e2)) * DotProduct(1.0, sigma_0_bounds="fixed")
    process = GaussianProcessRegressor(smooth + straight + WhiteKernel(0.1, (1e-4, 2.0)))
    mean, scale = float(targets.mean()), float(targets.std())
    with warnings.catch_warnings():  # a parameter at its bound is an answer too
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(rows, (targets - mean) / scale)
    return Regressor(process, mean, scale, np.arange(len(targets)) if blocks is None else blocks)
