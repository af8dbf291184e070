"""A fitted group as a read-only artefact: enough to place a path that is still being walked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import cdist

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

    def nearest(self, places: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The nearest vertex to each of n × k places, and its distance."""
        first = int(self.relative)
        away = cdist(places, self.landmarks[first:])
        vertices = away.argmin(axis=1)
        distances = away[np.arange(len(places)), vertices]
        vertices = vertices + first
        if self.relative:
            to_end = cdist(places, self.ends).min(axis=1)
            vertices = np.where(to_end < distances, TERMINAL, vertices)
            distances = np.minimum(distances, to_end)
        return vertices, distances

    def count(self, start: int, stop: int) -> NDArray[np.int64]:
        """What the walk from one vertex to another counts on each bar: along the edge, or round by short edges."""
        if self.distances[start, stop] <= self.scale:
            return self.values[:, start, stop].astype(np.int64)
        _, before = dijkstra(self._short_edges, directed=False, indices=start, return_predecessors=True)
        walk = [stop]
        while walk[-1] != start:
            walk.append(int(before[walk[-1]]))
        return self.integral(np.array(walk[::-1], dtype=np.intp))

    @cached_property
    def _short_edges(self) -> csr_matrix:
        """Edges that a walk may take; made once, as a path that jumps about needs them again and again."""
        return csr_matrix(_short(self.distances, self.scale))

    def integral(self, walk: NDArray[np.intp]) -> NDArray[np.int64]:
        """What a walk over neighbouring vertices counts on each bar; additive, and reversed with its direction."""
        counts: NDArray[np.int64] = self.values[:, walk[:-1], walk[1:]].sum(axis=1, dtype=np.int64)
        return counts


def closings(territory: Territory, cocycles: Sequence[Cocycle], start: int) -> NDArray[np.int64]:
    """What shortest walks from the vertex `start` to every vertex count on each cocycle: V × B."""
    distances = territory.distances
    graph = _short(distances, territory.scale)
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


def _short(distances: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Edges up to a length, V × V; none is zero, which scipy's graphs take for a missing one, but on the diagonal."""
    short = np.where(distances <= np.float32(scale), np.maximum(distances, COINCIDING), np.float32(0.0))
    np.fill_diagonal(short, 0.0)
    return short
