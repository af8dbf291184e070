"""Whether a loop is more than the scatter of paths that are all of one kind.

Noise bars are small; but in a group without a hole a path that happens to stray leaves a gap as well, with a bar that
no noise explains. So the group is compared with Gaussian ones that have its mean path and its covariance: a parametric
bootstrap (B. Efron, R. Tibshirani: An Introduction to the Bootstrap, 1993, chapter 16), ended early where the answer is
plain (J. Besag, P. Clifford: Sequential Monte Carlo p-values, Biometrika 78, 1991).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.topology.loops import find_loops

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from topowatch_monitor.topology.loops import Loops

# Chance of scatter below which a loop counts.
SCATTER_ALPHA = 1e-3
# Gaussian groups: looked at a few at a time, until the answer is plain or there are enough.
GROUPS_AT_ONCE, MAX_GROUPS = 5, 20
# The answer is plain where the mean evidence is off that which would decide it by this factor.
PLAIN = 3.0
# Points of the path of a Gaussian group, evenly along its length.
POINTS = 64
# More paths lie closer together, so that a smaller Gaussian group only errs towards scatter.
MAX_PATHS = 128
# A mean path and a covariance are known well enough from as many paths.
ENOUGH_PATHS = 1024


def scatter_p_values(
    loops: Loops,
    numbers: NDArray[np.intp],
    paths: Sequence[NDArray[np.float64]],
    *,
    landmarks: int,
    prime: int,
    relative: bool,
) -> NDArray[np.float64]:
    """Chance that scatter alone parts as large a share of the paths as clearly as each loop does.

    The evidence of a bar is −log p under the law of noise, where it is exponential with mean 1. Under scatter it is
    taken for exponential as well, with the mean of the largest evidence in a Gaussian group, among the bars that part
    at least as large a share of its paths: one path strays easily, but paths seldom part in the middle.

    Args:
        loops: of the paths.
        numbers: of the living loops in question.
        paths: T × d each.
        landmarks: as the loops were found with.
        prime: as the loops were found with.
        relative: as the loops were found with.

    Returns:
        A p-value for each number.
    """
    parted = np.array([loops.parted(number) for number in numbers])
    plain = parted == 0.0  # a loop that all paths go round alike splits nobody
    if plain.all():
        return np.zeros(len(numbers))
    evidence = _evidence(loops)[numbers]
    deciding = -evidence / math.log(SCATTER_ALPHA)
    mean = np.zeros(len(numbers))
    some = paths[:: -(-len(paths) // ENOUGH_PATHS)]
    reduced = np.array([_resampled(loops.territory.projection.reduce(path)) for path in some])
    groups = _gaussian_groups(reduced)
    seen = 0
    while not plain.all() and seen < MAX_GROUPS:
        for _ in range(GROUPS_AT_ONCE):
            other = find_loops(next(groups), landmarks=landmarks, dims=reduced.shape[2], prime=prime, relative=relative)
            seen += 1
            mean += ((0.0 if other is None else _largest_evidence(other, parted)) - mean) / seen
        plain = (parted == 0.0) | (mean > PLAIN * deciding) | (mean < deciding / PLAIN)
    p_values: NDArray[np.float64] = np.exp(-evidence / np.maximum(mean, 1.0))
    return np.where(parted > 0.0, p_values, 0.0)


def _evidence(loops: Loops) -> NDArray[np.float64]:
    """Evidence of the living loops."""
    if loops.p_values is None:
        return np.zeros(len(loops.alive))
    evidence: NDArray[np.float64] = -np.log(np.maximum(loops.p_values[loops.alive], np.finfo(np.float64).tiny))
    return evidence


def _largest_evidence(loops: Loops, parted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest evidence of any living loop that parts at least each of the shares."""
    largest = np.zeros(len(parted))
    evidence = _evidence(loops)
    for number in np.flatnonzero(evidence > 0.0):
        reached = loops.parted(number) >= parted - 1e-9
        largest[reached] = np.maximum(largest[reached], evidence[number])
    return largest


def _resampled(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """POINTS points of a polyline, evenly along its length."""
    along = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1)))
    places = np.linspace(0.0, along[-1], POINTS)
    return np.column_stack([np.interp(places, along, column) for column in path.T])


def _gaussian_groups(paths: NDArray[np.float64]) -> Iterator[list[NDArray[np.float64]]]:
    """Endless groups of paths, each drawn from the Gaussian process with the mean and the covariance of n × T × k."""
    mean = paths.mean(axis=0)
    apart = (paths - mean).reshape(len(paths), -1) / math.sqrt(len(paths) - 1)
    rng = np.random.default_rng(0)  # the same answer for the same paths
    while True:
        weights = rng.standard_normal((min(len(paths), MAX_PATHS), len(paths)))
        yield list(mean + (weights @ apart).reshape(-1, *mean.shape))
