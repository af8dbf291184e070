"""Learns from the ended runs of a group how those that still run will end. Pure; runs as a job beside the shards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from topowatch_monitor.engine.features import curve_for
from topowatch_monitor.engine.finished import LEVELS, Siblings, at_level, features_at, level_of, siblings_of
from topowatch_monitor.engine.results import GAP, asked_metric, gap_of, higher_is_better
from topowatch_monitor.forecast import UnusableError, learn
from topowatch_monitor.forecast.baselines import LOSS_ONLY, NORM_AND_LENGTH
from topowatch_monitor.forecast.regressor import MOST_RUNS, all_same
from topowatch_monitor.forecast.scores import Score, score
from topowatch_monitor.forecast.table import NAMES, TOPOLOGICAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from topowatch_monitor.engine.finished import Finished
    from topowatch_monitor.forecast import Learned

SCORED = (LEVELS // 4, LEVELS // 2, LEVELS)  # levels at which forecasts are held against plain ones
# Ended runs that are learned from, at least.
MIN_RUNS = 12
# Runs whose lengths differ by no more are taken to be of one length, which those that do not say theirs will have too.
SAME_LENGTH = 1.1
NOT_SCORED = Score(0, None, None, None, None)


class Held(NamedTuple):
    """What was learned of one target for one share of the steps, held against plain forecasts.

    Attributes:
        learned: None where nothing could be learned, for this `reason`.
        without_topology: what the others forecast of each run without topological features: n numbers in the order of
            the runs; None where it was not tried.
        baselines: the same of each baseline, by name.
        made: score of the forecasts that were made up to here while runs went on.
    """

    learned: Learned | None
    reason: str
    without_topology: NDArray[np.float64] | None = None
    baselines: Mapping[str, NDArray[np.float64]] = {}
    made: Score = NOT_SCORED


class Target(NamedTuple):
    """A number that is forecast.

    Attributes:
        results: what runs that were learned from ended with.
        levels: what was learned for each sixteenth of the steps, the first of which is 1/16.
    """

    results: NDArray[np.float64]
    levels: list[Held]


class ForecastFit(NamedTuple):
    """What was learned from a group, read-only.

    Attributes:
        metric: that is forecast; None where nothing is, for this `reason`.
        higher_is_better: of the metric.
        steps: that runs of the group take, where all take about the same.
        of_metric: what was learned of it.
        of_gap: the same of the gap, by which training does better than held-out data; None where too few have one.
        siblings: that live runs may agree with.
        others: groups that this was learned from, where its own has too few ended runs; else none.
    """

    metric: str | None
    reason: str
    higher_is_better: bool
    steps: int | None
    of_metric: Target
    of_gap: Target | None
    siblings: Siblings
    others: tuple[str, ...] = ()


def fit_forecasts(*found: Sequence[Finished]) -> ForecastFit:
    """Learn from the ended runs of a group, as each carrier handed them out."""
    ended = sorted((run for runs in found for run in runs), key=lambda run: run.run)
    labels = [run.labels for run in ended]
    metric = asked_metric(labels, [run.results for run in ended])
    if metric is None:
        return nothing("no ended run has a result: end runs with Watch.finish(test_accuracy=…)")
    usable = [run for run in ended if run.milestones and math.isfinite(run.results.get(metric, math.nan))][-MOST_RUNS:]
    if len(usable) < MIN_RUNS:
        return nothing(f"{len(usable)} ended runs have a finite {metric}: forecasts need at least {MIN_RUNS}")
    results = np.array([run.results[metric] for run in usable])
    if few_or_same(results):
        return nothing(f"all ended runs have the same {metric}: there is nothing to tell apart")
    higher = higher_is_better(metric, labels)
    siblings = siblings_of(usable, results if higher else -results)
    gaps = np.array([gap_of(run.results, metric, higher=higher) for run in usable])
    raws = [raw_at(usable, level, siblings, metric) for level in range(1, LEVELS + 1)]
    of_metric = learn_target(usable, metric, results, raws)
    return ForecastFit(
        metric=metric,
        reason="",
        higher_is_better=higher,
        steps=common_length(usable),
        of_metric=of_metric._replace(levels=beside_curves(of_metric.levels, raws)),
        of_gap=None if few_or_same(gaps) else learn_target(usable, GAP, gaps, raws),
        siblings=siblings,
    )


def common_length(runs: Sequence[Finished]) -> int | None:
    """How many steps runs take, where all take about the same; None where they do not, or there are none."""
    lengths = [run.steps for run in runs]
    return int(np.median(lengths)) if lengths and max(lengths) <= SAME_LENGTH * min(lengths) else None


def few_or_same(values: NDArray[np.float64]) -> bool:
    """Whether nothing can be learned from numbers: too few are finite, or they differ by no more than rounding."""
    known = values[np.isfinite(values)]
    return len(known) < MIN_RUNS or all_same(known)


def score_made(ended: Sequence[Finished], metric: str, level: int, results: NDArray[np.float64]) -> Score:
    """Score the forecasts of a metric that were made before runs ended, the newest up to a level of each.

    Args:
        ended: n runs.
        metric: that was forecast; forecasts of others are left out.
        level: sixteenths of the steps of a run.
        results: n numbers that they ended with; NaN where unknown.
    """
    true, said = [], []
    for run, result in zip(ended, results, strict=True):
        before = [made for made in run.forecasts if made.metric == metric and level_of(made.step, run.steps) <= level]
        if before:
            true.append(result)
            said.append(before[-1])
    values, lower, upper = ([getattr(made, name) for made in said] for name in ("value", "lower", "upper"))
    return score(true, values, lower, upper)


def nothing(reason: str) -> ForecastFit:
    """Say that nothing can be forecast, and why."""
    return ForecastFit(
        metric=None,
        reason=reason,
        higher_is_better=True,
        steps=None,
        of_metric=Target(np.empty(0), []),
        of_gap=None,
        siblings=Siblings("", [], None),
    )


def raw_at(runs: Sequence[Finished], level: int, siblings: Siblings, metric: str) -> NDArray[np.float64]:
    """Features of ended runs at a level, n × F by `forecast.FEATURES`, as each was when it knew nothing of its end."""
    raw = np.full((len(runs), len(NAMES)), np.nan)
    for place, run in enumerate(runs):
        milestone = at_level(run.milestones, run.steps, level)
        if milestone is not None:
            curve = curve_for(run.curves, metric)
            raw[place] = features_at(milestone, siblings, digest=run.digest, curve=curve, steps=run.steps, run=run.run)
    return raw


def learn_target(
    runs: Sequence[Finished],
    name: str,
    results: NDArray[np.float64],
    raws: Sequence[NDArray[np.float64]],
    blocks: NDArray[np.int64] | None = None,
) -> Target:
    """Learn one number at all levels.

    Args:
        runs: n ended ones.
        name: of the number, as forecasts of it are called.
        results: n numbers, NaN where unknown.
        raws: n × F features of each level.
        blocks: n numbers, the same of runs that are left out together; None: each by itself.
    """
    known = np.isfinite(results)
    levels = []
    for level, raw in enumerate(raws, 1):
        held = _hold(raw[known], results[known], None if blocks is None else blocks[known], scored=level in SCORED)
        levels.append(held._replace(made=score_made(runs, name, level, results)) if level in SCORED else held)
    return Target(results[known], levels)


def _hold(
    raw: NDArray[np.float64], targets: NDArray[np.float64], blocks: NDArray[np.int64] | None, *, scored: bool
) -> Held:
    """Learn one target and, where it is to be scored, what plain forecasts of it are worth."""
    try:
        learned = learn(raw, targets, blocks=blocks)
    except UnusableError as error:
        return Held(None, str(error))
    if not scored:
        return Held(learned, "")
    plain = {"loss only": LOSS_ONLY, "weight norm and path length": NORM_AND_LENGTH}
    baselines = {
        name: said for name, left in plain.items() if (said := _left_out(raw, targets, left, blocks)) is not None
    }
    return Held(learned, "", _left_out(raw, targets, TOPOLOGICAL, blocks), baselines)


def _left_out(
    raw: NDArray[np.float64],
    targets: NDArray[np.float64],
    without: frozenset[str],
    blocks: NDArray[np.int64] | None,
) -> NDArray[np.float64] | None:
    try:
        return learn(raw, targets, without, blocks).left_out
    except UnusableError:
        return None


def beside_curves(levels: Sequence[Held], raws: Sequence[NDArray[np.float64]]) -> list[Held]:
    """Hold forecasts of the metric against its curves too: the last value, and drawn on to the end."""
    found = []
    for held, raw in zip(levels, raws, strict=True):
        last, drawn = (raw[:, NAMES.index(name)] for name in ("curve_last", "curve_drawn"))
        more = {"last value": last, "power law": drawn} if held.baselines and np.isfinite(last).any() else {}
        found.append(held._replace(baselines={**held.baselines, **more}))
    return found
