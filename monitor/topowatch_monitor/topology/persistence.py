"""Landmarks, persistent H₁ of point clouds, and sublevel persistence of grids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.topology.distances import distance_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

# H₁ of 300 landmarks takes 0.03 to 0.15 s on one core (measured); the cost grows with the cube.
MAX_LANDMARKS = 300
# Maxmin over this many points takes about 2 s for 300 landmarks in 1,021 dimensions.
MAX_POINTS = 20_000
MAX_PIXELS = 512 * 512


def maxmin_landmarks(points: ArrayLike, m: int, *, precomputed: bool = False) -> tuple[NDArray[np.intp], float]:
    """Pick landmarks far apart: each is the point farthest from those before it, the first is point 0.

    Stops early when the landmarks cover every point, so duplicates are never picked.

    Args:
        points: n × d finite numbers, or an n × n distance matrix if `precomputed`.
        m: the most landmarks.
        precomputed: whether `points` is a distance matrix.

    Returns:
        The indices of at most m landmarks, in the order in which they were picked, and the cover radius: the largest
        distance of a point to its nearest landmark, in the unit of the distances.

    Raises:
        ValueError: `points` is not a finite matrix (square if `precomputed`), or has more than MAX_POINTS rows.
    """
    cloud = _cloud(points, precomputed=precomputed)
    if not len(cloud) or m < 1:
        return np.empty(0, dtype=np.intp), 0.0
    return maxmin_by_rows(cloud.__getitem__ if precomputed else lambda index: distance_row(cloud, cloud[index]), m)[:2]


def maxmin_by_rows(
    row: Callable[[int], NDArray[np.float32]], m: int
) -> tuple[NDArray[np.intp], float, NDArray[np.float32]]:
    """Pick landmarks as `maxmin_landmarks` does, looking only at the distances of those picked.

    Args:
        row: the distances of a point, by index, to all points; there is at least one.
        m: the most landmarks, at least one.

    Returns:
        The indices, the cover radius, and the distances between the landmarks.
    """
    picked, rows = [0], [row(0)]
    nearest = rows[0].copy()
    while True:
        farthest = int(nearest.argmax())
        radius = float(nearest[farthest])
        if len(picked) == m or radius == 0:
            indices = np.array(picked, dtype=np.intp)
            return indices, radius, np.stack(rows)[:, indices]
        picked.append(farthest)
        rows.append(row(farthest))
        np.minimum(nearest, rows[-1], out=nearest)


def h1_diagram(
    points: ArrayLike, landmarks: int = MAX_LANDMARKS, *, precomputed: bool = False
) -> tuple[NDArray[np.float64], float]:
    """Persistent H₁ of the Vietoris–Rips filtration on maxmin landmarks, over ℤ/2, by giotto-ph.

    Every birth and death is within twice the cover radius of the diagram of all points (in bottleneck distance).

    Args:
        points: n × d finite numbers, or an n × n distance matrix if `precomputed`.
        landmarks: the most landmarks, up to MAX_LANDMARKS.
        precomputed: whether `points` is a distance matrix.

    Returns:
        The diagram, bars × (birth, death), in the unit of the distances; and the cover radius (0 where every distinct
        point is a landmark).

    Raises:
        ValueError: as for `maxmin_landmarks`, or more landmarks than MAX_LANDMARKS are asked for.
    """
    check_landmarks(landmarks)
    cloud = _cloud(points, precomputed=precomputed)
    if not len(cloud):
        return np.empty((0, 2)), 0.0
    row = cloud.__getitem__ if precomputed else lambda index: distance_row(cloud, cloud[index])
    _, radius, distances = maxmin_by_rows(row, landmarks)
    return h1_of_distances(distances), radius


def check_landmarks(landmarks: int) -> None:
    """Refuse a number of landmarks that H₁ cannot take; raises ValueError."""
    if not 1 <= landmarks <= MAX_LANDMARKS:
        raise ValueError(f"H₁ takes 1 to {MAX_LANDMARKS} landmarks, not {landmarks}: its cost grows with their cube")


def h1_of_distances(distances: NDArray[np.float32]) -> NDArray[np.float64]:
    """Persistent H₁ of at most MAX_LANDMARKS points, all of them landmarks; see `h1_diagram`.

    Args:
        distances: n × n, symmetric, finite.

    Returns:
        The diagram, bars × (birth, death).
    """
    check_landmarks(max(1, len(distances)))
    if len(distances) < 4:  # a loop that is not filled at once needs four points
        return np.empty((0, 2))
    # Imported here: it brings in scikit-learn, a second that a process without H₁ need not spend.
    from gph import ripser_parallel

    diagram = np.asarray(ripser_parallel(distances, metric="precomputed", maxdim=1, n_threads=1)["dgms"][1])
    bars: NDArray[np.float64] = diagram.reshape(-1, 2).astype(np.float64)
    return bars[bars[:, 1] > bars[:, 0]]


def total_persistence(diagram: ArrayLike, power: float = 1.0) -> float:
    """Sum of (death − birth)^power over the bars that die.

    Args:
        diagram: bars × (birth, death, …); further columns are ignored.
        power: the exponent.
    """
    bars = np.asarray(diagram, dtype=np.float64)
    if not bars.size:
        return 0.0
    finite = bars[np.isfinite(bars[:, 1])]
    return float(np.sum((finite[:, 1] - finite[:, 0]) ** power))


def largest_ratio(diagram: ArrayLike) -> float:
    """Largest death over birth of the bars, bars × (birth, death, …), which no scale changes; 1 without any."""
    bars = np.asarray(diagram, dtype=np.float64)
    positive = bars[(bars[:, 0] > 0) & np.isfinite(bars[:, 1])] if bars.size else bars
    return float((positive[:, 1] / positive[:, 0]).max()) if positive.size else 1.0


def sublevel_persistence(grid: ArrayLike) -> NDArray[np.float64]:
    """Persistence of the sublevel sets of a function on a grid, by giotto-tda's cubical complex.

    Grid points are the vertices; an edge or a square enters with the last of its vertices.

    Args:
        grid: rows × columns numbers, at least one; +inf is a point that no finite level reaches.

    Returns:
        The diagram, bars × (birth, death, dimension), ordered by dimension, birth and death. The essential bar dies at
        inf, and so does what only a point at +inf would end. Bars of length zero are left out.

    Raises:
        ValueError: `grid` is empty, not a matrix, holds NaN or −inf, or has more than MAX_PIXELS entries.
    """
    values = np.asarray(grid, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"a grid is a matrix with at least one entry, not of shape {values.shape}")
    if values.size > MAX_PIXELS:
        raise ValueError(
            f"a grid has at most {MAX_PIXELS} entries, this one has {values.size}: sample it more coarsely"
        )
    if np.isnan(values).any() or np.isneginf(values).any():
        raise ValueError("a grid has no NaN and no −inf")
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.empty((0, 3))
    never = float(np.nextafter(finite.max(), np.inf))
    from gtda.homology import CubicalPersistence  # here for the same reason as giotto-ph

    cells = _cells(np.where(np.isinf(values), never, values))
    cubical = CubicalPersistence(homology_dimensions=(0, 1), reduced_homology=False, infinity_values=np.inf)
    bars: NDArray[np.float64] = np.asarray(cubical.fit_transform(cells[None])[0], dtype=np.float64)
    bars = bars[bars[:, 0] < never]
    bars[bars[:, 1] >= never, 1] = np.inf
    bars = bars[bars[:, 1] > bars[:, 0]]
    ordered: NDArray[np.float64] = bars[np.lexsort((bars[:, 1], bars[:, 0], bars[:, 2]))]
    return ordered


def _cells(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """One pixel for each vertex, edge and square of the grid, with the level at which that cell enters.

    giotto-tda takes pixels for squares and lets them touch at corners. On this finer grid a corner is touched only
    where the cell between is there too, so the union of the pixels has the homology of the complex on the vertices.
    """
    rows, columns = values.shape
    cells = np.empty((2 * rows - 1, 2 * columns - 1))
    cells[::2, ::2] = values
    cells[1::2, ::2] = np.maximum(values[:-1], values[1:])
    cells[:, 1::2] = np.maximum(cells[:, :-1:2], cells[:, 2::2])
    return cells


def _cloud(points: ArrayLike, *, precomputed: bool) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        cloud = np.asarray(points, dtype=np.float32)
    if cloud.ndim != 2 or (precomputed and cloud.shape[0] != cloud.shape[1]):
        wanted = "an n × n distance matrix" if precomputed else "n × d points"
        raise ValueError(f"{wanted} are needed, not an array of shape {cloud.shape}")
    if len(cloud) > MAX_POINTS:
        raise ValueError(f"at most {MAX_POINTS} points, not {len(cloud)}: thin them out first")
    if not np.isfinite(cloud).all():
        raise ValueError("points and distances have to be finite (in float32)")
    return cloud
