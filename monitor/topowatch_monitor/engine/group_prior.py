"""What other groups teach about one that has too few ended runs of its own. Pure; runs as a job beside the shards.

Each of these groups is left out in turn, whole, and forecast from the rest: intervals and scores are of that, as the
new group will be no more like them than they are like one another. Few groups make no law: that is why three are
needed, and why nothing is told where forecasts of groups that were left out are hardly better than a mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.engine.finished import LEVELS, siblings_of
from topowatch_monitor.engine.group_forecast import (
    MIN_RUNS,
    ForecastFit,
    Held,
    Target,
    beside_curves,
    common_length,
    few_or_same,
    learn_target,
    nothing,
    raw_at,
)
from topowatch_monitor.engine.results import GAP, asked_metric, gap_of, higher_is_better
from topowatch_monitor.forecast import FEATURES
from topowatch_monitor.forecast.scores import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from topowatch_monitor.engine.finished import Finished

LEAST_GROUPS = 3
LEAST_R2 = 0.2  # of groups that were left out whole; of results that have nothing to do with runs a little above 0
MOST_GROUPS = 6  # those with the most ended runs
MOST_RUNS = 180  # of all groups together, evenly


def fit_prior(group: str, *found: Sequence[Finished]) -> ForecastFit:
    """Learn from ended runs of other groups.

    Args:
        group: name of the one that is learned for.
        found: ended runs of it, fewer than MIN_RUNS, and of others, as each carrier handed them out.
    """
    groups: dict[str, list[Finished]] = {group: []}
    for run in sorted((run for runs in found for run in runs), key=lambda run: run.run):
        groups.setdefault(run.group, []).append(run)
    own = groups.pop(group)
    few = f"{len(own)} of its runs have ended with a result: forecasts need at least {MIN_RUNS}"
    metric = _metric_of(own) or _commonest([_metric_of(runs) for runs in groups.values()])
    if metric is None:
        return nothing(few)
    usable: dict[str, list[Finished]] = {}
    for name in sorted(groups):
        runs = [run for run in groups[name] if run.milestones and np.isfinite(run.results.get(metric, np.nan))]
        if len(runs) >= MIN_RUNS:
            usable[name] = runs
    if len(usable) < LEAST_GROUPS:
        return nothing(f"{few}, or {LEAST_GROUPS} other groups with as many that tell {metric}")
    each = MOST_RUNS // len(usable)
    usable = {name: runs[-each:] for name, runs in usable.items()}
    runs = [run for group in usable.values() for run in group]
    blocks = np.repeat(np.arange(len(usable)), [len(group) for group in usable.values()])
    results = np.array([run.results[metric] for run in runs])
    if few_or_same(results):
        return nothing(f"{few}, and all runs of other groups have the same {metric}")
    higher = higher_is_better(metric, [run.labels for run in runs])
    raws = [_raw(list(usable.values()), level, metric, higher=higher) for level in range(1, LEVELS + 1)]
    told = [run for run in own if run.milestones and np.isfinite(run.results.get(metric, np.nan))]
    merits = np.array([run.results[metric] for run in told])
    siblings = siblings_of(told, merits if higher else -merits)
    if siblings.consensus is None:  # the group's runs have nobody to agree with, so nothing is learned of agreement
        for raw in raws:
            raw[:, [feature.family == "siblings" for feature in FEATURES]] = np.nan
    of_metric = _carried_over(learn_target(runs, metric, results, raws, blocks))
    gaps = np.array([gap_of(run.results, metric, higher=higher) for run in runs])
    return ForecastFit(
        metric=metric,
        reason="",
        higher_is_better=higher,
        steps=common_length(own),
        of_metric=of_metric._replace(levels=beside_curves(of_metric.levels, raws)),
        of_gap=None if few_or_same(gaps) else _carried_over(learn_target(runs, GAP, gaps, raws, blocks)),
        siblings=siblings,
        others=tuple(usable),
    )


def _raw(groups: Sequence[Sequence[Finished]], level: int, metric: str, *, higher: bool) -> NDArray[np.float64]:
    """Features of all runs, each compared with the siblings of its own group."""
    found = []
    for runs in groups:
        merits = np.array([run.results[metric] for run in runs])
        found.append(raw_at(runs, level, siblings_of(runs, merits if higher else -merits), metric))
    return np.concatenate(found)


def _carried_over(target: Target) -> Target:
    """Leave out what was learned at levels where it says too little of groups that were left out."""

    def judged(held: Held) -> Held:
        if held.learned is None:
            return held
        r2 = score(target.results, held.learned.left_out).r2
        if r2 is not None and r2 >= LEAST_R2:
            return held
        told = "nothing" if r2 is None else f"R² {r2:.2f}"
        return held._replace(learned=None, reason=f"what other groups teach does not carry over to new ones ({told})")

    return target._replace(levels=[judged(held) for held in target.levels])


def _metric_of(runs: Sequence[Finished]) -> str | None:
    return asked_metric([run.labels for run in runs], [run.results for run in runs])


def _commonest(metrics: Sequence[str | None]) -> str | None:
    known = [metric for metric in metrics if metric is not None]
    return max(sorted(set(known)), key=known.count, default=None)
