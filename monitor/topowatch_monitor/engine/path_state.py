"""The path of one run through sketch space: its recent window, its length, its H₀ and H₁, and its shape."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from topowatch_monitor.engine.path_shape import UNKNOWN_SHAPE, PathShape, shape_of, weighted_sums
from topowatch_monitor.topology import IncrementalMST, total_persistence
from topowatch_monitor.topology.dimension import MIN_POINTS
from topowatch_monitor.topology.mst import norm_fits
from topowatch_monitor.topology.persistence import (
    check_landmarks,
    h1_of_distances,
    largest_ratio,
    maxmin_by_rows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# Samples whose cumulative length is known one by one; of older ones, every second is forgotten now and then.
LENGTHS_KEPT = 4096


@dataclass(frozen=True)
class PathSettings:
    """How much of a path is looked at.

    Attributes:
        window: latest points kept, at least 2.
        h1_every: samples between two computations of H₁.
        h1_landmarks: landmarks of the window for H₁. 64 cost 1 to 2 ms a computation, 0.1 ms a sample; 128 cost six
            times as much, and at 1,000 samples/s on two cores a sample has 2 ms for everything.
        shape_every: samples between two computations of dimension, magnitude and drift; the first comes as soon as
            there may be a dimension, after 64 samples. With the losses of the probes a computation takes 13 to
            19 ms a run, 0.15 ms a sample at most (measured).
        shape_points: points of the window for dimension and magnitude, evenly strided.
        phase: by which part of an interval, 0 ≤ phase < 1, the second computation of each kind comes early. Runs that
            began together would otherwise all compute at the same sample: of 1,000 runs, 13 s of work or more.
    """

    window: int = 512
    h1_every: int = 16
    h1_landmarks: int = 64
    shape_every: int = 128
    shape_points: int = 128
    phase: float = 0.0

    def __post_init__(self) -> None:
        if self.window < 2 or self.h1_every < 1:
            raise ValueError("a path needs a window of at least 2 points, and H₁ every 1 sample or more")
        if self.shape_every < 1 or self.shape_points < 2:
            raise ValueError("a shape takes at least 2 points, every 1 sample or more")
        if not 0 <= self.phase < 1:
            raise ValueError("the phase is a part of an interval: from 0 to less than 1")
        check_landmarks(self.h1_landmarks)

    @property
    def shape_head_start(self) -> int:
        """Samples that a new window is ahead of, so that its first shape does not wait for `shape_every`."""
        return max(0, self.shape_every - MIN_POINTS)

    def after(self, every: int, *, first: bool) -> int:
        """Samples that the next interval of `every` is ahead of once something was computed, if it was the first."""
        return int(self.phase * every) if first else 0


class PathView(TypedDict):
    """What a path tells. Lengths are in the unit of the sketched quantity; None where nothing is known.

    Attributes:
        dimension: this and what follows up to drift, but for `e_alpha`: see `PathShape`.
        e_alpha: Σ lifetime^α of H₀ of the window by α: '0.5', '1', '2'.
        ignored: points that were sent and are not on the path; see `PathState`.
        unbridged: places where a stretch is missing from the length.
    """

    length: float | None
    h0_total_persistence: float | None
    h1_total_persistence: float | None
    dimension: float | None
    dimension_lower: float | None
    dimension_upper: float | None
    e_alpha: dict[str, float] | None
    magnitude: float | None
    betti_drift: float | None
    betti_drift_wasserstein: float | None
    points: int
    resolution: float | None
    ignored: int
    unbridged: int


class PathState:
    """Points of a path in the order of their steps, and what is known of it.

    A step has one point: a second one is ignored. A late point takes its place among the others, unless the window
    has moved past it. Should a change fail half way, the path begins anew: there is never half a one.

    Attributes:
        ignored: points not taken, because the step was there already or lies before the window, or because the point is
            of another dimension than the others, not finite, or so long that distances to it might not be finite.
        unbridged: places where the length of a stretch is unknown, because a rewind went back beyond the window.
    """

    def __init__(self, settings: PathSettings | None = None) -> None:
        self._settings = settings or PathSettings()
        self._tree = IncrementalMST(self._settings.window)
        self._steps: list[int] = []
        # Length of the path up to each sample, by step; the window's samples are always among them.
        self._length_steps = array("q")
        self._lengths = array("d")
        self._since_h1 = 0
        self._h1: float | None = None
        self._loop: tuple[int, float] | None = None
        self._resolution: float | None = None
        self._since_shape = self._settings.shape_head_start
        self._shape = UNKNOWN_SHAPE
        self.ignored = 0
        self.unbridged = 0

    @property
    def points(self) -> int:
        """Points in the window."""
        return len(self._steps)

    @property
    def steps(self) -> list[int]:
        """Steps of the window's points, ascending."""
        return list(self._steps)

    @property
    def length(self) -> float | None:
        """Length of the whole path, from its first sample to its last; None before the first."""
        return self._lengths[-1] if self._lengths else None

    @property
    def h0_lengths(self) -> NDArray[np.float64]:
        """Lifetimes of H₀ of the window, ascending."""
        return self._tree.lengths

    @property
    def loop(self) -> tuple[int, float] | None:
        """Step of the newest H₁ diagram of the window, and the largest death over birth in it, 1 without a bar."""
        return self._loop

    def loops(self) -> tuple[NDArray[np.float64], float]:
        """H₁ of landmarks of the window, bars × (birth, death), and their cover radius; there is at least one point."""
        _, resolution, distances = maxmin_by_rows(self._tree.distance_rows(), self._settings.h1_landmarks)
        return h1_of_distances(distances), resolution

    def view(self, elsewhere: int = 0) -> PathView:
        """What the path tells now; `elsewhere` points were ignored before they came here."""
        lifetimes = self._tree.lengths
        return {
            "length": self.length,
            "h0_total_persistence": float(lifetimes.sum()) if self._steps else None,
            "h1_total_persistence": self._h1,
            "dimension": self._shape.dimension,
            "dimension_lower": self._shape.dimension_lower,
            "dimension_upper": self._shape.dimension_upper,
            "e_alpha": weighted_sums(lifetimes) if self._steps else None,
            "magnitude": self._shape.magnitude,
            "betti_drift": self._shape.betti_drift,
            "betti_drift_wasserstein": self._shape.betti_drift_wasserstein,
            "points": len(self._steps),
            "resolution": self._resolution,
            "ignored": self.ignored + elsewhere,
            "unbridged": self.unbridged,
        }

    def add(self, step: int, point: NDArray[np.float32]) -> bool:
        """Take the point of a step; return whether it is on the path now."""
        fits = self._tree.takes(len(point)) and norm_fits(point)
        try:
            placed = fits and self._place(step, point)
        except Exception:
            self._clear()
            raise
        if not placed:
            self.ignored += 1
            return False
        if len(self._length_steps) > max(LENGTHS_KEPT, 2 * self._settings.window):
            half = len(self._length_steps) // 2
            self._length_steps[:half] = self._length_steps[:half:2]
            self._lengths[:half] = self._lengths[:half:2]
        self._since_h1 += 1
        if self._since_h1 >= self._settings.h1_every:
            self._compute_h1()
        self._since_shape += 1
        if self._since_shape >= self._settings.shape_every:
            self._compute_shape()
        return True

    def discard(self, start: int, stop: int | None = None) -> None:
        """Drop the points with start ≤ step (< stop), and take their stretch out of the length."""
        try:
            self._cut(start, stop)
        except Exception:
            self._clear()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Everything that the path is, as plain numbers and arrays."""
        return {
            "settings": list(astuple(self._settings)),
            "tree": self._tree.state_dict(),
            "steps": np.array(self._steps, dtype=np.int64),
            "length_steps": np.array(self._length_steps, dtype=np.int64),
            "lengths": np.array(self._lengths, dtype=np.float64),
            "since_h1": self._since_h1,
            "h1": self._h1,
            "loop": None if self._loop is None else list(self._loop),
            "resolution": self._resolution,
            "since_shape": self._since_shape,
            "shape": self._shape.state_dict(),
            "ignored": self.ignored,
            "unbridged": self.unbridged,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> PathState:
        """The path that `state_dict` described."""
        path = cls(PathSettings(*state["settings"]))
        path._tree = IncrementalMST.from_state(state["tree"])
        path._steps = state["steps"].tolist()
        path._length_steps = array("q", state["length_steps"].tolist())
        path._lengths = array("d", state["lengths"].tolist())
        path._since_h1 = state["since_h1"]
        path._h1 = state["h1"]
        path._loop = None if state["loop"] is None else (state["loop"][0], state["loop"][1])
        path._resolution = state["resolution"]
        path._since_shape = state["since_shape"]
        path._shape = PathShape.from_state(state["shape"])
        path.ignored = state["ignored"]
        path.unbridged = state["unbridged"]
        return path

    def _place(self, step: int, point: NDArray[np.float32]) -> bool:
        if self._length_steps and step <= self._length_steps[-1]:
            return self._insert(step, point)
        self._append(step, point)
        return True

    def _append(self, step: int, point: NDArray[np.float32]) -> None:
        self._tree.add(point)
        self._steps.append(step)
        if len(self._steps) > len(self._tree):
            del self._steps[0]
        so_far = self._lengths[-1] if self._lengths else 0.0
        if len(self._steps) > 1:
            so_far += self._tree.distance(-2, -1)
        elif self._lengths:
            self.unbridged += 1
        self._length_steps.append(step)
        self._lengths.append(so_far)

    def _insert(self, step: int, point: NDArray[np.float32]) -> bool:
        """Put a late point in its place; return whether it has one."""
        position = bisect_left(self._steps, step)
        place = bisect_left(self._length_steps, step)
        if place < len(self._length_steps) and self._length_steps[place] == step:
            return False
        if position == 0 and (place > 0 or self._tree.full):
            return False  # the window has moved past it
        if position == len(self._steps):
            return False  # a rewind has emptied the window behind it, and its neighbours are gone
        if position == 0:
            [to_next] = self._tree.distances_to([0], point)
            before, detour = 0.0, float(to_next)
        else:
            to_last, to_next = self._tree.distances_to([position - 1, position], point)
            before = self._lengths[place - 1] + float(to_last)
            detour = float(to_last) + float(to_next) - self._tree.distance(position - 1, position)
        self._tree.insert(position, point)
        self._steps.insert(position, step)
        if len(self._steps) > len(self._tree):
            del self._steps[0]
        self._length_steps.insert(place, step)
        self._lengths.insert(place, before)
        for later in range(place + 1, len(self._lengths)):
            self._lengths[later] += detour
        return True

    def _cut(self, start: int, stop: int | None) -> None:
        steps, lengths = self._length_steps, self._lengths
        first = bisect_left(steps, start)
        last = len(steps) if stop is None else bisect_left(steps, stop)
        if first >= last:
            return
        low = bisect_left(self._steps, start)
        high = len(self._steps) if stop is None else bisect_left(self._steps, stop)
        if last < len(steps):
            self._close_gap(first, last, low, high)
        del steps[first:last], lengths[first:last]
        kept = np.ones(len(self._steps), dtype=np.bool_)
        kept[low:high] = False
        self._tree.keep(kept)
        del self._steps[low:high]
        # Diagram and shape were of a window that is gone: the next sample brings new ones.
        self._h1 = self._resolution = self._loop = None
        self._since_h1 = self._settings.h1_every
        self._shape = UNKNOWN_SHAPE
        self._since_shape = self._settings.shape_every

    def _close_gap(self, first: int, last: int, low: int, high: int) -> None:
        """Join the samples before and behind a stretch that goes, and shorten what follows.

        `first` and `last` bound the stretch among the lengths, `low` and `high` in the window.
        """
        before = self._lengths[first - 1] if first else 0.0
        if first and low > 0 and high < len(self._steps):
            before += self._tree.distance(low - 1, high)
        elif first:
            self.unbridged += 1
        shift = self._lengths[last] - before
        for later in range(last, len(self._lengths)):
            self._lengths[later] -= shift

    def _clear(self) -> None:
        self._tree = IncrementalMST(self._settings.window)
        self._steps = []
        self._length_steps, self._lengths = array("q"), array("d")
        self._since_h1 = 0
        self._h1 = self._resolution = self._loop = None
        self._since_shape = self._settings.shape_head_start
        self._shape = UNKNOWN_SHAPE

    def _compute_h1(self) -> None:
        self._since_h1 = self._settings.after(self._settings.h1_every, first=self._h1 is None)
        diagram, self._resolution = self.loops()
        self._h1 = total_persistence(diagram)
        self._loop = self._steps[-1], largest_ratio(diagram)

    def _compute_shape(self) -> None:
        self._since_shape = self._settings.after(self._settings.shape_every, first=self._shape == UNKNOWN_SHAPE)
        self._shape = shape_of(
            self._tree.distance_rows(),
            len(self._steps),
            most=self._settings.shape_points,
            landmarks=self._settings.h1_landmarks,
        )
