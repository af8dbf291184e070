"""The dashboard 'Forecasts': how live runs will end, which miss their target, and how far to trust that."""
# ruff: noqa: INP001 - imported by a script beside it, and the folder is no package

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from panels import GROUP, RUN, RUNS_BY_VERDICT, about_runs, curves, figure, rows

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

ONE_RUN = "{{group}} {{run}}"
ONE_GROUP = "{{group}}"


def dashboard() -> Dashboard:
    """Build the dashboard."""
    made = about_runs(
        "topowatch: forecasts",
        "topowatch-forecasts",
        "What live runs are forecast to end with, and how good such forecasts were once runs had ended. No series, no "
        "claim: where a run is unlike those that were learned from, nothing is forecast.",
    )
    return rows(made, {"Runs": _runs(), "How far to trust it": _trust(), "Cluster": _cluster()})


def _runs() -> list[Any]:
    return [
        curves(
            "Forecast of the result",
            "What each live run is forecast to end with, in the unit of its group's result.",
            {ONE_RUN: f"topowatch_forecast_metric{RUN}"},
        ),
        curves(
            "90 % interval",
            "Both ends of the interval of that forecast.",
            {
                "{{group}} {{run}} lower": f"topowatch_forecast_lower{RUN}",
                "{{group}} {{run}} upper": f"topowatch_forecast_upper{RUN}",
            },
        ),
        curves(
            "Forecast of the gap",
            "By how much each live run is forecast to do better on its training data than on held-out data.",
            {ONE_RUN: f"topowatch_forecast_gap{RUN}"},
            span=8,
        ),
        curves(
            "Targets missed",
            "1 where the whole interval misses what the run is to reach.",
            {ONE_RUN: f"topowatch_forecast_misses_target{RUN}"},
            span=8,
        ),
        curves(
            "Nothing is forecast",
            "Share of each group's live runs of which nothing is forecast, without those that have hardly begun.",
            {ONE_GROUP: f"topowatch_group_forecast_abstained{GROUP}"},
            span=8,
        ),
    ]


def _trust() -> list[Any]:
    return [
        figure(
            "R² of forecasts that were made",
            "Of runs that have ended since, at half of their steps; 1 is perfect, 0 no better than the mean.",
            {ONE_GROUP: f"topowatch_group_forecast_r2{GROUP}"},
        ),
        figure(
            "R² of the best plain forecast",
            "Of the same runs: last value, power law, loss only, or weight norm and path length.",
            {ONE_GROUP: f"topowatch_group_forecast_baseline_r2{GROUP}"},
        ),
        figure(
            "Coverage",
            "Share of results within the 90 % interval that was told; 0.9 is right.",
            {ONE_GROUP: f"topowatch_group_forecast_coverage{GROUP}"},
        ),
        figure(
            "Without a forecast",
            "Share of the group's live runs now.",
            {ONE_GROUP: f"topowatch_group_forecast_abstained{GROUP}"},
        ),
        curves(
            "R² over time",
            "Of the forecasts that were made, beside the best plain one.",
            {
                "{{group}} made": f"topowatch_group_forecast_r2{GROUP}",
                "{{group}} plain": f"topowatch_group_forecast_baseline_r2{GROUP}",
            },
        ),
        curves(
            "Coverage over time",
            "Share of results within the 90 % interval that was told.",
            {ONE_GROUP: f"topowatch_group_forecast_coverage{GROUP}"},
        ),
    ]


def _cluster() -> list[Any]:
    return [
        curves(
            "Forecasts over the cluster",
            "Quantiles of what all live runs are forecast to end with, by metric.",
            {"{{metric}} {{quantile}}": "topowatch_cluster_forecast_metric"},
        ),
        curves("Runs by verdict", "How the runs with series do now.", {"{{verdict}}": RUNS_BY_VERDICT}),
    ]
