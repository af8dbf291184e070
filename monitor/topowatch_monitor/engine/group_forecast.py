"""Learns from the ended runs of a group how those that still run will end. Pure; runs as a job beside the shards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from topowatch_monitor.engine.group_fit import commonest
from topowatch_monitor.engine.group_spread import commonest_metric
from topowatch_monitor.forecast import Table, UnusableError, fit
from topowatch_monitor.forecast.baselines import LOSS_ONLY, NORM_AND_LENGTH, last_value, power_law
from topowatch_monitor.forecast.consensus import Consensus
from topowatch_monitor.forecast.regressor import MOST_RUNS
from topowatch_monitor.forecast.scores import Score, score
from topowatch_monitor.forecast.table import NAMES, TOPOLOGICAL, raw_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from topowatch_monitor.engine.made_forecasts import MadeForecast
    from topowatch_monitor.engine.milestones import Milestone
    from topowatch_monitor.forecast import Regressor

# A forecast is made each time that a run passes a sixteenth of its steps.
LEVELS = 16
SCORED = (LEVELS // 4, LEVELS // 2, LEVELS)  # levels at which forecasts are held against plain ones
# Ended runs that are learned from, at least.
MIN_RUNS = 12
# Runs whose lengths differ by no more are taken to be of one length, which those that do not say theirs will have too.
SAME_LENGTH = 1.1
TOTAL_LABEL = "total_steps"
NOT_SCORED = Score(0, None, None, None, None)
_LOWER_IS_BETTER = ("loss", "error", "perplexity", "nll", "mse", "mae", "gap")
_SIBLINGS = ("agreement", "agreement_mean", "agreement_sure")


class Finished(NamedTuple):
    """What a shard hands out of an ended run.

    Attributes:
        digest: of its probe set, in hex; empty without one.
        classes: that predictions on it are of; 0 where they are of none.
        results: that it ended with.
        steps: that it took.
        milestones: on its way; the last is its end.
        curves: scalars that were logged under the names of results: steps and values.
        forecasts: that were made of it while it went on, ascending in step.
    """

    run: str
    digest: str
    classes: int
    results: dict[str, float]
    steps: int
    milestones: list[Milestone]
    curves: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
    forecasts: list[MadeForecast]


class Level(NamedTuple):
    """What was learned for one share of the steps.

    Attributes:
        table: how features become rows; None, as the next, where nothing could be learned, for this `reason`.
        with_topology: forecasts of the runs that were learned from, each left out: n numbers in the order of the runs.
        without_topology: the same without topological features; None where it was not tried.
        baselines: the same of each baseline, by name.
        made: score of the forecasts that were made up to here while runs went on.
    """

    table: Table | None
    regressor: Regressor | None
    reason: str
    with_topology: NDArray[np.float64] | None = None
    without_topology: NDArray[np.float64] | None = None
    baselines: Mapping[str, NDArray[np.float64]] = {}
    made: Score = NOT_SCORED


class Siblings(NamedTuple):
    """What the ended runs of a group predict on their common probe set, `digest`; no consensus without two of them."""

    digest: str
    consensus: Consensus | None


class ForecastFit(NamedTuple):
    """What was learned from a group, read-only.

    Attributes:
        metric: that is forecast; None where nothing is, for this `reason`.
        runs: that were learned from.
        results: of each.
        steps: that runs of the group take, where all take about the same.
        levels: what was learned for each sixteenth of the steps, the first of which is 1/16.
        siblings: that live runs may agree with.
    """

    metric: str | None
    reason: str
    runs: list[str]
    results: NDArray[np.float64]
    steps: int | None
    levels: list[Level]
    siblings: Siblings

    def score_at(self, level: int) -> Score:
        """Score what was forecast of each run by the others, at a level from 1 to LEVELS."""
        said = self.levels[level - 1].with_topology
        return score(self.results, np.full(len(self.results), np.nan) if said is None else said)


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better, by its name: not of losses, errors and what is named after them."""
    return not any(part in metric.lower() for part in _LOWER_IS_BETTER)


def level_of(step: int, steps: float) -> int:
    """The sixteenths of its steps that a run has passed at the end of `step`, at most LEVELS."""
    return min(LEVELS, math.floor(LEVELS * (step + 1) / steps + 1e-9))


def at_level(milestones: Sequence[Milestone], steps: float, level: int) -> Milestone | None:
    """The newest milestone up to a level of a run, which knows nothing of later steps; None where it is a level old."""
    wanted = steps * level / LEVELS - 1
    newest = next((each for each in reversed(milestones) if each.step <= wanted + 1e-9), None)
    return None if newest is None or wanted - newest.step > max(1.0, steps / LEVELS) else newest


def fit_forecasts(*found: Sequence[Finished]) -> ForecastFit:
    """Learn from the ended runs of a group, as each carrier handed them out."""
    ended = sorted((run for runs in found for run in runs), key=lambda run: run.run)
    metric = commonest_metric([run.results for run in ended])
    if metric is None:
        return nothing("no ended run has a result: end runs with Watch.finish(test_accuracy=…)")
    usable = [run for run in ended if run.milestones and math.isfinite(run.results.get(metric, math.nan))][-MOST_RUNS:]
    if len(usable) < MIN_RUNS:
        return nothing(f"{len(usable)} ended runs have a finite {metric}: forecasts need at least {MIN_RUNS}")
    results = np.array([run.results[metric] for run in usable])
    if np.ptp(results) <= 1e-12 * max(1.0, float(np.abs(results).max())):
        return nothing(f"all ended runs have the same {metric}: there is nothing to tell apart")
    digest = str(commonest(run.digest for run in usable if run.classes > 1 and len(run.milestones[-1].predicted)) or "")
    siblings = Siblings(digest, _consensus(usable, digest))
    lengths = np.array([run.steps for run in usable], dtype=np.float64)
    return ForecastFit(
        metric=metric,
        reason="",
        runs=[run.run for run in usable],
        results=results,
        steps=int(np.median(lengths)) if lengths.max() <= SAME_LENGTH * lengths.min() else None,
        levels=[_learn(usable, results, level, siblings, metric) for level in range(1, LEVELS + 1)],
        siblings=siblings,
    )


def score_made(ended: Sequence[Finished], metric: str, level: int) -> Score:
    """Score the forecasts that were made before runs ended, as each was made nearest to a level, but not after it."""
    results, said = [], []
    for run in ended:
        before = [made for made in run.forecasts if made.metric == metric and level_of(made.step, run.steps) <= level]
        if before and metric in run.results:
            results.append(run.results[metric])
            said.append(before[-1])
    values, lower, upper = ([getattr(made, name) for made in said] for name in ("value", "lower", "upper"))
    return score(results, values, lower, upper)


def nothing(reason: str) -> ForecastFit:
    """Say that nothing can be forecast, and why."""
    return ForecastFit(None, reason, [], np.empty(0), None, [], Siblings("", None))


def features_at(
    milestone: Milestone, digest: str, siblings: Siblings, own: NDArray[np.uint32] | None = None
) -> NDArray[np.float64]:
    """Features of a milestone, with how far it agrees with the siblings.

    Args:
        milestone: of a run.
        digest: of its probe set.
        siblings: of the run.
        own: what the run itself has contributed to their consensus.
    """
    if siblings.consensus is None or digest != siblings.digest or not len(milestone.predicted):
        return milestone.features
    predicted = milestone.predicted.astype(np.int64)
    mine = None if own is None else own.astype(np.int64)
    found = siblings.consensus.agreement(predicted, milestone.confidence, own=mine)
    agreed = raw_row(dict(zip(_SIBLINGS, found, strict=True)))
    return np.where(np.isfinite(agreed), agreed, milestone.features)


def _learn(
    runs: Sequence[Finished], results: NDArray[np.float64], level: int, siblings: Siblings, metric: str
) -> Level:
    raw = np.full((len(runs), len(NAMES)), np.nan)
    for place, run in enumerate(runs):
        milestone = at_level(run.milestones, run.steps, level)
        if milestone is not None:
            own = run.milestones[-1].predicted if _speaks(run, siblings.digest) else None
            raw[place] = features_at(milestone, run.digest, siblings, own)
    try:
        table = Table(raw)
    except UnusableError as error:
        return Level(None, None, str(error))
    regressor = fit(table.rows, results)
    if level not in SCORED:
        return Level(table, regressor, "", regressor.left_out)
    plain = {"loss only": LOSS_ONLY, "weight norm and path length": NORM_AND_LENGTH}
    baselines = {name: found for name, left in plain.items() if (found := _left_out(raw, results, left)) is not None}
    baselines |= _drawn_on(runs, level, metric)
    plain_too = _left_out(raw, results, TOPOLOGICAL)
    return Level(table, regressor, "", regressor.left_out, plain_too, baselines, score_made(runs, metric, level))


def _left_out(
    raw: NDArray[np.float64], results: NDArray[np.float64], without: frozenset[str]
) -> NDArray[np.float64] | None:
    try:
        return fit(Table(raw, without).rows, results).left_out
    except UnusableError:
        return None


def _drawn_on(runs: Sequence[Finished], level: int, metric: str) -> dict[str, NDArray[np.float64]]:
    """What the curves of the metric say, where they were logged: the last value, and drawn on to the end."""
    last, drawn = np.full((2, len(runs)), np.nan)
    for place, run in enumerate(runs):
        steps, values = run.curves.get(metric, (np.empty(0, dtype=np.int64), np.empty(0)))
        seen = steps < run.steps * level / LEVELS
        found = last_value(values[seen]), power_law(steps[seen], values[seen], run.steps - 1)
        last[place], drawn[place] = (math.nan if value is None else value for value in found)
    if not np.isfinite(last).any():
        return {}
    return {"last value": last, "power law": drawn}


def _consensus(runs: Sequence[Finished], digest: str) -> Consensus | None:
    alike = [run for run in runs if _speaks(run, digest)]
    if len(alike) < 2:
        return None
    stacked = np.stack([run.milestones[-1].predicted for run in alike]).astype(np.int64)
    return Consensus(stacked, max(int(stacked.max()) + 1, *(run.classes for run in alike)))


def _speaks(run: Finished, digest: str) -> bool:
    """Whether the predictions that a run ended with are part of the consensus; one probe set has one number of them."""
    return bool(digest) and run.digest == digest and len(run.milestones[-1].predicted) > 0
