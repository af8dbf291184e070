"""What groups teach about one that has too few ended runs of its own. Pure; runs as a job beside the shards.

Each group is left out in turn, whole, and forecast from the rest: intervals and scores are of that, as a new group will
be no more like them than they are like one another. Few groups make no law: that is why three are needed, and why
nothing is told where forecasts of runs of groups that were left out are hardly better than the means of these groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.engine.finished import LEVELS, Siblings
from topowatch_monitor.engine.group_forecast import (
    MIN_RUNS,
    NOT_SCORED,
    ForecastFit,
    beside_curves,
    few_or_same,
    has,
    learn_target,
    nothing,
    raw_at,
    within_reach,
    worth_telling,
)
from topowatch_monitor.engine.results import GAP, asked_metric, gap_of, higher_is_better
from topowatch_monitor.forecast import FEATURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from topowatch_monitor.engine.finished import Finished
    from topowatch_monitor.engine.group_forecast import Target

LEAST_GROUPS = 3
MOST_GROUPS = 6  # those with the most ended runs
MOST_RUNS = 120  # of all groups together, evenly
# A new group has hardly any siblings to agree with, so nothing is learned of agreement.
_OF_SIBLINGS = [feature.family == "siblings" for feature in FEATURES]
_NOBODY = Siblings("", [], None)


def fit_prior(*found: Sequence[Finished]) -> ForecastFit:
    """Learn from ended runs of several groups, as each carrier handed them out; of how many steps is left open."""
    groups: dict[str, list[Finished]] = {}
    for run in sorted((run for runs in found for run in runs if not run.cut_short), key=lambda run: run.run):
        groups.setdefault(run.group, []).append(run)
    told = [asked_metric([run.labels for run in runs], [run.results for run in runs]) for runs in groups.values()]
    known = [metric for metric in told if metric is not None]
    metric = max(sorted(set(known)), key=known.count, default="")
    usable = {name: [run for run in runs if run.milestones and has(run, metric)] for name, runs in groups.items()}
    usable = {name: runs for name, runs in sorted(usable.items()) if len(runs) >= MIN_RUNS}
    if len(usable) < LEAST_GROUPS:
        return nothing(f"{len(usable)} other groups have {MIN_RUNS} ended runs that tell {metric or 'a result'}")
    usable = {name: runs[-(MOST_RUNS // len(usable)) :] for name, runs in usable.items()}
    runs = [run for group in usable.values() for run in group]
    blocks = np.repeat(np.arange(len(usable)), [len(group) for group in usable.values()])
    results = within_reach(np.array([run.results[metric] for run in runs]))
    if few_or_same(results):
        return nothing(f"all runs of other groups have the same {metric}")
    higher = higher_is_better(metric, [run.labels for run in runs])
    gaps = within_reach(np.array([gap_of(run.results, metric, higher=higher) for run in runs]))
    raws = [raw_at(runs, level, _NOBODY, metric) for level in range(1, LEVELS + 1)]
    for raw in raws:
        raw[:, _OF_SIBLINGS] = np.nan
    of_metric = learn_target(runs, metric, results, raws, blocks)
    of_metric = of_metric._replace(levels=beside_curves(of_metric, raws))
    of_gap = None if few_or_same(gaps) else learn_target(runs, GAP, gaps, raws, blocks)
    return ForecastFit(
        metric=metric,
        reason="",
        higher_is_better=higher,
        steps=None,
        of_metric=_of_no_run_yet(worth_telling(of_metric, blocks)),
        of_gap=None if of_gap is None else _of_no_run_yet(worth_telling(of_gap, blocks[np.isfinite(gaps)])),
        siblings=_NOBODY,
        others=tuple(usable),
    )


def _of_no_run_yet(target: Target) -> Target:
    """What was forecast of the other groups' runs says nothing of the group that this is for."""
    none = np.zeros(0, dtype=bool)
    return target._replace(levels=[held._replace(made=NOT_SCORED, made_of=none) for held in target.levels])
