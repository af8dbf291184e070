"""A map of a group: the paths of its runs' predictions in the plane that holds most of them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np

from topowatch_monitor.engine.group_fit import OTHER_PROBES, OTHER_SKETCH, commonest
from topowatch_monitor.topology.projection import fit_projection

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_RUNS = 200  # of more, a drawing shows nothing
MOST_POINTS = 48  # of a run
NO_PATHS = "none of its runs has sent predictions on its probes"
ONE_POINT = "the predictions of its runs have not moved yet"


class Walk(NamedTuple):
    """What a shard hands out of a run for a map.

    Attributes:
        live: whether the run goes on.
        digest: of its probe set, in hex.
        steps: of the points.
        points: of its trace, T × d.
    """

    run: str
    live: bool
    digest: str
    steps: list[int]
    points: NDArray[np.float32]


class Walks(NamedTuple):
    """What a shard hands out of a group: runs, live ones first, and how many it has beside them."""

    walks: list[Walk]
    more: int = 0


class MappedPath(TypedDict):
    """A run's path on the map: a step and two coordinates a point."""

    run: str
    steps: list[int]
    points: list[list[float]]


class GroupMap(TypedDict):
    """Paths in the plane of their first two principal components, in representation distance.

    Attributes:
        explained: share of the paths' variance that the plane holds; None without a path.
        paths: live runs first.
        left_out: runs that cannot be compared with the others, and why.
        more: runs for which there was no room.
        reason: why there is nothing to draw; empty where there is.
    """

    explained: float | None
    paths: list[MappedPath]
    left_out: dict[str, str]
    more: int
    reason: str


def map_of(*found: Walks) -> GroupMap:
    """Draw the map of a group.

    Args:
        found: runs that have a path, as each carrier handed them out.
    """
    walks = sorted((walk for each in found for walk in each.walks), key=lambda walk: (not walk.live, walk.run))
    digest = commonest(walk.digest for walk in walks)
    left_out = {walk.run: OTHER_PROBES for walk in walks if walk.digest != digest}
    alike = [walk for walk in walks if walk.digest == digest]
    dimension = commonest(walk.points.shape[1] for walk in alike)
    left_out |= {walk.run: OTHER_SKETCH for walk in alike if walk.points.shape[1] != dimension}
    comparable = [walk for walk in alike if walk.points.shape[1] == dimension]
    shown = comparable[:MOST_RUNS]
    if not any(np.ptp(walk.points, axis=0).any() for walk in shown):
        reason = ONE_POINT if shown else NO_PATHS
        return {"explained": None, "paths": [], "left_out": left_out, "more": 0, "reason": reason}
    points = [walk.points.astype(np.float64) for walk in shown]
    plane = fit_projection(points, 2)
    paths: list[MappedPath] = [
        {"run": walk.run, "steps": walk.steps, "points": _short(plane.reduce(path))}
        for walk, path in zip(shown, points, strict=True)
    ]
    more = len(comparable) - len(shown) + sum(each.more for each in found)
    return {"explained": plane.explained, "paths": paths, "left_out": left_out, "more": more, "reason": ""}


def _short(points: NDArray[np.float64]) -> list[list[float]]:
    """Four digits of each coordinate: more than a drawing shows. A space of one dimension is a line."""
    flat = np.column_stack([points, np.zeros(len(points))]) if points.shape[1] == 1 else points
    return [[float(f"{value:.4g}") for value in point] for point in flat.tolist()]
