"""Classes of paths: which of them can be deformed into each other within the territory that all of them cover.

What is computed is homology relative to the ends, the abelian shadow of homotopy; the result is called a path class.
The territory's quotient by the ends is looked at in a projection to a few dimensions, so that it approximates relative
homology up to scale. Source: A. Tamim, arXiv 2510.04376, with the departures that the README lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.topology.atlas import Atlas, visited
from topowatch_monitor.topology.limits import check_classes
from topowatch_monitor.topology.loops import find_loops, running
from topowatch_monitor.topology.null import MIN_BARS
from topowatch_monitor.topology.scatter import SCATTER_ALPHA, scatter_p_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from topowatch_monitor.topology.loops import Loops

# Below it, groups without a hole are split too often.
MIN_PATHS = 12
# Share of the paths that a class needs for the others to be outliers.
MAJORITY = 0.6
# Coordinates beyond it have squares that leave the range of float64.
MAX_COORDINATE = 1e100
# Ripser keeps coefficients in eight bits, one of them the sign; with larger primes it never ends.
MAX_PRIME = 128


@dataclass(frozen=True)
class PathClasses:
    """The classes of n paths. Lengths are in the unit of the points.

    Attributes:
        labels: n; equal for paths of one class, 0 for the largest. All 0 if `abstained`.
        signatures: n × B, how often each path, closed by stored walks, goes round each bar that counts; as integers, or
            modulo `prime` where no integer cocycle was found.
        bars: B × (birth, death) of the bars that count.
        p_values: theirs: the larger of the chances that noise and that scatter make as much, corrected for the number
            of bars.
        best_p: the smallest of any bar; 1 without bars.
        explained: share of the variance that the reduced space holds.
        resolution: cover radius of the landmarks.
        scale: at which the paths are realised; what is finer is not told apart.
        abstained: whether the evidence is too thin to speak of classes.
        reason: why, in words; empty otherwise.
        lifted: whether every bar that counts has an integer cocycle.
    """

    labels: NDArray[np.intp]
    signatures: NDArray[np.int64]
    bars: NDArray[np.float64]
    p_values: NDArray[np.float64]
    best_p: float
    explained: float
    resolution: float
    scale: float
    abstained: bool
    reason: str
    lifted: bool
    _loops: Loops | None
    _counting: NDArray[np.intp]  # numbers of the living loops whose bars count

    @cached_property
    def merge_scale(self) -> NDArray[np.float64]:
        """Scale from which two paths agree on every bar that is alive: n × n, an ultrametric, 0 on the diagonal."""
        count = len(self.labels)
        if self._loops is None:
            return np.zeros((count, count))
        merge = _merge_scale(self._loops) * self._loops.territory.unit
        np.fill_diagonal(merge, 0.0)
        return merge

    @cached_property
    def atlas(self) -> Atlas | None:
        """What a live path is compared with; None where all points are equal."""
        return None if self._loops is None else _atlas(self._loops, self)


def classify_paths(
    paths: Sequence[ArrayLike],
    *,
    landmarks: int = 400,
    dims: int = 3,
    prime: int = 41,
    relative: bool = True,
    alpha: float = 1e-4,
) -> PathClasses:
    """Sort paths into classes, or abstain.

    The paths are reduced to `dims` principal coordinates and filled to polylines; loops of the landmarks' Rips complex
    that neither noise nor scatter explains tell them apart. Holes that need more coordinates than
    `dims` are not seen, and neither are loops that commute in homology alone.

    Args:
        paths: T × d numbers each, T ≥ 1; T may differ.
        landmarks: the most vertices, 8 to MAX_VERTICES.
        dims: coordinates to keep.
        prime: of the coefficients, odd and below MAX_PRIME.
        relative: whether ends count as one point. Without it, runs that end apart are not compared there.
        alpha: chance of noise below which a bar counts; that of scatter has to be below SCATTER_ALPHA.

    Raises:
        ValueError: there is no path, or one is empty, not a matrix, not finite, of another dimension or too large; or
            an argument is out of range.
        TooLargeError: the paths together are too large.
    """
    checked = _checked(paths)
    _check_arguments(landmarks, dims, prime, alpha)
    check_classes(sum(map(len, checked)), checked[0].shape[1], landmarks)
    loops = find_loops(checked, landmarks=landmarks, dims=dims, prime=prime, relative=relative)
    if loops is None:
        return _nothing(len(checked), "all points are equal")
    counting = np.empty(0, dtype=np.intp)
    p_values, reason = np.ones(len(loops.bars)), ""
    if len(checked) < MIN_PATHS:
        reason = f"{len(checked)} paths: classes need at least {MIN_PATHS}"
    elif loops.p_values is None:
        reason = f"{len(loops.bars)} loops: at least {MIN_BARS} of different sizes are needed to tell what noise is"
    else:
        clear = np.flatnonzero(loops.p_values[loops.alive] < alpha)
        scatter = scatter_p_values(loops, clear, checked, landmarks=landmarks, prime=prime, relative=relative)
        p_values = loops.p_values.copy()
        p_values[loops.alive[clear]] = np.maximum(p_values[loops.alive[clear]], scatter)
        counting = clear[scatter < SCATTER_ALPHA]
        if not len(counting):
            what = "scatter" if len(clear) else "noise"
            reason = f"no loop stands out from {what} (smallest p-value {p_values.min(initial=1.0):.2g})"
    territory, chosen = loops.territory, loops.alive[counting]
    return PathClasses(
        labels=_labels(loops.signatures[:, counting]),
        signatures=loops.signatures[:, counting],
        bars=loops.bars[chosen] * territory.unit,
        p_values=p_values[chosen],
        best_p=float(p_values.min(initial=1.0)),
        explained=territory.projection.explained,
        resolution=territory.cover * territory.unit,
        scale=territory.scale * territory.unit,
        abstained=bool(reason),
        reason=reason,
        lifted=all(not loops.cocycles[number].modulus for number in counting),
        _loops=loops,
        _counting=counting,
    )


def majority_of(labels: NDArray[np.intp]) -> int:
    """The label that at least MAJORITY of the paths share; −1 if none."""
    counts = np.bincount(labels)
    largest = int(counts.argmax())
    return largest if counts[largest] >= MAJORITY * len(labels) else -1


def outliers(classes: PathClasses) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Which paths are outside the majority's class.

    Returns:
        n p-values, the smallest of the bars that part the path from the majority, 1 if none does; and n flags. Without
        a majority nobody is an outlier.
    """
    count = len(classes.labels)
    majority = majority_of(classes.labels)
    if classes.abstained or majority < 0:
        return np.ones(count), np.zeros(count, dtype=np.bool_)
    member = int(np.flatnonzero(classes.labels == majority)[0])
    parted = classes.signatures != classes.signatures[member]
    p_values = np.where(parted, classes.p_values, 1.0).min(axis=1, initial=1.0)
    return p_values, classes.labels != majority


def _checked(paths: Sequence[ArrayLike]) -> list[NDArray[np.float64]]:
    if not len(paths):
        raise ValueError("there is no path to classify")
    checked: list[NDArray[np.float64]] = []
    for number, path in enumerate(paths):
        points = np.asarray(path, dtype=np.float64)
        if points.ndim != 2 or not points.shape[1]:
            raise ValueError(f"path {number} has shape {points.shape}: T × d numbers are needed")
        if not len(points):
            raise ValueError(f"path {number} has no points: leave it out")
        if points.shape[1] != (checked[0] if checked else points).shape[1]:
            raise ValueError(
                f"path {number} has points of {points.shape[1]} numbers, path 0 of {checked[0].shape[1]}: "
                "paths are compared in one space"
            )
        if not np.isfinite(points).all():
            raise ValueError(f"path {number} has NaN or infinite numbers: cut it before them, or leave it out")
        if np.abs(points).max() > MAX_COORDINATE:
            raise ValueError(
                f"path {number} has numbers beyond {MAX_COORDINATE:g}: cut it before them, or leave it out"
            )
        checked.append(points)
    return checked


def _check_arguments(landmarks: int, dims: int, prime: int, alpha: float) -> None:
    for name, value in (("dims", dims), ("landmarks", landmarks), ("prime", prime)):
        if not isinstance(value, (int, np.integer)):
            raise ValueError(f"{name} is a whole number, not {value!r}")  # noqa: TRY004 - as of all arguments
    if dims < 1:
        raise ValueError(f"dims is at least 1, not {dims}")
    if landmarks < 8:
        raise ValueError(f"landmarks are at least 8, not {landmarks}")
    if not 3 <= prime < MAX_PRIME or any(prime % divisor == 0 for divisor in range(2, int(prime**0.5) + 1)):
        raise ValueError(f"prime is an odd prime below {MAX_PRIME}, not {prime}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, not at {alpha}")


def _labels(signatures: NDArray[np.int64]) -> NDArray[np.intp]:
    """Number equal rows alike: the most frequent row 0, ties by first appearance."""
    if not signatures.shape[1]:
        return np.zeros(len(signatures), dtype=np.intp)
    _, first, label, counts = np.unique(signatures, axis=0, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.intp)
    rank[np.lexsort((first, -counts))] = np.arange(len(counts))
    labels: NDArray[np.intp] = rank[label.reshape(-1)]
    return labels


def _merge_scale(loops: Loops) -> NDArray[np.float64]:
    count = len(loops.signatures)
    merge = np.full((count, count), loops.territory.scale)
    for number in sorted(range(len(loops.cocycles)), key=lambda number: loops.cocycles[number].death):
        column = loops.signatures[:, number]
        merge[column[:, None] != column[None, :]] = loops.cocycles[number].death
    return merge


def _atlas(loops: Loops, classes: PathClasses) -> Atlas:
    territory, chosen = loops.territory, [loops.cocycles[number] for number in classes._counting]
    closing = loops.closing[:, classes._counting]
    starts = territory.walks[territory.offsets[:-1]]
    counts = np.repeat(closing[starts], np.diff(territory.offsets), axis=0)
    for number, cocycle in enumerate(chosen):
        counts[:, number] = cocycle.fold(counts[:, number] + running(territory, cocycle))
    vertices = len(territory.distances)
    return Atlas(
        projection=territory.projection,
        unit=territory.unit,
        relative=territory.relative,
        landmarks=territory.landmarks,
        ends=territory.ends,
        distances=territory.distances,
        cover=territory.cover,
        scale=territory.scale,
        values=np.array([cocycle.values for cocycle in chosen], dtype=np.int16).reshape(-1, vertices, vertices),
        deaths=np.array([cocycle.death for cocycle in chosen]),
        moduli=np.array([cocycle.modulus for cocycle in chosen], dtype=np.int64),
        bar_p_values=classes.p_values,
        closing=closing,
        visits=visited(territory, counts, classes.labels),
        labels=np.unique(classes.labels),
        majority=majority_of(classes.labels),
    )


def _nothing(count: int, reason: str) -> PathClasses:
    return PathClasses(
        labels=np.zeros(count, dtype=np.intp),
        signatures=np.zeros((count, 0), dtype=np.int64),
        bars=np.empty((0, 2)),
        p_values=np.empty(0),
        best_p=1.0,
        explained=1.0,
        resolution=0.0,
        scale=0.0,
        abstained=True,
        reason=reason,
        lifted=True,
        _loops=None,
        _counting=np.empty(0, dtype=np.intp),
    )
