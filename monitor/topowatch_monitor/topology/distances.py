"""Euclidean distances by direct differences: exact where points differ by 1e-7 of their norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Numbers of a block of differences: 256 KiB of float32 stay in a core's second-level cache.
_BLOCK = 1 << 16
# Squares of float32 leave its range outside these bounds; such rows are taken again in float64.
_SMALLEST, _LARGEST = np.float32(1e-30), np.float32(1e37)


def distance_row(points: NDArray[np.float32], point: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances of `point` to every row of `points`, to about 1e-6 of each distance.

    ‖x‖² + ‖y‖² − 2⟨x, y⟩ would be faster and is not used: consecutive weights of a training job differ by so little
    that the terms cancel to nothing.

    Args:
        points: n × d, float32, finite.
        point: d, float32, finite.

    Returns:
        n distances, float32.
    """
    count, dimension = points.shape
    squares = np.empty(count, dtype=np.float32)
    rows = max(1, min(count, _BLOCK // max(1, dimension)))
    block = np.empty((rows, dimension), dtype=np.float32)
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, count, rows):
            chunk = points[start : start + rows]
            part = block[: len(chunk)]
            np.subtract(chunk, point, out=part)
            # One BLAS dot product a row: faster than einsum, and its many partial sums keep float32 accurate.
            np.matmul(part[:, None, :], part[:, :, None], out=squares[start : start + rows, None, None])
    outside = np.flatnonzero(~((squares > _SMALLEST) & (squares < _LARGEST)))
    distances = np.sqrt(squares)
    if len(outside):
        differences = points[outside].astype(np.float64) - point.astype(np.float64)
        distances[outside] = np.sqrt(np.einsum("ij,ij->i", differences, differences))
    return distances
