"""Which results and which settings the classes of a group are compared by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from topowatch_monitor.engine.results import commonest_metric
from topowatch_monitor.topology.spread import spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from topowatch_monitor.engine.group_fit import EndedRun
    from topowatch_monitor.engine.group_view import SpreadView

NO_METRIC = "no ended run has a result"


def spread_of(runs: Sequence[EndedRun], labels: Sequence[int]) -> SpreadView:
    """Compare the final results of the classes, among runs of equal settings.

    Args:
        runs: those that have a class.
        labels: its name, for each.
    """
    metric = commonest_metric([run.results for run in runs])
    if metric is None:
        return no_spread(NO_METRIC)
    having = [(run, label) for run, label in zip(runs, labels, strict=True) if _has(run.results, metric)]
    every = [run.labels for run, _ in having]
    names, loose = settings_of(every), ", ".join(unheld_of(every))
    found = spread(
        [run.results[metric] for run, _ in having],
        [label for _, label in having],
        [tuple(run.labels.get(name) for name in names) for run, _ in having],
    )
    return {
        "metric": metric,
        "within": found.within,
        "between": found.between,
        "p_value": found.p_value,
        "strata": names,
        "runs": len(having),
        "verdict": found.verdict,
        "reason": found.reason + (f"; not held fixed, being different in every run: {loose}" if loose else ""),
    }


def settings_of(labels: Sequence[Mapping[str, str]]) -> list[str]:
    """Labels that say how runs were set up: those that vary among them, save what tells runs apart for its own sake.

    That is a seed, by its name; or a label that is different in every run: with it, no two runs would be comparable.
    """
    return [name for name, values in _values(labels).items() if 1 < values < len(labels)]


def unheld_of(labels: Sequence[Mapping[str, str]]) -> list[str]:
    """Labels that are different in every run: a learning rate drawn at random, say, which classes may well follow."""
    return [name for name, values in _values(labels).items() if 1 < values == len(labels)]


def no_spread(reason: str) -> SpreadView:
    """Say that results were not compared, and why."""
    return {
        "metric": None,
        "within": None,
        "between": None,
        "p_value": None,
        "strata": [],
        "runs": 0,
        "verdict": "abstained",
        "reason": reason,
    }


def _values(labels: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """How many values each label has, seeds left out."""
    names = sorted({name for each in labels for name in each if "seed" not in name.lower()})
    return {name: len({each.get(name) for each in labels}) for name in names}


def _has(results: Mapping[str, float], metric: str) -> bool:
    return metric in results and math.isfinite(results[metric])
