"""A refit of a group: the paths of its ended runs become classes, names, outliers and a map for its live runs. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import squareform

from topowatch_monitor.engine.group_spread import no_spread, spread_of
from topowatch_monitor.topology import TooLargeError, classify_paths, outliers
from topowatch_monitor.topology.path_classes import MIN_PATHS, majority_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from topowatch_monitor.engine.group_view import PathClassView, SpreadView
    from topowatch_monitor.topology import Atlas

OTHER_PROBES = "its probe set is not the one that most runs of its group are compared on"
OTHER_SKETCH = "its predictions are sketched in another dimension than those of most runs of its group"
UNMOVED = "its predictions have not moved"
MOST_MERGED = 1000  # paths; of more, the square matrix of merge scales would take more than all else


class EndedRun(NamedTuple):
    """What a shard hands out of an ended run.

    Attributes:
        samples: when it was handed out; a run that has another number of them now has gone on since.
        digest: of its probe set, in hex.
        points: of its trace, T × d.
    """

    run: str
    samples: int
    digest: str
    labels: dict[str, str]
    results: dict[str, float]
    points: NDArray[np.float32]


class Place(NamedTuple):
    """Where the path of an ended run of `samples` samples stands; `label` is the name of its class."""

    samples: int
    label: int
    p_value: float
    outlier: bool


@dataclass(frozen=True)
class Refused:
    """The paths are too large to be compared; `reason` says what to make smaller."""

    reason: str


@dataclass(frozen=True)
class GroupFit:
    """What a refit has found, read-only. Fields that `GroupView` has as well mean the same here.

    Attributes:
        digest: of the probe set that the runs are compared on, in hex.
        atlas: for live runs; None where nothing tells paths apart.
        names: the name of each class of the atlas, by its number.
        places: of the runs that were compared.
        left_out: ended runs that could not be compared, and why.
        seen: samples of all ended runs that were handed out.
    """

    digest: str
    atlas: Atlas | None
    names: list[int]
    places: dict[str, Place]
    left_out: dict[str, str]
    seen: dict[str, int]
    abstained: bool
    reason: str
    best_p: float | None
    explained: float | None
    resolution: float | None
    scale: float | None
    bars: list[list[float]]
    p_values: list[float]
    classes: list[PathClassView]
    runs: list[str]
    merges: list[list[float]]
    spread: SpreadView


def fit_group(known: Mapping[str, int], free: int, *found: Sequence[EndedRun]) -> GroupFit | Refused:
    """Compare the ended runs of a group.

    Args:
        known: name of the class of each run that had one before.
        free: the lowest name that no class has had.
        found: ended runs, as each carrier handed them out.
    """
    ended = sorted((run for runs in found for run in runs), key=lambda run: run.run)
    seen = {run.run: run.samples for run in ended}
    compared, left_out = _comparable(ended)
    digest = compared[0].digest if compared else ""
    if len(compared) < MIN_PATHS:
        reason = f"{len(compared)} paths can be compared: classes need at least {MIN_PATHS}"
        return _nothing(digest, left_out, seen, reason)
    try:
        classes = classify_paths([run.points for run in compared])
    except TooLargeError as error:
        return Refused(str(error))
    runs = [run.run for run in compared]
    members = [
        [runs[index] for index in np.flatnonzero(classes.labels == label)] for label in np.unique(classes.labels)
    ]
    # While the answer is to abstain, all runs are of one class, 0, and those named before keep their names for later.
    names = [0] if classes.abstained else class_names(members, known, free)
    p_values, outside = outliers(classes)
    labels = [names[label] for label in classes.labels]
    places = {
        run.run: Place(run.samples, label, float(p), bool(flag))
        for run, label, p, flag in zip(compared, labels, p_values, outside, strict=True)
    }
    majority = majority_of(classes.labels)
    return GroupFit(
        digest=digest,
        atlas=None if classes.abstained else classes.atlas,
        names=names,
        places=places,
        left_out=left_out,
        seen=seen,
        abstained=classes.abstained,
        reason=classes.reason,
        best_p=classes.best_p,
        explained=classes.explained,
        resolution=classes.resolution,
        scale=classes.scale,
        bars=classes.bars.tolist(),
        p_values=classes.p_values.tolist(),
        classes=[
            {"label": names[number], "majority": number == majority, "members": inside}
            for number, inside in enumerate(members)
        ],
        runs=runs,
        merges=merges(classes.merge_scale) if len(runs) <= MOST_MERGED else [],
        spread=no_spread(classes.reason) if classes.abstained else spread_of(compared, labels),
    )


def class_names(members: Sequence[Iterable[str]], known: Mapping[str, int], free: int) -> list[int]:
    """Name classes so that as many runs as possible keep the name that their class had.

    Args:
        members: the runs of each class.
        known: name of the class of each run that had one before.
        free: the lowest name that no class has had; classes without a forerunner are given it and those above.
    """
    olds = sorted(set(known.values()))
    shared = np.zeros((len(members), len(olds)), dtype=np.int64)
    for number, inside in enumerate(members):
        for run in inside:
            if run in known:
                shared[number, olds.index(known[run])] += 1
    rows, columns = linear_sum_assignment(shared, maximize=True)
    kept = {int(row): olds[column] for row, column in zip(rows, columns, strict=True) if shared[row, column]}
    names = []
    for number in range(len(members)):
        names.append(kept.get(number, free))
        free += number not in kept
    return names


def merges(scales: NDArray[np.float64]) -> list[list[float]]:
    """Return the single linkage of n × n merge scales: n − 1 rows (first, second, scale), numbered as scipy does."""
    if len(scales) < 2:
        return []
    finite = scales[np.isfinite(scales)]
    # scipy links finite distances alone; a loop that is never filled merges above all others.
    beyond = 2.0 * float(finite.max(initial=0.0)) + 1.0
    rows = linkage(squareform(np.where(np.isfinite(scales), scales, beyond), checks=False), "single")
    return [[first, second, np.inf if scale >= beyond else scale] for first, second, scale, _ in rows.tolist()]


def _comparable(runs: Sequence[EndedRun]) -> tuple[list[EndedRun], dict[str, str]]:
    """The runs that share the commonest probe set and sketch and have moved; why the others were left out."""
    left_out = {run.run: UNMOVED for run in runs if len(run.points) < 2 or not np.ptp(run.points, axis=0).any()}
    moved = [run for run in runs if run.run not in left_out]
    digest = commonest(run.digest for run in moved)
    left_out |= {run.run: OTHER_PROBES for run in moved if run.digest != digest}
    alike = [run for run in moved if run.digest == digest]
    dimension = commonest(run.points.shape[1] for run in alike)
    left_out |= {run.run: OTHER_SKETCH for run in alike if run.points.shape[1] != dimension}
    return [run for run in alike if run.points.shape[1] == dimension], left_out


def commonest(values: Iterable[str] | Iterable[int]) -> object:
    """The commonest value, of equally common ones the least; None of none."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value), default=None)


def _nothing(digest: str, left_out: dict[str, str], seen: dict[str, int], reason: str) -> GroupFit:
    return GroupFit(
        digest=digest,
        atlas=None,
        names=[],
        places={},
        left_out=left_out,
        seen=seen,
        abstained=True,
        reason=reason,
        best_p=None,
        explained=None,
        resolution=None,
        scale=None,
        bars=[],
        p_values=[],
        classes=[],
        runs=[],
        merges=[],
        spread=no_spread(reason),
    )
