"""The dashboard 'Path classes': which runs take the same route, which do not, and whether their results differ."""
# ruff: noqa: INP001 - imported by a script beside it, and the folder is no package

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.builders import statetimeline
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import VisibilityMode
from panels import GROUP, RUN, about_runs, curves, drawn, figure, rows, stacked

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

ONE_RUN = "{{group}} {{run}}"
ONE_GROUP = "{{group}}"


def dashboard() -> Dashboard:
    """Build the dashboard."""
    made = about_runs(
        "topowatch: path classes",
        "topowatch-path-classes",
        "Classes of the paths of a group's runs, outliers, and the shape of the paths. No series, no claim: where the "
        "evidence is thin the classes are withheld.",
    )
    return rows(made, {"Groups": _groups(), "Runs": _runs(), "Shape of the paths": _shape(), "The daemon": _daemon()})


def _groups() -> list[Any]:
    return [
        figure("Classes", "Classes of each group's ended runs.", {ONE_GROUP: f"topowatch_group_classes{GROUP}"}),
        _withheld(
            figure(
                "Answer",
                "Whether the classes are withheld because the evidence is too thin.",
                {ONE_GROUP: f"topowatch_group_abstained{GROUP}"},
            )
        ),
        figure(
            "Outliers",
            "Runs outside their siblings' classes, with those that ended long ago.",
            {ONE_GROUP: f"topowatch_group_outliers{GROUP}"},
        ),
        figure(
            "Do results go with classes?",
            "p-value of the permutation test; below 0.05 they do.",
            {ONE_GROUP: f"topowatch_group_spread_p_value{GROUP}"},
        ),
        curves("Classes over time", "Classes of each group.", {ONE_GROUP: f"topowatch_group_classes{GROUP}"}),
        curves(
            "Spread of the results",
            "Standard deviation of the final result within the classes and between their means, in the result's unit.",
            {
                "{{group}} within": f"topowatch_group_within_class_spread{GROUP}",
                "{{group}} between": f"topowatch_group_between_class_spread{GROUP}",
            },
        ),
    ]


def _withheld(panel: Any) -> Any:
    words = model.ValueMap(
        options={
            "0": model.ValueMappingResult(text="told", color="green"),
            "1": model.ValueMappingResult(text="withheld", color="text"),
        }
    )
    return panel.mappings([words])


def _runs() -> list[Any]:
    return [
        stacked(
            curves(
                "Runs by class",
                "How many runs with series are in each class.",
                {"{{group}} class {{class}}": f'count_values by (group) ("class", topowatch_path_class{RUN})'},
            )
        ),
        _outliers(),
        curves(
            "p-value of each run",
            "Smallest p-value of the loops that part the run from the majority; 1 if none does.",
            {ONE_RUN: f"topowatch_path_class_p_value{RUN}"},
            log=True,
        ),
        curves(
            "Class of each run", "Labels are names: their order means nothing.", {ONE_RUN: f"topowatch_path_class{RUN}"}
        ),
    ]


def _outliers() -> Any:
    outside = model.ValueMap(options={"1": model.ValueMappingResult(text="outside", color="orange")})
    query = {ONE_RUN: f"topowatch_path_outlier{RUN} == 1"}
    panel = drawn(
        statetimeline.Panel(), "Outliers", "When a run was outside its siblings' classes.", query, span=12, height=8
    )
    return panel.mappings([outside]).no_value("no outlier").show_value(VisibilityMode.NEVER)


def _shape() -> list[Any]:
    return [
        curves(
            "PH dimension",
            "Persistent-homology dimension of the latest window. Read it beside the path's length.",
            {ONE_RUN: f"topowatch_ph_dimension{RUN}"},
            span=8,
        ),
        curves(
            "Betti drift",
            "Distance of the loops of the older and the newer half of the window.",
            {ONE_RUN: f"topowatch_betti_drift{RUN}"},
            span=8,
        ),
        curves(
            "Path length",
            "Length of the path of the weights since the run began.",
            {ONE_RUN: f"topowatch_path_length{RUN}"},
            span=8,
        ),
    ]


def _daemon() -> list[Any]:
    return [
        curves(
            "Homology that was given up",
            "Computations that took too long and were ended, and such as were too large to be begun, in a minute.",
            {
                "{{instance}} timed out": "rate(topowatch_homology_timeouts_total[$__rate_interval]) * 60",
                "{{instance}} refused": "rate(topowatch_homology_refused_total[$__rate_interval]) * 60",
            },
            span=24,
        )
    ]
