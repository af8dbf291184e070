"""What is answered about forecasts: of a group, and of all groups together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from topowatch_monitor.engine.view import NO_LIVE_RUN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from topowatch_monitor.engine.forecast_view import GroupForecastView
    from topowatch_monitor.export.fleet import FleetRun, GroupKey

QUANTILES = (0.1, 0.5, 0.9)
MOST_METRICS = 16  # that quantiles are told of: those with the most live runs


def forecast_answer(group: str, runs: Sequence[FleetRun], learned: Sequence[GroupForecastView]) -> dict[str, Any]:
    """Lay out the forecasts of a group's runs.

    Args:
        group: its name.
        runs: of it.
        learned: what was learned about it, by each tenant that has a group of that name.
    """
    live = [run["forecast"] for run in runs if run["state"] == "live"]
    abstained = all(forecast["abstained"] for forecast in live)
    reasons = sorted({forecast["reason"] for forecast in live if forecast["abstained"]})
    reason = "; ".join(reasons) if live else NO_LIVE_RUN
    return {
        "group": group,
        "abstained": abstained,
        "reason": reason if abstained else "",
        "learned": list(learned),
        "runs": [{"run": run["run"], "state": run["state"], "at": run["step"], **run["forecast"]} for run in runs],
    }


def fleet_answer(runs: Sequence[FleetRun], learned: Mapping[GroupKey, GroupForecastView]) -> dict[str, Any]:
    """Lay out the forecasts of all groups that have a live run, and over them.

    Args:
        runs: all of them.
        learned: what was learned about groups, by tenant and name.
    """
    live: dict[GroupKey, list[FleetRun]] = {}
    for run in runs:
        if run["state"] == "live":
            live.setdefault((run["tenant"], run["group"]), []).append(run)
    groups = []
    for key, members in sorted(live.items(), key=lambda item: (item[0][1], item[0][0])):
        view, told = learned.get(key), [run for run in members if run["forecast"]["value"] is not None]
        better = max if view is None or view["higher_is_better"] else min
        best = better(told, key=lambda run: run["forecast"]["value"] or 0.0, default=None)
        groups.append(
            {
                "tenant": key[0],
                "group": key[1],
                "metric": None if view is None else view["metric"],
                "live": len(members),
                "told": len(told),
                "missing_target": sum(run["forecast"]["misses_target"] is True for run in told),
                "best": None if best is None else {"run": best["run"], **best["forecast"]},
                "learned": view,
            }
        )
    return {"groups": groups, "quantiles": quantiles_of(runs)}


def quantiles_of(runs: Iterable[FleetRun]) -> dict[str, dict[str, float]]:
    """Quantiles of what live runs are forecast to end with, by metric, of MOST_METRICS at most, and quantile."""
    values: dict[str, list[float]] = {}
    for run in runs:
        metric, value = run["forecast"]["metric"], run["forecast"]["value"]
        if run["state"] == "live" and metric is not None and value is not None:
            values.setdefault(metric, []).append(value)
    chosen = sorted(values, key=lambda metric: (-len(values[metric]), metric))[:MOST_METRICS]
    return {
        metric: dict(zip(map(str, QUANTILES), np.quantile(values[metric], QUANTILES).tolist(), strict=True))
        for metric in sorted(chosen)
    }


def abstained_share(runs: Iterable[FleetRun]) -> float | None:
    """Share of live runs of which nothing is forecast, of those that are far enough; None without one."""
    due = [run["forecast"]["abstained"] for run in runs if run["state"] == "live" and not run["forecast"]["early"]]
    return sum(due) / len(due) if due else None
