"""Paths in a space of very few dimensions, each path with the same say in where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Beyond it the covariance takes over 128 MiB.
MAX_DIMENSION = 4096
# Points further off the reduced space than this share of all are no measure of how far off is usual.
USUAL = 0.99


@dataclass(frozen=True)
class Projection:
    """An affine map to k ≤ d coordinates.

    Attributes:
        mean: d, what maps to zero.
        axes: d × k, orthonormal columns.
        explained: share of the paths' variance that the k coordinates hold, 0 to 1.
        residual: distance to the reduced space that 99 % of the paths' points keep.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    explained: float
    residual: float

    def reduce(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The coordinates, n × k, of points, n × d."""
        reduced: NDArray[np.float64] = (points - self.mean) @ self.axes
        return reduced

    def residuals(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The distances of points, n × d, to the reduced space."""
        if self.axes.shape[0] == self.axes.shape[1]:
            return np.zeros(len(points))
        centred = points - self.mean
        reduced = centred @ self.axes
        squares = np.einsum("ij,ij->i", centred, centred) - np.einsum("ij,ij->i", reduced, reduced)
        distances: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0.0))
        return distances


def fit_projection(paths: Sequence[NDArray[np.float64]], dims: int) -> Projection:
    """Principal components of all paths as curves: a path weighs 1, spread over its length, however it was sampled.

    Args:
        paths: T × d each, finite; T may differ.
        dims: coordinates to keep; all d where d is no more, and nothing is rotated then.

    Raises:
        ValueError: d is above both `dims` and MAX_DIMENSION.
    """
    dimension = paths[0].shape[1]
    weights = [_curve_weights(path) / len(paths) for path in paths]
    mean = np.sum([weight @ path for weight, path in zip(weights, paths, strict=True)], axis=0)
    if dimension <= dims:
        return Projection(mean, np.eye(dimension), 1.0, 0.0)
    if dimension > MAX_DIMENSION:
        raise ValueError(f"points have at most {MAX_DIMENSION} numbers, not {dimension}: sketch or project them first")
    covariance = np.zeros((dimension, dimension))
    for weight, path in zip(weights, paths, strict=True):
        rows = (path - mean) * np.sqrt(weight)[:, None]
        covariance += rows.T @ rows
    values, vectors = scipy.linalg.eigh(covariance, subset_by_index=(dimension - dims, dimension - 1))
    total = float(np.trace(covariance))
    explained = float(values.sum()) / total if total > 0 else 1.0
    fitted = Projection(mean, np.ascontiguousarray(vectors[:, ::-1]), min(1.0, explained), 0.0)
    residual = float(np.quantile(np.concatenate([fitted.residuals(path) for path in paths]), USUAL))
    return Projection(fitted.mean, fitted.axes, fitted.explained, residual)


def _curve_weights(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the length of the two segments at each point, summing to 1; equal where the path does not move."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    total = steps.sum()
    if not total > 0:
        return np.full(len(path), 1.0 / len(path))
    weights = np.zeros(len(path))
    weights[:-1] += steps
    weights[1:] += steps
    shares: NDArray[np.float64] = weights / (2.0 * total)
    return shares
