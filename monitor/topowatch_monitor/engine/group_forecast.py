"""Learns from the ended runs of a group how those that still run will end. Pure; runs as a job beside the shards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from topowatch_monitor.detect.series import LARGEST
from topowatch_monitor.engine.features import curve_for
from topowatch_monitor.engine.finished import (
    LEVELS,
    SAME_LENGTH,
    Siblings,
    at_level,
    features_at,
    level_of,
    siblings_of,
)
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
    from topowatch_monitor.engine.made_forecasts import MadeForecast
    from topowatch_monitor.forecast import Learned

SCORED = (LEVELS // 4, LEVELS // 2, LEVELS)  # levels at which forecasts are held against plain ones
# Ended runs that are learned from, at least.
MIN_RUNS = 12
REACH = 5.0  # interquartile ranges outside the quartiles; see `within_reach`
# R² of runs that were left out, from which on forecasts are told: LEAST_R2 + FEW / n for n runs. Where results have
# nothing to do with what runs are like, it is 0.2 for 12 of them as a rule, and now and then above 0.5 (measured).
LEAST_R2, FEW = 0.2, 6.0
LITTLE = "tell too little about runs that were not learned from"
NOT_SCORED = Score(0, None, None, None, None)


class Held(NamedTuple):
    """What was learned of one target for one share of the steps, held against plain forecasts.

    Attributes:
        learned: None where nothing could be learned, for this `reason`.
        without_topology: what the others forecast of each run without topological features: n numbers in the order of
            the runs; None where it was not tried.
        baselines: the same of each baseline, by name.
        made: score of the forecasts that were made up to here while runs went on.
        made_of: which runs it is of.
    """

    learned: Learned | None
    reason: str
    without_topology: NDArray[np.float64] | None = None
    baselines: Mapping[str, NDArray[np.float64]] = {}
    made: Score = NOT_SCORED
    made_of: NDArray[np.bool_] = np.zeros(0, dtype=bool)


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
    ended = sorted((run for runs in found for run in runs if not run.cut_short), key=lambda run: run.run)
    labels = [run.labels for run in ended]
    metric = asked_metric(labels, [run.results for run in ended])
    if metric is None:
        return nothing("no ended run has a result: end runs with Watch.finish(test_accuracy=…)")
    usable = [run for run in ended if run.milestones and has(run, metric)][-MOST_RUNS:]
    if len(usable) < MIN_RUNS:
        cut = sum(run.cut_short for runs in found for run in runs)
        told = f" ({cut} that took far fewer steps than they had said do not count)" if cut else ""
        return nothing(f"{len(usable)} ended runs have a finite {metric}: forecasts need at least {MIN_RUNS}{told}")
    results = within_reach(np.array([run.results[metric] for run in usable]))
    if few_or_same(results):
        return nothing(f"all ended runs have the same {metric}: there is nothing to tell apart")
    higher = higher_is_better(metric, labels)
    siblings = siblings_of(usable, results if higher else -results)
    gaps = within_reach(np.array([gap_of(run.results, metric, higher=higher) for run in usable]))
    raws = [raw_at(usable, level, siblings, metric) for level in range(1, LEVELS + 1)]
    of_metric = learn_target(usable, metric, results, raws)
    return ForecastFit(
        metric=metric,
        reason="",
        higher_is_better=higher,
        steps=length_of([run.steps for run in usable]),
        of_metric=worth_telling(of_metric._replace(levels=beside_curves(of_metric, raws))),
        of_gap=None if few_or_same(gaps) else worth_telling(learn_target(usable, GAP, gaps, raws)),
        siblings=siblings,
    )


def length_of(lengths: Sequence[int]) -> int | None:
    """How many steps runs take, where all take about the same; None where they do not, or there are none."""
    return int(np.median(lengths)) if lengths and max(lengths) <= SAME_LENGTH * min(lengths) else None


def has(run: Finished, metric: str) -> bool:
    """Whether a run ended with a number that can be learned from."""
    return abs(run.results.get(metric, math.inf)) <= LARGEST


def within_reach(results: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take results that lie farther than REACH interquartile ranges outside the quartiles for such as lie there.

    One run that diverged would else be all that is learned of a loss.
    """
    lower, upper = np.nanquantile(results, (0.25, 0.75)) if np.isfinite(results).any() else (0.0, 0.0)
    reach = REACH * (upper - lower)
    return np.clip(results, lower - reach, upper + reach) if reach > 0 else results


def worth_telling(target: Target, blocks: NDArray[np.int64] | None = None) -> Target:
    """Leave out what was learned at levels where it says too little of runs that were left out.

    Args:
        target: what was learned.
        blocks: of its n runs; of several, more has to be known of runs than the means of the blocks.
    """
    results = target.results
    groups = np.zeros(len(results), dtype=np.int64) if blocks is None else blocks
    means = np.array([results[groups == group].mean() for group in groups])

    def judged(held: Held) -> Held:
        if held.learned is None:
            return held
        found = score(results - means, held.learned.left_out - means)
        if found.r2 is not None and found.r2 >= LEAST_R2 + FEW / found.runs:
            return held
        told = "" if found.r2 is None else f" (R² {found.r2:.2f})"
        return held._replace(
            learned=None, reason=f"{'ended runs' if blocks is None else 'other groups'} {LITTLE}{told}"
        )

    return target._replace(levels=[judged(held) for held in target.levels])


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
    told = [(result, made) for run, result in zip(ended, results, strict=True) if (made := made_at(run, metric, level))]
    values, lower, upper = ([getattr(made, name) for _, made in told] for name in ("value", "lower", "upper"))
    return score([result for result, _ in told], values, lower, upper)


def made_at(run: Finished, metric: str, level: int) -> MadeForecast | None:
    """The newest forecast of a metric that was made of a run up to a level."""
    before = [made for made in run.forecasts if made.metric == metric and level_of(made.step, run.steps) <= level]
    return before[-1] if before else None


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
        if level in SCORED:
            made_of = np.array([made_at(run, name, level) is not None for run in runs], dtype=bool)[known]
            held = held._replace(made=score_made(runs, name, level, results), made_of=made_of)
        levels.append(held)
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


def beside_curves(target: Target, raws: Sequence[NDArray[np.float64]]) -> list[Held]:
    """Hold forecasts of the metric against its curves too: the last value, and drawn on to the end.

    Both are taken to lie where the results do, as these are; see `within_reach`.
    """
    found, lowest, highest = [], target.results.min(), target.results.max()
    for held, raw in zip(target.levels, raws, strict=True):
        last, drawn = (np.clip(raw[:, NAMES.index(name)], lowest, highest) for name in ("curve_last", "curve_drawn"))
        more = {"last value": last, "power law": drawn} if held.baselines and np.isfinite(last).any() else {}
        found.append(held._replace(baselines={**held.baselines, **more}))
    return found
