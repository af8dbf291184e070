"""The territory that a group of paths covers: landmarks of it, and every path as a walk from landmark to landmark.

Runs end in different places, so all ends are made one point, the terminal vertex: distances are those of the quotient,
min(d(x, y), d(x, A) + d(y, A)) with A the set of ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from topowatch_monitor.topology.projection import Projection, fit_projection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Straight lines between samples are filled with points this close, in diagonals of the bounding box: some tenth of the
# spacing of 400 landmarks, so that a walk makes no jump.
SPACING = 1 / 400
# Paths that are all noise are filled more coarsely, up to this many points.
MAX_FILLED = 400_000
# How close siblings run: three quarters of the landmarks have another path within that distance.
SIBLINGS_QUANTILE = 0.75
TERMINAL = 0
# Vertices that coincide are connected, but what is below 1e-8 is no edge to scipy's graphs.
COINCIDING = np.float32(1e-7)
# Equal points differ by this share of their size at most, once a mean is taken off them and they are reduced.
ROUNDING = 1e-13


@dataclass(frozen=True)
class Territory:
    """Landmarks of a group of paths. Lengths are in diagonals of the paths' bounding box (`unit`).

    Attributes:
        projection: to the k coordinates.
        unit: length of that diagonal, in the unit of the points.
        relative: whether the ends are one point; vertex 0 stands for it then, and no landmark has that number.
        landmarks: V × k, the coordinates of the vertices (of the terminal one: some end).
        ends: coordinates of the paths' ends, n × k.
        distances: V × V, float32, in the quotient.
        cover: largest distance of a point of a path to its nearest vertex.
        siblings: distance within which three quarters of the landmarks have a point of another path.
        walks: vertices of all walks, one after the other, none twice in a row.
        offsets: walk i is walks[offsets[i]:offsets[i + 1]].
        scale: longest edge that a walk needs, and that keeps the landmarks connected.
    """

    projection: Projection
    unit: float
    relative: bool
    landmarks: NDArray[np.float64]
    ends: NDArray[np.float64]
    distances: NDArray[np.float32]
    cover: float
    siblings: float
    walks: NDArray[np.intp]
    offsets: NDArray[np.intp]
    scale: float


def survey(paths: Sequence[NDArray[np.float64]], *, landmarks: int, dims: int, relative: bool) -> Territory | None:
    """Reduce the paths, fill them to polylines, pick maxmin landmarks and walk each path over them.

    Args:
        paths: T × d each, finite, T ≥ 1.
        landmarks: the most vertices, at least 3.
        dims: coordinates to keep.
        relative: whether to make the ends one point.

    Returns:
        The territory; None where all points are equal, up to rounding.

    Raises:
        ValueError: as `fit_projection`.
    """
    projection = fit_projection(paths, dims)
    points = np.concatenate([projection.reduce(path) for path in paths])
    unit = float(np.linalg.norm(points.max(axis=0) - points.min(axis=0)))
    if not unit > ROUNDING * float(np.linalg.norm(projection.mean)):
        return None
    points /= unit
    counts = np.array([len(path) for path in paths])
    filled, owner = fill(points, np.repeat(np.arange(len(paths)), counts))
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    last = np.append(first[1:], len(owner)) - 1
    ends = filled[last]
    cells, cell_of = _cells(filled)
    places, owners = filled[cells], owner[cells]
    shared = np.zeros(len(cells), dtype=np.bool_)
    shared[cell_of[owner != owners[cell_of]]] = True
    to_end = cKDTree(ends).query(places)[0] if relative else np.full(len(places), np.inf)
    starts = filled[first]
    middle = int(cell_of[first[np.argmin(np.linalg.norm(starts - starts.mean(axis=0), axis=1))]])
    picked, cover, spacing = _maxmin(places, to_end, owners, shared, first=middle, count=landmarks - relative)
    to_landmark, nearest = cKDTree(places[picked]).query(places)
    vertices = places[picked]
    distances = cdist(vertices, vertices)
    if relative:
        a = to_end[picked]
        distances = np.minimum(distances, a[:, None] + a[None, :])
        distances = np.block([[np.zeros((1, 1)), a[None, :]], [a[:, None], distances]])
        vertices = np.concatenate([ends[:1], vertices])
        nearest = np.where(to_end < to_landmark, TERMINAL, nearest + 1)
    np.fill_diagonal(distances, 0.0)
    single = distances.astype(np.float32)
    steps = nearest[cell_of]
    if relative:
        steps[last] = TERMINAL
    walks, offsets = _without_pauses(steps, owner)
    return Territory(
        projection=projection,
        unit=unit,
        relative=relative,
        landmarks=vertices,
        ends=ends,
        distances=single,
        cover=cover,
        siblings=spacing,
        walks=walks,
        offsets=offsets,
        scale=_scale(single, walks, offsets),
    )


def fill(points: NDArray[np.float64], owner: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Put points on the straight lines between consecutive points of a path, SPACING apart.

    Args:
        points: n × k, path after path, in diagonals of their box.
        owner: n, the path of each.

    Returns:
        The points, those given among them, and their paths.
    """
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    steps[np.diff(owner) != 0] = 0.0
    spacing = max(SPACING, float(steps.sum()) / MAX_FILLED)
    pieces = np.append(np.maximum(1, np.ceil(steps / spacing).astype(np.intp)), 1)
    if len(points) == pieces.sum():
        return points, owner
    before = np.repeat(np.arange(len(points)), pieces)
    piece = np.arange(len(before)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    share = (piece / pieces[before])[:, None]
    after = np.minimum(before + 1, len(points) - 1)
    return points[before] * (1.0 - share) + points[after] * share, owner[before]


def _cells(points: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """One point of each occupied grid cell, and the cell of each point: what is closer together is not told apart."""
    grid = np.floor((points - points.min(axis=0)) / SPACING).astype(np.int64)
    key, count = np.zeros(len(grid), dtype=np.int64), 1
    for axis in grid.T:
        size = int(axis.max()) + 1
        if count * size >= 1 << 62:
            different, key = np.unique(key, return_inverse=True)  # small numbers again, so that nothing overflows
            count = len(different)
        key = key * size + axis
        count *= size
    _, index, inverse = np.unique(key, return_index=True, return_inverse=True)
    return index, inverse


def _maxmin(
    places: NDArray[np.float64],
    to_end: NDArray[np.float64],
    owner: NDArray[np.intp],
    shared: NDArray[np.bool_],
    *,
    first: int,
    count: int,
) -> tuple[NDArray[np.intp], float, float]:
    """Pick landmarks by maxmin in the quotient; also the cover radius and how close siblings run.

    Args:
        places: n × k.
        to_end: n, distances to the nearest end, infinite where ends are not made one.
        owner: n, a path through each place.
        shared: n, whether another path goes through it as well.
        first: the first landmark.
        count: the most landmarks.
    """
    columns = np.ascontiguousarray(places.T.astype(np.float32))
    ends = to_end.astype(np.float32)
    nearest = ends.copy()  # the terminal vertex is there from the beginning
    picked: list[int] = []
    siblings: list[float] = []
    while True:
        picked.append(first)
        away = np.zeros(len(ends), dtype=np.float32)
        for column in columns:
            away += np.square(column - column[first])
        np.sqrt(away, out=away)
        siblings.append(float(np.min(away, where=shared | (owner != owner[first]), initial=np.inf)))
        np.minimum(nearest, away, out=nearest)
        first = int(nearest.argmax())
        if len(picked) >= count or not nearest[first] > 0:
            spacing = float(np.quantile(siblings, SIBLINGS_QUANTILE, method="higher"))
            return np.array(picked, dtype=np.intp), float(nearest[first]), spacing


def _without_pauses(steps: NDArray[np.intp], owner: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    moves = np.ones(len(steps), dtype=np.bool_)
    moves[1:] = (steps[1:] != steps[:-1]) | (owner[1:] != owner[:-1])
    kept = owner[moves]
    starts = np.flatnonzero(np.diff(kept, prepend=-1))
    return steps[moves], np.append(starts, len(kept)).astype(np.intp)


def _scale(distances: NDArray[np.float32], walks: NDArray[np.intp], offsets: NDArray[np.intp]) -> float:
    within = np.ones(len(walks), dtype=np.bool_)
    within[offsets[:-1]] = False
    here = np.flatnonzero(within)
    longest = distances[walks[here - 1], walks[here]].max(initial=0.0)
    graph = np.maximum(distances, COINCIDING)
    return float(max(longest, minimum_spanning_tree(graph).data.max(initial=0.0)))
