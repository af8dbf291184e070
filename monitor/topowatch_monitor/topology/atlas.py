"""A fitted group as a read-only artefact: enough to place a path that is still being walked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.csgraph import dijkstra

from topowatch_monitor.topology.territory import COINCIDING, TERMINAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from topowatch_monitor.topology.cocycles import Cocycle
    from topowatch_monitor.topology.projection import Projection
    from topowatch_monitor.topology.territory import Territory


@dataclass(frozen=True)
class Atlas:
    """Landmarks, cocycles of the bars that count, and where the members of each class have been.

    Lengths are in diagonals of the group's bounding box, `unit` of the points' own. B bars, V vertices.

    Attributes:
        projection: from points to coordinates.
        unit: length of that diagonal.
        relative: whether the ends are one point, vertex 0.
        landmarks: V × k.
        ends: n × k, coordinates of the members' ends.
        distances: V × V, float32.
        cover: cover radius of the landmarks.
        scale: longest edge of a walk.
        values: B × V × V, int16: what an edge counts on a bar.
        deaths: B; edges as long as that count nothing on a bar.
        moduli: B; 0, or the prime modulo which a bar counts.
        bar_p_values: B.
        closing: V × B, along a shortest walk from the reference start to a vertex.
        visits: rows (label, vertex, count on each bar so far) of every member, without repetition.
        labels: the classes, ascending; the first is the largest.
        majority: the label that 60 % of the members share; −1 if none.
    """

    projection: Projection
    unit: float
    relative: bool
    landmarks: NDArray[np.float64]
    ends: NDArray[np.float64]
    distances: NDArray[np.float32]
    cover: float
    scale: float
    values: NDArray[np.int16]
    deaths: NDArray[np.float64]
    moduli: NDArray[np.int64]
    bar_p_values: NDArray[np.float64]
    closing: NDArray[np.int64]
    visits: NDArray[np.int64]
    labels: NDArray[np.intp]
    majority: int

    def fold(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts on the bars, … × B, as integers or between −p/2 and p/2 where only ℤ/p holds."""
        modulus = np.maximum(self.moduli, 1)
        folded = (counts + modulus // 2) % modulus - modulus // 2
        return np.where(self.moduli > 0, folded, counts)

    def vertex(self, coordinates: NDArray[np.float64]) -> tuple[int, float]:
        """The nearest vertex to a place, k, and its distance."""
        first = int(self.relative)
        away = np.linalg.norm(self.landmarks[first:] - coordinates, axis=1)
        nearest = int(away.argmin())
        distance = float(away[nearest])
        if self.relative:
            to_end = float(np.linalg.norm(self.ends - coordinates, axis=1).min())
            if to_end < distance:
                return TERMINAL, to_end
        return nearest + first, distance

    def count(self, start: int, stop: int) -> NDArray[np.int64]:
        """What the walk from one vertex to another counts on each bar: along the edge, or round by short edges."""
        length = self.distances[start, stop]
        if length <= self.scale:
            return self.values[:, start, stop].astype(np.int64)
        graph = np.where(self.distances <= np.float32(self.scale), _positive(self.distances), 0.0)
        _, before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
        walk = [stop]
        while walk[-1] != start:
            walk.append(int(before[walk[-1]]))
        return self.integral(np.array(walk[::-1], dtype=np.intp))

    def integral(self, walk: NDArray[np.intp]) -> NDArray[np.int64]:
        """What a walk over neighbouring vertices counts on each bar; additive, and reversed with its direction."""
        counts: NDArray[np.int64] = self.values[:, walk[:-1], walk[1:]].sum(axis=1, dtype=np.int64)
        return counts


def closings(territory: Territory, cocycles: Sequence[Cocycle], start: int) -> NDArray[np.int64]:
    """What shortest walks from the vertex `start` to every vertex count on each cocycle: V × B."""
    distances = territory.distances
    graph = np.where(distances <= np.float32(territory.scale), _positive(distances), 0.0)
    reached, before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    counts = np.zeros((len(distances), len(cocycles)), dtype=np.int64)
    for vertex in np.argsort(reached, kind="stable"):
        last = before[vertex]
        if last >= 0:
            counts[vertex] = counts[last] + [cocycle.values[last, vertex] for cocycle in cocycles]
    return counts


def visited(territory: Territory, counts: NDArray[np.int64], labels: NDArray[np.intp]) -> NDArray[np.int64]:
    """Rows (label, vertex, counts so far) of all walks, each once.

    Args:
        territory: with its walks.
        counts: of the closed walks up to each of their vertices, N × B.
        labels: of the walks.
    """
    owner = np.repeat(np.arange(len(labels)), np.diff(territory.offsets))
    rows = np.column_stack([labels[owner], territory.walks, counts]).astype(np.int64)
    code = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        code = code * (int(column.max()) - int(column.min()) + 1) + (column - column.min())
        _, code = np.unique(code, return_inverse=True)  # small numbers again, so that nothing overflows
    _, first = np.unique(code, return_index=True)
    return rows[first]


def _positive(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances without zeros, which scipy's graphs take for missing edges; the diagonal stays zero."""
    positive = np.maximum(distances, COINCIDING)
    np.fill_diagonal(positive, 0.0)
    return positive
