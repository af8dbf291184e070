"""The dashboard 'Fleet': which runs need a person, and whether what is told of them is fresh."""
# ruff: noqa: INP001 - imported by a script beside it, and the folder is no package

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from panels import (
    GROUP,
    RUN,
    RUNS_BY_VERDICT,
    about_runs,
    curves,
    figure,
    leading,
    listed,
    rows,
    stacked,
    where,
)

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

ONE_RUN = "{{group}} {{run}}"
ONE_GROUP = "{{group}}"
LIVE = where('state="live"')
NEEDS_A_PERSON = where('verdict=~"unstable|lost|warning"')


def dashboard() -> Dashboard:
    """Build the dashboard."""
    made = about_runs(
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
        leading(
            listed(
                "Runs that need a person",
                "Unstable: its minimum is being lost. Lost: silent for long. Warning: worth a look.",
                f"topowatch_run_info{NEEDS_A_PERSON} == 1",
                ("tenant", "group", "run", "state", "verdict"),
            ),
            "run",
        ),
        leading(
            listed(
                "Active detectors",
                "What is on now, and of which run; the runbooks say what to do.",
                f"topowatch_detector_active{RUN} == 1",
                ("tenant", "group", "run", "detector"),
            ),
            "run",
        ),
        leading(
            curves(
                "Instability score, the ten highest",
                "Share of moments like this one that ended in a departure from the minimum.",
                {ONE_RUN: f"topk(10, topowatch_instability_score{RUN})"},
                span=8,
            ),
            "run",
        ),
        leading(
            stacked(
                curves(
                    "Minima that do not hold",
                    "How many runs of each group a detector says that of.",
                    {ONE_GROUP: f"group:topowatch_minimum_unstable:sum{GROUP}"},
                    span=8,
                )
            ),
            "run",
            of="group",
        ),
        stacked(curves("Runs over time", "By verdict.", {"{{verdict}}": RUNS_BY_VERDICT}, span=8)),
    ]


def _groups() -> list[Any]:
    return [
        leading(
            curves(
                "Best forecast of each group",
                "The highest result that a live run of the group is forecast to end with; the worst, of losses.",
                {ONE_GROUP: f"max by (tenant, group) (topowatch_forecast_metric{RUN})"},
            ),
            "forecasts",
            of="group",
        ),
        curves(
            "Forecasts over the cluster",
            "Quantiles of what all live runs are forecast to end with, by metric.",
            {"{{metric}} {{quantile}}": "topowatch_cluster_forecast_metric"},
        ),
        leading(
            figure(
                "Path classes", "Of each group's ended runs.", {ONE_GROUP: f"topowatch_group_classes{GROUP}"}, span=8
            ),
            "path-classes",
            of="group",
        ),
        leading(
            figure(
                "Outliers",
                "Runs outside their siblings' classes, with those that ended long ago.",
                {ONE_GROUP: f"topowatch_group_outliers{GROUP}"},
                span=8,
            ),
            "path-classes",
            of="group",
        ),
        leading(
            figure(
                "Runs that miss their target",
                "Live runs of each group whose whole interval misses what they are to reach.",
                {ONE_GROUP: f"sum by (tenant, group) (topowatch_forecast_misses_target{RUN})"},
                span=8,
            ),
            "forecasts",
            of="group",
        ),
    ]


def _flow() -> list[Any]:
    return [
        leading(
            curves(
                "Silence, the ten longest",
                "Seconds since the latest sample of a live run.",
                {
                    ONE_RUN: f"topk(10, time() - topowatch_run_last_sample_timestamp_seconds{RUN} and on (job, "
                    f"instance, tenant, group, run) topowatch_run_info{LIVE})"
                },
                span=8,
            ),
            "run",
        ),
        curves(
            "Lag of the analysis",
            "Records in the log that the slowest shard has not yet analysed.",
            {"{{instance}}": "topowatch_shard_lag_samples"},
            span=8,
        ),
        leading(
            curves(
                "Cost of watching, the ten highest",
                "Share of the training's time that the client took, in the run of each group where it took most.",
                {ONE_GROUP: f"topk(10, group:topowatch_client_overhead_ratio:max{GROUP})"},
                span=8,
            ),
            "run",
            of="group",
        ),
    ]
