"""A path that is still being walked, placed on the atlas of its siblings one point at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.topology.path_classes import MAX_COORDINATE
from topowatch_monitor.topology.territory import SPACING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from topowatch_monitor.topology.atlas import Atlas

# A member is near, and a point is on the map, within this many cover radii.
NEAR = 2.0
# Places looked at on the way from one point to the next; as many lie on a diagonal of the territory.
MAX_PLACES = round(1 / SPACING)


class PathTracker:
    """Follows one path over an atlas; every new point costs one row of distances to the landmarks.

    Args:
        atlas: of the group.
    """

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._place: NDArray[np.float64] | None = None
        self._vertex = -1
        self._counts = np.zeros(len(atlas.values), dtype=np.int64)
        self._away = 0.0
        self._near: NDArray[np.intp] = np.empty(0, dtype=np.intp)

    @property
    def signature(self) -> NDArray[np.int64]:
        """How often the path so far goes round each bar that counts, from the reference start to its present vertex."""
        return self._atlas.fold(self._counts)

    @property
    def distance(self) -> float:
        """Distance of the present point to the map, in the unit of the points; 0 on the map."""
        return self._away * self._atlas.unit

    def add(self, point: ArrayLike) -> NDArray[np.int64]:
        """Go on to the next point, along a straight line; return the signature.

        Args:
            point: d finite numbers up to MAX_COORDINATE, as given to `classify_paths`.

        Raises:
            ValueError: it is no such point; the path stays where it was.
        """
        atlas = self._atlas
        vector = np.asarray(point, dtype=np.float64)
        if vector.shape != atlas.projection.mean.shape or not (np.abs(vector) <= MAX_COORDINATE).all():
            raise ValueError(
                f"a point has {len(atlas.projection.mean)} finite numbers up to {MAX_COORDINATE:g}, this one has not"
            )
        place = atlas.projection.reduce(vector[None])[0] / atlas.unit
        away = self._walk_to(place)
        self._place = place
        off = float(atlas.projection.residuals(vector[None])[0])
        usual = NEAR * atlas.projection.residual
        beside = 0.0 if off <= usual or not usual else (off - usual) / atlas.unit
        self._away = float(np.hypot(max(0.0, away - NEAR * atlas.cover), beside))
        to_landmarks = np.linalg.norm(atlas.landmarks - place, axis=1)
        near = to_landmarks <= NEAR * atlas.cover
        if atlas.relative:
            near[0] = bool((np.linalg.norm(atlas.ends - place, axis=1) <= NEAR * atlas.cover).any())
        near[self._vertex] = True
        self._near = np.flatnonzero(near)
        return self.signature

    def compatible(self) -> frozenset[int]:
        """Labels of the classes that the path may still belong to; none if it is off the map."""
        if self._away > 0 or self._place is None:
            return frozenset()
        agreeing = (self._loops() == 0).all(axis=1)
        return frozenset(self._members()[agreeing, 0].tolist())

    @property
    def p_value(self) -> float:
        """Smallest p-value of the bars that part the path from the majority; 1 if none does, or nothing is known."""
        atlas = self._atlas
        if self._away > 0 or self._place is None or atlas.majority < 0 or not len(atlas.values):
            return 1.0
        loops = self._loops()[self._members()[:, 0] == atlas.majority]
        if not len(loops):
            return 1.0
        return float(np.where(loops != 0, atlas.bar_p_values, 1.0).min(axis=1).max())

    def _walk_to(self, there: NDArray[np.float64]) -> float:
        """Add up the edges on the straight line; return how far its end is from the nearest vertex."""
        atlas = self._atlas
        here = there if self._place is None else self._place
        pieces = int(np.clip(np.ceil(np.linalg.norm(there - here) / SPACING), 1, MAX_PLACES))
        vertices, away = atlas.nearest(here + (np.arange(1, pieces + 1) / pieces)[:, None] * (there - here))
        for vertex in vertices.tolist():
            if self._vertex < 0:
                self._counts = self._counts + atlas.closing[vertex]
            elif vertex != self._vertex:
                self._counts = self._counts + atlas.count(self._vertex, vertex)
            self._vertex = vertex
        return float(away[-1])

    def _members(self) -> NDArray[np.int64]:
        """Visits of members to the vertices near the present point."""
        return self._atlas.visits[np.isin(self._atlas.visits[:, 1], self._near)]

    def _loops(self) -> NDArray[np.int64]:
        """The loops along the path, over to each of these visits, and back along the member: N × B."""
        atlas, members = self._atlas, self._members()
        over = atlas.values[:, self._vertex, members[:, 1]].T.astype(np.int64)
        return atlas.fold(self._counts + over - members[:, 2:])
