"""The loops of the territory that paths cover, and how often each path goes round each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.topology.atlas import closings
from topowatch_monitor.topology.cocycles import Cocycle, persistent_cocycles
from topowatch_monitor.topology.null import bar_p_values
from topowatch_monitor.topology.territory import Territory, survey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Loops:
    """What n paths show. Lengths are in diagonals of the paths' bounding box.

    Attributes:
        territory: landmarks, and each path as a walk over them.
        bars: B × (birth, death) of all loops.
        p_values: B, the chance that noise gives any bar as long as each; None with too few bars to tell.
        cocycles: of the A loops that die above the territory's scale: others mean nothing to the walks.
        alive: A, the number of the bar of each.
        start: vertex where the reference path starts.
        closing: V × A, what the stored walk from the start to each vertex counts.
        signatures: n × A, how often each path, closed by stored walks at both ends, goes round each loop.
    """

    territory: Territory
    bars: NDArray[np.float64]
    p_values: NDArray[np.float64] | None
    cocycles: list[Cocycle]
    alive: NDArray[np.intp]
    start: int
    closing: NDArray[np.int64]
    signatures: NDArray[np.int64]

    def parted(self, number: int) -> float:
        """Share of the paths that go round a living loop otherwise than most do."""
        _, counts = np.unique(self.signatures[:, number], return_counts=True)
        return 1.0 - float(counts.max() / counts.sum())


def find_loops(
    paths: Sequence[NDArray[np.float64]], *, landmarks: int, dims: int, prime: int, relative: bool
) -> Loops | None:
    """Survey the territory of paths and find its loops; see `classify_paths` for the arguments.

    Returns:
        The loops; None where all points are equal.
    """
    territory = survey(paths, landmarks=landmarks, dims=dims, relative=relative)
    if territory is None:
        return None
    bars, cocycles, alive = persistent_cocycles(territory.distances, prime, territory.scale)
    start = int(territory.walks[territory.offsets[_reference(territory)]])
    closing = closings(territory, cocycles, start)
    return Loops(
        territory=territory,
        bars=bars,
        p_values=bar_p_values(bars, territory.siblings),
        cocycles=cocycles,
        alive=alive,
        start=start,
        closing=closing,
        signatures=_signatures(territory, cocycles, closing),
    )


def running(territory: Territory, cocycle: Cocycle) -> NDArray[np.int64]:
    """What the walks count on a cocycle up to each of their vertices, from 0 at their first."""
    walks, offsets = territory.walks, territory.offsets
    steps = np.zeros(len(walks), dtype=np.int64)
    steps[1:] = cocycle.values[walks[:-1], walks[1:]]
    steps[offsets[:-1]] = 0
    total = np.cumsum(steps)
    sums: NDArray[np.int64] = total - np.repeat(total[offsets[:-1]], np.diff(offsets))
    return sums


def _reference(territory: Territory) -> int:
    """The path whose start is the reference: the one that starts at the vertex where most do, the first of them."""
    starts = territory.walks[territory.offsets[:-1]]
    return int(np.flatnonzero(starts == np.bincount(starts).argmax())[0])


def _signatures(territory: Territory, cocycles: Sequence[Cocycle], closing: NDArray[np.int64]) -> NDArray[np.int64]:
    """What each walk counts on each cocycle, closed by stored walks at both ends: n × all."""
    walks, offsets = territory.walks, territory.offsets
    first, last = walks[offsets[:-1]], walks[offsets[1:] - 1]
    end = int(np.bincount(last).argmax())
    # From the end itself: by way of the start, ends on either side of a hole would be closed on either side of it.
    homing = closings(territory, cocycles, end)
    signatures = np.zeros((len(first), len(cocycles)), dtype=np.int64)
    for number, cocycle in enumerate(cocycles):
        sums = running(territory, cocycle)[offsets[1:] - 1]
        signatures[:, number] = cocycle.fold(closing[first, number] + sums - homing[last, number])
    return signatures
