"""Dynamic time warping between all pairs of paths, on thinned paths, and the heights at which runs join the crowd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import cdist, squareform

if TYPE_CHECKING:
    from collections.abc import Sequence

_POINTS = 24  # of a path; the cost grows with the square


def thin(path: np.ndarray, count: int = _POINTS) -> np.ndarray:
    """Return `count` points of a path (T × d), evenly spaced in its samples, both ends among them."""
    return path[np.linspace(0, len(path) - 1, count).round().astype(int)]


def dtw_distances(paths: Sequence[np.ndarray]) -> np.ndarray:
    """Return the DTW distance between each pair of paths of equal length: runs × runs.

    The distance is the least sum of point distances over all monotone alignments (Sakoe and Chiba, 1978); no window.
    All pairs are advanced together, cell by cell.
    """
    runs, points = len(paths), len(paths[0])
    first, second = np.triu_indices(runs, 1)
    costs = cdist(np.concatenate(paths), np.concatenate(paths)).reshape(runs, points, runs, points)
    costs = costs.transpose(0, 2, 1, 3)[first, second]
    total = np.full((len(first), points + 1, points + 1), np.inf)
    total[:, 0, 0] = 0
    for row in range(points):
        for column in range(points):
            before = np.minimum(total[:, row, column], np.minimum(total[:, row, column + 1], total[:, row + 1, column]))
            total[:, row + 1, column + 1] = costs[:, row, column] + before
    return squareform(total[:, -1, -1])


def joining_heights(distances: np.ndarray, method: str) -> np.ndarray:
    """Return for each run the height at which agglomeration first puts it into a cluster of more than half of the runs.

    Args:
        distances: Runs × runs, symmetric, zero on the diagonal.
        method: As of `scipy.cluster.hierarchy.linkage`: "single" or "average".
    """
    runs = len(distances)
    members: dict[int, list[int]] = {index: [index] for index in range(runs)}
    heights = np.full(runs, np.nan)
    for number, (first, second, height, size) in enumerate(linkage(squareform(distances, checks=False), method)):
        joined = members.pop(int(first)) + members.pop(int(second))
        members[runs + number] = joined
        if size > runs / 2:
            new = np.array(joined)[np.isnan(heights[joined])]
            heights[new] = height
    return heights
