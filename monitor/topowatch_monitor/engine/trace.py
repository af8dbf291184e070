"""A run's whole path in a bounded number of points: what its group is compared by."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import numpy as np

from topowatch_monitor.topology.dimension import strided

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class Trace:
    """Points of a path in the order of their steps, none nearer to the one before it than a gap that grows.

    The first and the newest point are always there. When it is full, the gap doubles, from the smallest distance that
    there is, and the points are thinned again: so it depends on nothing but the points that came and went. What was
    thinned out stays so: after a rewind the newest point is the last one that was kept.

    Args:
        most: points kept, at least 2. 256 of 1,021 numbers take 1 MiB.

    Attributes:
        taken: points that came at the end, since this object was made.
        rewritten: changes anywhere else, since this object was made.
    """

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._gap = 0.0
        self._steps: list[int] = []
        self._points: list[NDArray[np.float32]] = []
        self.taken = 0
        self.rewritten = 0

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> list[int]:
        """Steps of the points, ascending."""
        return list(self._steps)

    @property
    def points(self) -> list[NDArray[np.float32]]:
        """The points, in the order of their steps."""
        return list(self._points)

    @property
    def newest(self) -> NDArray[np.float32]:
        """The point of the latest step; raises IndexError if there is none."""
        return self._points[-1]

    def add(self, step: int, point: NDArray[np.float32]) -> None:
        """Take the point of a step; one of a step that is there, or of another dimension, is left out."""
        if self._points and len(point) != len(self._points[0]):
            return
        place = bisect_left(self._steps, step)
        if place < len(self._steps):
            self._insert(place, step, point)
        else:
            if len(self._points) > 1 and _distance(self._points[-1], self._points[-2]) <= self._gap:
                del self._steps[-1], self._points[-1]  # it was there as the newest only
            self._steps.append(step)
            self._points.append(point)
            self.taken += 1
        while len(self._steps) > self._most:
            gaps = [_distance(first, second) for first, second in zip(self._points, self._points[1:], strict=False)]
            self._gap = max(2.0 * self._gap, min((gap for gap in gaps if gap > 0), default=0.0))
            self._keep(_thinned(self._points, self._gap))

    def discard(self, start: int, stop: int | None = None) -> None:
        """Drop the points with start ≤ step (< stop)."""
        first = bisect_left(self._steps, start)
        last = len(self._steps) if stop is None else bisect_left(self._steps, stop)
        if first >= last:
            return
        del self._steps[first:last], self._points[first:last]
        self.rewritten += 1
        if not self._steps:
            self._gap = 0.0

    def few(self, most: int) -> tuple[list[int], NDArray[np.float32]]:
        """Steps and points, thinned in the same way to at most `most`, 2 or more; the trace keeps its own."""
        thin = Trace(most)
        for step, point in zip(self._steps, self._points, strict=True):
            thin.add(step, point)
        return thin._steps, _stacked(thin._points)

    def strided(self, most: int) -> tuple[list[int], NDArray[np.float32]]:
        """Steps and points, every k-th of them, at most `most`; the first and the newest are among them."""
        positions = sorted({0, *strided(len(self._steps), max(1, most - 1)).tolist()})
        return [self._steps[place] for place in positions], np.stack([self._points[place] for place in positions])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the trace is, as plain numbers and arrays."""
        return {"gap": self._gap, "steps": np.array(self._steps, dtype=np.int64), "points": _stacked(self._points)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], most: int = 256) -> Trace:
        """The trace that `state_dict` described."""
        trace = cls(most)
        trace._gap = state["gap"]
        trace._steps = state["steps"].tolist()
        trace._points = [point.copy() for point in state["points"]]
        return trace

    def _insert(self, place: int, step: int, point: NDArray[np.float32]) -> None:
        """Put a late point in its place, if it has one: as the first, or away from those beside it."""
        if self._steps[place] == step:
            return
        beside = self._points[max(0, place - 1) : place + 1] if place else []
        if all(_distance(point, other) > self._gap for other in beside):
            self._steps.insert(place, step)
            self._points.insert(place, point)
            self.rewritten += 1

    def _keep(self, positions: list[int]) -> None:
        self._steps = [self._steps[position] for position in positions]
        self._points = [self._points[position] for position in positions]


def _thinned(points: list[NDArray[np.float32]], gap: float) -> list[int]:
    """Positions of points that are farther than `gap` from the last one kept; the first and the last are among them."""
    kept = [0]
    for position in range(1, len(points) - 1):
        if _distance(points[position], points[kept[-1]]) > gap:
            kept.append(position)
    return [*kept, len(points) - 1]


def _distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    # In float64: of points as long as a path takes, the square may leave the range of float32.
    return float(np.linalg.norm(np.subtract(first, second, dtype=np.float64)))


def _stacked(points: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.stack(points) if points else np.empty((0, 0), dtype=np.float32)
