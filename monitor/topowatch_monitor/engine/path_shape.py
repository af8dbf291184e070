"""The shape of a path's window: its dimension, its magnitude, and how its loops have moved within it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from topowatch_monitor.topology.betti import betti_drift
from topowatch_monitor.topology.dimension import e_alpha, ph_dimension, positive_magnitude, strided
from topowatch_monitor.topology.persistence import h1_of_distances, maxmin_by_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

# Points of each half of the window from which drift is told: of fewer, loops say nothing.
MIN_HALF = 8


@dataclass(frozen=True)
class PathShape:
    """What is computed of the window now and then; None where nothing can be said.

    Attributes:
        dimension: persistent-homology dimension of strided points, from E₁; see `ph_dimension`.
        dimension_lower: of its interval.
        dimension_upper: of its interval.
        magnitude: positive magnitude of the same points, as an effective number of points; see `positive_magnitude`.
        betti_drift: bottleneck distance of the H₁ diagrams of the window's two halves; see `betti_drift`.
        betti_drift_wasserstein: their 1-Wasserstein distance.
    """

    dimension: float | None = None
    dimension_lower: float | None = None
    dimension_upper: float | None = None
    magnitude: float | None = None
    betti_drift: float | None = None
    betti_drift_wasserstein: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> PathShape:
        """The shape that `state_dict` described."""
        return cls(**state)


UNKNOWN_SHAPE = PathShape()


def shape_of(row: Callable[[int], NDArray[np.float32]], count: int, *, most: int, landmarks: int) -> PathShape:
    """Compute the shape of a window.

    Drift compares the older half of the window with the newer one: two windows that follow each other and share no
    point. So it depends on nothing but the window, and what a rewind takes back leaves no trace in it.

    Args:
        row: the distances of a point, by position, to all points of the window.
        count: points in the window.
        most: points that dimension and magnitude look at, evenly strided.
        landmarks: of each half, for its diagram.
    """
    if count == 0:
        return UNKNOWN_SHAPE
    positions = strided(count, most)
    distances = np.stack([row(position)[positions] for position in positions.tolist()])
    estimate = ph_dimension(distances)
    magnitude = positive_magnitude(distances)
    half = count // 2
    if half < MIN_HALF:
        return PathShape(estimate.value, estimate.lower, estimate.upper, magnitude)
    older = _diagram(row, count - 2 * half, count - half, landmarks)
    newer = _diagram(row, count - half, count, landmarks)
    return PathShape(estimate.value, estimate.lower, estimate.upper, magnitude, *betti_drift(older, newer))


def weighted_sums(lengths: NDArray[np.float64]) -> dict[str, float]:
    """E_α of lifetimes of H₀ by name of α: '0.5', '1', '2'."""
    return {f"{alpha:g}": value for alpha, value in e_alpha(lengths).items()}


def _diagram(row: Callable[[int], NDArray[np.float32]], start: int, stop: int, landmarks: int) -> NDArray[np.float64]:
    """H₁ of the points at start ≤ position < stop."""
    _, _, distances = maxmin_by_rows(lambda position: row(start + position)[start:stop], landmarks)
    return h1_of_distances(distances)
