"""The Grafana dashboards: as generated, about metrics that are exported, in queries that a real Prometheus accepts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from alert_stack import Prometheus
from harness import Daemon, eventually, unavailable
from topowatch_monitor.export import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy" / "grafana"
FILES = sorted(DEPLOY.glob("*.json"))
VARIABLES = {"$__rate_interval": "1m", "$tenant": ".*", "$group": ".*", "$run": ".*"}  # as Grafana fills them in


def panels(file: Path) -> list[dict[str, Any]]:
    """Every panel that is no row."""
    board = json.loads(file.read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(file: Path) -> list[str]:
    return [target["expr"] for panel in panels(file) for target in panel["targets"]]


def asked_by_variables(file: Path) -> list[str]:
    board = json.loads(file.read_text(encoding="utf-8"))
    return [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]


def exported() -> set[str]:
    parts = {metric.name: ("_bucket", "_sum", "_count") for metric in registry.METRICS if metric.kind == "histogram"}
    return {metric.name + part for metric in registry.METRICS for part in parts.get(metric.name, ("",))}


def test_there_are_dashboards():
    assert [file.stem for file in FILES] == ["daemon", "fleet", "forecasts", "path-classes", "run"]


def test_generating_them_again_changes_nothing(tmp_path: Path):
    pytest.importorskip("grafana_foundation_sdk")
    subprocess.run([sys.executable, str(DEPLOY / "generate.py"), str(tmp_path)], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name for file in FILES]
    for file in FILES:
        assert (tmp_path / file.name).read_text(encoding="utf-8") == file.read_text(encoding="utf-8"), "make dashboards"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_metric_is_one_that_the_daemon_exports(file: Path):
    asked = [*queries(file), *asked_by_variables(file)]
    named = set(re.findall(r"\btopowatch_[a-z0-9_]+", " ".join(asked)))
    assert named
    assert named <= exported()
    for expression in asked:
        assert "topowatch_" in expression


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_queries_name_only_labels_that_their_metric_has(file: Path):
    labels = {metric.name: {*metric.labels, "tenant", "instance", "job"} for metric in registry.METRICS}
    for expression in queries(file):
        for name, matchers in re.findall(r"(topowatch_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=~", matchers)) <= labels[name], expression


def test_the_dashboard_of_path_classes_shows_what_it_is_for():
    asked = " ".join(queries(DEPLOY / "path-classes.json"))
    for metric in (
        registry.PATH_CLASS,
        registry.PATH_OUTLIER,
        registry.PATH_CLASS_P_VALUE,
        registry.PH_DIMENSION,
        registry.BETTI_DRIFT,
        registry.PATH_LENGTH,
        registry.GROUP_CLASSES,
        registry.GROUP_ABSTAINED,
        registry.GROUP_OUTLIERS,
        registry.GROUP_WITHIN_CLASS_SPREAD,
        registry.GROUP_BETWEEN_CLASS_SPREAD,
        registry.GROUP_SPREAD_P_VALUE,
        registry.HOMOLOGY_TIMEOUTS,
    ):
        assert metric.name in asked


def test_the_dashboard_of_forecasts_shows_every_metric_of_them():
    asked = set(re.findall(r"topowatch_\w+", " ".join(queries(DEPLOY / "forecasts.json"))))
    assert {metric.name for metric in registry.METRICS if "forecast" in metric.name} <= asked


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_panels_stand_beside_each_other_each_with_its_own_number_and_the_chosen_source(file: Path):
    board = json.loads(file.read_text(encoding="utf-8"))
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in panels(file):
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        assert all(target["legendFormat"] for target in panel["targets"])


# What the simulated runs have none of: searches and slices need a model, classes and scores more runs that have ended.
NOT_SIMULATED = {
    "topowatch_critical_lr_ratio",
    "topowatch_forecast_gap",
    "topowatch_forecast_misses_target",
    "topowatch_gradient_flow_consistency",
    "topowatch_group_between_class_spread",
    "topowatch_group_classes",
    "topowatch_group_forecast_baseline_r2",
    "topowatch_group_forecast_coverage",
    "topowatch_group_forecast_r2",
    "topowatch_group_outliers",
    "topowatch_group_spread_p_value",
    "topowatch_group_within_class_spread",
    "topowatch_landscape_total_persistence",
    "topowatch_path_class",
    "topowatch_path_class_p_value",
    "topowatch_path_outlier",
}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a daemon with simulated runs, some of which fail."""
    if shutil.which("prometheus") is None:
        unavailable("the Debian package prometheus is not installed")
    directory = tmp_path_factory.mktemp("dashboards")
    daemon = Daemon(directory, "--engine", "inline").start()
    simulate = ["simulate", "--runs", "41", "--failing", "0.3", "--samples", "72", "--probes", "32", "--rate", "0"]
    subprocess.run(
        [sys.executable, "-m", "topowatch_monitor", *simulate, "--endpoint", daemon.grpc],
        check=True,
        capture_output=True,
    )
    server = Prometheus(directory, daemon.http, faster={": 10s": ": 1s", ": 2s": ": 1s"})
    try:
        eventually(lambda: server.value("max(topowatch_forecast_metric)") > 0, within=120.0)
        eventually(lambda: server.value("min(count_over_time(topowatch_ingest_ready[1m]))") > 2)
        yield server
    finally:
        server.stop()
        daemon.stop()


@pytest.mark.xdist_group("dashboards")  # one daemon and one Prometheus serve all
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_real_prometheus_answers_every_query_from_real_data(prometheus: Prometheus, file: Path):
    for asked in queries(file):
        expression = asked
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        answer = prometheus.get("query", query=expression)["result"]
        named = set(re.findall(r"\btopowatch_[a-z0-9_]+", expression))
        assert answer or named & NOT_SIMULATED, expression
