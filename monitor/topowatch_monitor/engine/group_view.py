"""What the engine tells of a group: the classes of its runs' paths, and whether they go with the results."""

from __future__ import annotations

from typing import TypedDict


class PathClassView(TypedDict):
    """A class of paths; `label` is its name, which stays its own over refits."""

    label: int
    majority: bool
    members: list[str]


class SpreadView(TypedDict):
    """Whether runs of different classes end with different results.

    Attributes:
        metric: the result that was compared; None where there was none.
        within: standard deviation of the metric about its class's mean, in its own unit.
        between: standard deviation of the class means about the overall mean, weighted by size.
        p_value: of the permutation test within the strata.
        strata: labels whose values were held fixed.
        runs: runs with a class and the metric.
        verdict: difference, no difference, or abstained.
        reason: the verdict in words.
    """

    metric: str | None
    within: float | None
    between: float | None
    p_value: float | None
    strata: list[str]
    runs: int
    verdict: str
    reason: str


class GroupView(TypedDict):
    """Everything that is told of a group; None where nothing is known.

    Attributes:
        version: refits of its atlas so far; 0 before the first.
        fitted_at: Unix seconds of the latest refit.
        ended: ended runs with a path of predictions; live: those that are still running.
        best_p: smallest p-value of any bar, corrected for their number.
        explained: share of the paths' variance that the reduced space holds.
        resolution: cover radius of the landmarks, in representation distance; scale: the one at which paths are
            realised.
        bars: birth and death of the bars that count; p_values: theirs.
        merges: single linkage of the ended runs by merge scale, n − 1 rows (first, second, scale); rows and runs are
            numbered as scipy's linkage does, runs in the order of `runs`. Without rows where there are too many runs.
        runs: names of the ended runs that were classified.
        outliers: names of the runs that are outside their siblings' classes.
        fits, timeouts, refused: homology jobs of the group that ended, that took too long and were dropped, and that
            were too large to be begun.
    """

    tenant: str
    group: str
    version: int
    fitted_at: float | None
    ended: int
    live: int
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
    outliers: list[str]
    spread: SpreadView
    fits: int
    timeouts: int
    refused: int
