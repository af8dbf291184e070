"""The dashboard 'Fleet': which runs need a person, and whether what is told of them is fresh."""
# ruff: noqa: INP001 - imported by a script beside it, and the folder is no package

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from panels import GROUP, RUN, curves, empty, figure, listed, rows, stacked, where

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

ONE_RUN = "{{group}} {{run}}"
ONE_GROUP = "{{group}}"
LIVE = where('state="live"')
NEEDS_A_PERSON = where('verdict=~"unstable|lost|warning"')


def dashboard() -> Dashboard:
    """Build the dashboard."""
    made = empty(
        "topowatch: fleet",
        "topowatch-fleet",
        "All runs that have series: those that need a person, what groups are forecast to reach, how fresh it all is.",
    )
    return rows(made, {"Who needs a person": _people(), "Groups": _groups(), "Flow": _flow()})


def _people() -> list[Any]:
    return [
        figure(
            "Runs by verdict", "How the runs with series do now.", {"{{verdict}}": "topowatch_cluster_runs"}, span=24
        ),
        listed(
            "Runs that need a person",
            "Unstable: its minimum is being lost. Lost: silent for long. Warning: worth a look.",
            f"topowatch_run_info{NEEDS_A_PERSON} == 1",
            ("tenant", "group", "run", "state", "verdict"),
        ),
        listed(
            "Active detectors",
            "What is on now, and of which run; the runbooks say what to do.",
            f"topowatch_detector_active{RUN} == 1",
            ("tenant", "group", "run", "detector"),
        ),
        curves(
            "Instability score, the ten highest",
            "Share of moments like this one that ended in a departure from the minimum.",
            {ONE_RUN: f"topk(10, topowatch_instability_score{RUN})"},
        ),
        stacked(curves("Runs over time", "By verdict.", {"{{verdict}}": "topowatch_cluster_runs"})),
    ]


def _groups() -> list[Any]:
    return [
        curves(
            "Best forecast of each group",
            "The highest result that a live run of the group is forecast to end with; of losses, that is the worst.",
            {ONE_GROUP: f"max by (tenant, group) (topowatch_forecast_metric{RUN})"},
        ),
        curves(
            "Forecasts over the cluster",
            "Quantiles of what all live runs are forecast to end with, by metric.",
            {"{{metric}} {{quantile}}": "topowatch_cluster_forecast_metric"},
        ),
        figure("Path classes", "Of each group's ended runs.", {ONE_GROUP: f"topowatch_group_classes{GROUP}"}, span=8),
        figure(
            "Outliers",
            "Runs outside their siblings' classes, with those that ended long ago.",
            {ONE_GROUP: f"topowatch_group_outliers{GROUP}"},
            span=8,
        ),
        figure(
            "Runs that miss their target",
            "Live runs of each group whose whole interval misses what they are to reach.",
            {ONE_GROUP: f"sum by (tenant, group) (topowatch_forecast_misses_target{RUN})"},
            span=8,
        ),
    ]


def _flow() -> list[Any]:
    return [
        curves(
            "Silence, the ten longest",
            "Seconds since the latest sample of a live run.",
            {
                ONE_RUN: f"topk(10, time() - topowatch_run_last_sample_timestamp_seconds{RUN} and on (job, instance, "
                f"tenant, group, run) topowatch_run_info{LIVE})"
            },
            span=8,
        ),
        curves(
            "Lag of the analysis",
            "Records in the log that the slowest shard has not yet analysed.",
            {"{{instance}}": "topowatch_shard_lag_samples"},
            span=8,
        ),
        curves(
            "Cost of watching, the ten highest",
            "Share of the training's time that the client took.",
            {ONE_RUN: f"topk(10, topowatch_client_overhead_ratio{RUN})"},
            span=8,
        ),
    ]
