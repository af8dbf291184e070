"""The dashboard 'Run': one run's loss, path, stability, forecast, and what watching it costs."""
# ruff: noqa: INP001 - imported by a script beside it, and the folder is no package

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from panels import RUN, about_runs, curves, figure, listed, rows, switched

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

ONE_RUN = "{{group}} {{run}}"


def dashboard() -> Dashboard:
    """Build the dashboard."""
    made = about_runs(
        "topowatch: run",
        "topowatch-run",
        "Choose one run, or some to compare. No series, no claim: what cannot be told has none.",
    )
    return rows(
        made,
        {
            "Now": _now(),
            "Loss and path": _path(),
            "Persistence": _persistence(),
            "Stability": _stability(),
            "Siblings and forecast": _forecast(),
            "Watching": _watching(),
        },
    )


def _now() -> list[Any]:
    return [
        listed(
            "Verdict",
            "Of each chosen run.",
            f"topowatch_run_info{RUN} == 1",
            ("group", "run", "state", "verdict"),
            span=8,
        ),
        figure("Step", "Latest that has been analysed.", {ONE_RUN: f"topowatch_run_step{RUN}"}, span=4),
        figure("Loss", "Latest that the job logged.", {ONE_RUN: f"topowatch_run_loss{RUN}"}, span=4),
        figure(
            "Instability score",
            "Share of moments like this one that ended in a departure from the minimum.",
            {ONE_RUN: f"topowatch_instability_score{RUN}"},
            span=4,
        ),
        figure(
            "Silent for",
            "Seconds since the latest sample.",
            {ONE_RUN: f"time() - topowatch_run_last_sample_timestamp_seconds{RUN}"},
            span=4,
        ),
    ]


def _path() -> list[Any]:
    return [
        curves("Training loss", "As logged by the job.", {ONE_RUN: f"topowatch_run_loss{RUN}"}, log=True),
        curves("Length of the path", "Of the weights, in sketch distance.", {ONE_RUN: f"topowatch_path_length{RUN}"}),
    ]


def _persistence() -> list[Any]:
    return [
        curves(
            "Total persistence of H₀",
            "Sum of the lifetimes of the latest window of the path; between consecutive steps, close to its length.",
            {ONE_RUN: f"topowatch_h0_total_persistence{RUN}"},
            span=6,
        ),
        curves(
            "Total persistence of H₁",
            "Loops of the latest window of the path.",
            {ONE_RUN: f"topowatch_h1_total_persistence{RUN}"},
            span=6,
        ),
        curves(
            "Dimension",
            "Persistent-homology dimension of the latest window.",
            {ONE_RUN: f"topowatch_ph_dimension{RUN}"},
            span=6,
        ),
        curves(
            "Betti drift",
            "Bottleneck distance of the loops of the older and the newer half of the window.",
            {ONE_RUN: f"topowatch_betti_drift{RUN}"},
            span=6,
        ),
    ]


def _stability() -> list[Any]:
    return [
        switched(
            "Detectors",
            "What was on, and when.",
            {
                "{{run}} {{detector}}": f"topowatch_detector_active{RUN}",
                "{{run}} unstable": f"topowatch_minimum_unstable{RUN}",
            },
        ),
        curves("Instability score", "0 to 1.", {ONE_RUN: f"topowatch_instability_score{RUN}"}, span=6),
        curves(
            "Learning rate over the critical one",
            "Along the last update of the newest search; to hover at 1 is normal.",
            {ONE_RUN: f"topowatch_critical_lr_ratio{RUN}"},
            span=6,
        ),
        curves(
            "Gradient flow consistency",
            "Cosine between the displacement of the weights and the gradients against it.",
            {ONE_RUN: f"topowatch_gradient_flow_consistency{RUN}"},
            span=6,
        ),
        curves(
            "Total persistence of the loss slice",
            "Of the newest slice; zero where it has a single basin.",
            {ONE_RUN: f"topowatch_landscape_total_persistence{RUN}"},
            span=6,
        ),
    ]


def _forecast() -> list[Any]:
    return [
        curves(
            "Forecast of the result",
            "What the run is forecast to end with, and its 90 % interval.",
            {
                ONE_RUN: f"topowatch_forecast_metric{RUN}",
                "{{run}} lower": f"topowatch_forecast_lower{RUN}",
                "{{run}} upper": f"topowatch_forecast_upper{RUN}",
            },
        ),
        curves(
            "Forecast of the gap",
            "By how much it is forecast to do better on its training data.",
            {ONE_RUN: f"topowatch_forecast_gap{RUN}"},
            span=6,
        ),
        curves(
            "Class among its siblings",
            "Label of its path class, and whether it is outside of all.",
            {"{{run}} class": f"topowatch_path_class{RUN}", "{{run}} outlier": f"topowatch_path_outlier{RUN}"},
            span=6,
        ),
    ]


def _watching() -> list[Any]:
    return [
        curves(
            "Cost of watching",
            "Share of the training's time that the client took.",
            {ONE_RUN: f"topowatch_client_overhead_ratio{RUN}"},
        ),
        curves(
            "Samples dropped",
            "By a full spool, before they were sent.",
            {ONE_RUN: f"increase(topowatch_client_dropped_samples_total{RUN}[$__rate_interval])"},
        ),
    ]
