"""The minimum spanning tree of a sliding window of points, kept exact while points come and go.

Its edge lengths are the lifetimes of H₀ of the window's Vietoris–Rips filtration: every component is born at 0, and one
dies at each edge of the tree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from topowatch_monitor.topology.distances import distance_row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray


# Norm of a point, at most: the distance of two such points is within the range of float32 (3.4e38).
MAX_NORM = 1e38


class IncrementalMST:
    """Exact H₀ lifetimes of the last `window` points.

    Points have positions 0 … n − 1 in the order in which they were added; `insert` puts a late one between others. A
    full window gives up its oldest point (position 0) for every new one. Points are kept as float32, distances are
    Euclidean and float32.

    An insertion takes one row of distances, O(n·d), and keeps the tree of (old tree ∪ star of the new point); an
    eviction reconnects what the point held together through the cheapest edges of the cached distance matrix.

    Args:
        window: the most points to hold; None keeps all of them.
    """

    def __init__(self, window: int | None = None) -> None:
        if window is not None and window < 1:
            raise ValueError(f"a window holds at least one point, not {window}")
        self._window = window
        self._points: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
        self._distances: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
        # _order[position] is the row of a point in the two arrays above; rows 0 … n − 1 are in use.
        self._order: list[int] = []
        # The tree: each row's parent and the length of the edge to it; the root is its own parent. The newest point is
        # the root, so that on a path the oldest one, which goes next, is a leaf.
        self._parent: NDArray[np.intp] = np.empty(0, dtype=np.intp)
        self._length: NDArray[np.float32] = np.empty(0, dtype=np.float32)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def window(self) -> int | None:
        """The most points that are held; None without a limit."""
        return self._window

    @property
    def full(self) -> bool:
        """Whether the next point will push the oldest one out."""
        return self._window is not None and len(self._order) >= self._window

    @property
    def lengths(self) -> NDArray[np.float64]:
        """The n − 1 edge lengths, ascending; zeros of duplicate points included."""
        rows = len(self._order)
        edges = self._parent[:rows] != np.arange(rows)
        return np.sort(self._length[:rows][edges]).astype(np.float64)

    @property
    def points(self) -> NDArray[np.float32]:
        """A copy of the points, n × d, by position."""
        return self._points[self._order]

    @property
    def distances(self) -> NDArray[np.float32]:
        """A copy of the distance matrix, n × n, by position."""
        return self._distances[np.ix_(self._order, self._order)]

    def distance_rows(self) -> Callable[[int], NDArray[np.float32]]:
        """Return a function from a position to the distances of its point to all, good until the next change."""
        order = np.array(self._order, dtype=np.intp)
        return lambda position: self._distances[order[position]][order]

    def takes(self, dimension: int) -> bool:
        """Whether a point of this many numbers can join those that are held."""
        return dimension > 0 and (not self._order or dimension == self._points.shape[1])

    def distance(self, first: int, second: int) -> float:
        """The distance between the points at two positions."""
        return float(self._distances[self._order[first], self._order[second]])

    def distances_to(self, positions: Sequence[int], point: ArrayLike) -> NDArray[np.float32]:
        """The distances of a point, which need not be held, to those at the given positions."""
        rows = [self._order[position] for position in positions]
        return distance_row(self._points[rows], self._checked(point))

    def add(self, point: ArrayLike) -> None:
        """Append a point; a full window first gives up its oldest one.

        Args:
            point: d finite numbers of a norm up to MAX_NORM; d is that of the first point.

        Raises:
            ValueError: `point` is not a finite vector, too long, or of another dimension than the points before.
        """
        self.insert(len(self._order), point)

    def insert(self, position: int, point: ArrayLike) -> None:
        """Put a point before the one that is now at `position`; a full window first gives up its oldest one.

        Raises:
            ValueError: as for `add`; or the window is full and the point would be its oldest.
            IndexError: `position` is outside 0 … n.
        """
        vector = self._checked(point)
        if not 0 <= position <= len(self._order):
            raise IndexError(f"position {position} is outside 0 … {len(self._order)}")
        if self.full and self._window != 1:
            if position == 0:
                raise ValueError("the window is full, and this point would be older than its oldest")
            row = self._order.pop(0)
            self._detach(row)
            self._attach(row, vector, reused=True)
            self._order.insert(position - 1, row)
            return
        if self.full:
            self._order.clear()
        row = len(self._order)
        self._reserve(row + 1, len(vector))
        self._attach(row, vector, reused=False)
        self._order.insert(position, row)

    def truncate(self, count: int) -> None:
        """Keep the first `count` points and drop the rest."""
        kept = np.zeros(len(self._order), dtype=np.bool_)
        kept[: max(0, count)] = True
        self.keep(kept)

    def keep(self, mask: Sequence[bool] | NDArray[np.bool_]) -> None:
        """Keep the points whose position is true in `mask`, drop the rest, and repair the tree.

        Raises:
            ValueError: `mask` has not one entry a point.
        """
        by_position = np.asarray(mask, dtype=np.bool_)
        if by_position.shape != (len(self._order),):
            raise ValueError(f"a mask of {len(self._order)} entries is needed, not of shape {by_position.shape}")
        if by_position.all():
            return
        order = np.array(self._order, dtype=np.intp)
        rows = order[by_position]
        alive = np.zeros(len(order), dtype=np.bool_)
        alive[rows] = True
        parent = self._parent[: len(order)]
        cut = ~(alive & alive[parent])
        parent[cut] = np.flatnonzero(cut)
        self._reconnect(alive)
        # Rows are renumbered by position, so that they fill the arrays from the start again.
        renumbered = np.full(len(order), -1, dtype=np.intp)
        renumbered[rows] = np.arange(len(rows))
        self._parent[: len(rows)] = renumbered[parent[rows]]
        self._length[: len(rows)] = self._length[rows]
        self._points[: len(rows)] = self._points[rows]
        self._distances[: len(rows), : len(rows)] = self._distances[np.ix_(rows, rows)]
        self._order = list(range(len(rows)))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the tree is, as plain numbers and arrays; points, distances and parents by position."""
        order = np.array(self._order, dtype=np.intp)
        position = np.empty(len(order), dtype=np.int32)
        position[order] = np.arange(len(order), dtype=np.int32)
        return {
            "window": self._window,
            "points": self.points,
            "distances": self.distances[np.triu_indices(len(order), 1)],
            "parents": position[self._parent[order]],
            "lengths": self._length[order],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> IncrementalMST:
        """The tree that `state_dict` described."""
        tree = cls(state["window"])
        count, dimension = state["points"].shape
        tree._reserve(count, dimension)
        tree._points[:count] = state["points"]
        distances = np.zeros((count, count), dtype=np.float32)
        distances[np.triu_indices(count, 1)] = state["distances"]
        tree._distances[:count, :count] = distances + distances.T
        tree._order = list(range(count))
        tree._parent[:count] = state["parents"]
        tree._length[:count] = state["lengths"]
        return tree

    def _checked(self, point: ArrayLike) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            vector = np.asarray(point, dtype=np.float32)
        if vector.ndim != 1 or not len(vector):
            raise ValueError(f"a point is a vector of at least one number, not of shape {vector.shape}")
        if not self.takes(len(vector)):
            raise ValueError(f"the points have {self._points.shape[1]} numbers, this one has {len(vector)}")
        if not np.isfinite(vector).all():
            raise ValueError("a point has finite numbers only (in float32)")
        if not norm_fits(vector):
            raise ValueError(f"a point has a norm of at most {MAX_NORM:g}, so that distances are finite in float32")
        return vector

    def _reserve(self, count: int, dimension: int) -> None:
        capacity = len(self._points)
        if dimension != self._points.shape[1]:  # only while there is no point
            self._points = np.empty((capacity, dimension), dtype=np.float32)
        if count <= capacity:
            return
        grown = max(count, 2 * capacity, 16)
        if self._window is not None:
            grown = max(count, min(grown, self._window))
        points = np.empty((grown, dimension), dtype=np.float32)
        distances = np.zeros((grown, grown), dtype=np.float32)
        used = len(self._order)
        points[:used] = self._points[:used]
        distances[:used, :used] = self._distances[:used, :used]
        self._points, self._distances = points, distances
        self._parent = np.concatenate([self._parent[:used], np.arange(used, grown)])
        self._length = np.concatenate([self._length[:used], np.zeros(grown - used, dtype=np.float32)])

    def _attach(self, row: int, vector: NDArray[np.float32], *, reused: bool) -> None:
        """Store the point in `row` and connect it; a `reused` row lies among the rows in use, else just behind them."""
        used = len(self._order) + 1 if reused else row
        star = distance_row(self._points[:used], vector)
        self._points[row] = vector
        if reused:
            star[row] = 0
        self._distances[row, :used] = star
        self._distances[:used, row] = star
        self._distances[row, row] = 0
        self._parent[row] = row
        if not self._order:
            return
        if reused:
            star[row] = np.inf
        nearest = int(np.argmin(star))
        ends = self._candidates(star, nearest)
        if len(ends):
            self._join(row, star, nearest, ends)
        else:
            self._hang(nearest, row, star[nearest])

    def _candidates(self, star: NDArray[np.float32], nearest: int) -> NDArray[np.intp]:
        """Rows other than the `nearest` whose edge to the new point may be in the tree, and a few more.

        In the triangle of a tree edge and the new point, the longest side is in no minimum spanning tree; where that is
        the star edge of the farther end, it is out. So is one as long as the longest tree edge: the tree leads to the
        nearest point by shorter ones. Ties go to tree edges, then by row: one order for all cycles.
        """
        rows = np.arange(len(star))
        parent, length = self._parent[: len(star)], self._length[: len(star)]
        child: NDArray[np.intp] = rows[parent != rows]
        if not len(child):
            return child
        up, length = parent[child], length[child]
        stays = star < length.max()
        stays[nearest] = False
        if not stays.any():
            return child[:0]
        to_child, to_parent = star[child], star[up]
        child_is_farther = (to_child > to_parent) | ((to_child == to_parent) & (child > up))
        stays[np.where(child_is_farther, child, up)[length <= np.maximum(to_child, to_parent)]] = False
        return np.flatnonzero(stays)

    def _hang(self, row: int, under: int, distance: np.float32) -> None:
        """Make `row` the root of its tree, then a child of `under`, which is in another tree."""
        parent, length = self._parent, self._length
        while True:
            above, above_distance = int(parent[row]), length[row]
            parent[row], length[row] = under, distance
            if above == row:
                return
            row, under, distance = above, row, above_distance

    def _join(self, new: int, star: NDArray[np.float32], nearest: int, ends: NDArray[np.intp]) -> None:
        """Hang the tree under the point `new` by its `nearest`, then let each further edge to it push out a longer one.

        The longest edge of the cycle that an edge (end, new) closes lies on the way up from the end: `new` is the root.
        """
        self._hang(nearest, new, star[nearest])
        up, above = self._parent.tolist(), self._length.tolist()  # single numbers are reached faster in lists
        for end, distance in zip(ends.tolist(), star[ends].tolist(), strict=True):
            row, longest, last = end, -1.0, end
            while row != new:
                if above[row] > longest:
                    longest, last = above[row], row
                row = up[row]
            if longest <= distance:
                continue
            # The edge above `last` goes, and the way from the end up to it is turned round.
            row, under, next_distance = end, new, distance
            while True:
                next_row, here = up[row], above[row]
                up[row], above[row] = under, next_distance
                if row == last:
                    break
                row, under, next_distance = next_row, row, here
        self._parent[:], self._length[:] = up, above

    def _detach(self, row: int) -> None:
        """Take the point in `row` out of the tree; `_order` no longer names it."""
        parent = self._parent[: len(self._order) + 1]
        children = np.flatnonzero(parent == row)
        was_root = parent[row] == row
        parent[children] = children
        parent[row] = row
        if len(children) - was_root + (not was_root) > 1:
            alive = np.ones(len(parent), dtype=np.bool_)
            alive[row] = False
            self._reconnect(alive)

    def _reconnect(self, alive: NDArray[np.bool_]) -> None:
        """Join the trees of the forest on the rows that are `alive` by the cheapest edges between them."""
        root = self._parent[: len(alive)].copy()
        while not np.array_equal(root, further := root[root]):  # every round doubles the way up
            root = further
        rows = np.flatnonzero(alive)
        roots, component, sizes = np.unique(root[rows], return_inverse=True, return_counts=True)
        if len(roots) < 2:
            return
        # In the order of their sizes: the largest component is the last, and its rows are never looked at.
        rank = np.empty(len(sizes), dtype=np.intp)
        rank[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
        by_component = np.argsort(rank[component], kind="stable")
        rows = rows[by_component]
        bounds = np.concatenate([[0], np.cumsum(np.sort(sizes))])
        for joined, other in self._component_tree(rows, bounds):
            ends, others = rows[bounds[joined] : bounds[joined + 1]], rows[bounds[other] : bounds[other + 1]]
            block = self._distances[np.ix_(ends, others)]
            a, b = divmod(int(np.argmin(block)), len(others))
            self._hang(int(ends[a]), int(others[b]), block[a, b])

    def _component_tree(self, rows: NDArray[np.intp], bounds: NDArray[np.intp]) -> list[tuple[int, int]]:
        """Pairs (joined, other) of a minimum spanning tree of the components; each but the last is joined once.

        `rows` lists the components one after the other, the largest last; component c is rows[bounds[c]:bounds[c+1]].
        """
        last = len(bounds) - 2
        if last == 1:
            return [(0, 1)]
        block = self._distances[np.ix_(rows[: bounds[last]], rows)]
        gaps = np.minimum.reduceat(np.minimum.reduceat(block, bounds[:last], axis=0), bounds[:-1], axis=1)
        # Prim from the largest component, whose distances to the others are the last column.
        nearest = gaps[:, last].copy()
        other = np.full(last, last, dtype=np.intp)
        outside = np.ones(last, dtype=np.bool_)
        pairs = []
        for _ in range(last):
            joined = int(np.flatnonzero(outside)[np.argmin(nearest[outside])])
            pairs.append((joined, int(other[joined])))
            outside[joined] = False
            closer = outside & (gaps[joined, :last] < nearest)
            nearest[closer] = gaps[joined, :last][closer]
            other[closer] = joined
        return pairs


def norm_fits(vector: NDArray[np.float32]) -> bool:
    """Whether the norm of a finite vector is at most MAX_NORM."""
    if math.isfinite(vector.dot(vector)):  # which says nothing where it overflows
        return True
    wide = vector.astype(np.float64)
    return bool(wide.dot(wide) <= MAX_NORM**2)
