"""The Grafana dashboards: as generated, about metrics that are exported, in queries that a real Prometheus accepts."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from alert_stack import DEPLOY as RULES
from alert_stack import Prometheus
from dashboard_runs import LAST, OF_ALL_KINDS, SLOW, feed, send_whole
from harness import Daemon, eventually, unavailable
from topowatch_monitor.export import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy" / "grafana"
FILES = sorted(DEPLOY.glob("*.json"))
VARIABLES = {"$__rate_interval": "1m", "$tenant": ".*", "$group": ".*", "$run": ".*"}  # as Grafana fills them in
RECORDS = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load((RULES / "topowatch.rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "record" in rule
}
NAME = r"\b(?:[a-z]+:)?topowatch_[a-z0-9_]+(?::[a-z0-9_]+)?"  # of a metric, or of one that the rules record


def panels(file: Path) -> list[dict[str, Any]]:
    """Every panel that is no row."""
    board = json.loads(file.read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(file: Path) -> list[str]:
    return [target["expr"] for panel in panels(file) for target in panel["targets"]]


def filled_in(query: str) -> str:
    """A query as Grafana sends it."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def asked_by_variables(file: Path) -> list[str]:
    board = json.loads(file.read_text(encoding="utf-8"))
    return [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]


def exported() -> set[str]:
    parts = {metric.name: ("_bucket", "_sum", "_count") for metric in registry.METRICS if metric.kind == "histogram"}
    return {metric.name + part for metric in registry.METRICS for part in parts.get(metric.name, ("",))}


def test_there_are_dashboards():
    assert [file.stem for file in FILES] == ["daemon", "fleet", "forecasts", "path-classes", "run"]


def test_generating_them_again_changes_nothing(tmp_path: Path):
    if importlib.util.find_spec("grafana_foundation_sdk") is None:
        unavailable("the package grafana-foundation-sdk is not installed")
    subprocess.run([sys.executable, str(DEPLOY / "generate.py"), str(tmp_path)], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name for file in FILES]
    for file in FILES:
        assert (tmp_path / file.name).read_text(encoding="utf-8") == file.read_text(encoding="utf-8"), "make dashboards"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_metric_is_one_that_the_daemon_exports(file: Path):
    asked = [*queries(file), *asked_by_variables(file)]
    named = set(re.findall(NAME, " ".join(asked)))
    assert named
    assert named <= exported() | set(RECORDS)
    for expression in asked:
        assert re.search(NAME, expression)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_queries_name_only_labels_that_their_metric_has(file: Path):
    labels = {metric.name: {*metric.labels, "tenant", "instance", "job"} for metric in registry.METRICS}
    for record, expression in RECORDS.items():
        kept = re.match(r"\w+ by \(([^)]*)\)", expression)
        labels[record] = set(kept[1].split(", ")) if kept else {"instance", "job"}
    for expression in queries(file):
        for name, matchers in re.findall(rf"({NAME})\{{([^}}]*)\}}", expression):
            assert set(re.findall(r"(\w+)=~", matchers)) <= labels[name], expression


def test_every_series_that_the_rules_record_is_drawn():
    assert set(RECORDS) <= set(re.findall(NAME, " ".join(query for file in FILES for query in queries(file))))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_chosen_on_a_dashboard_chooses_something(file: Path):
    board = json.loads(file.read_text(encoding="utf-8"))
    chosen = {one["name"] for one in board["templating"]["list"]}
    assert chosen == {"datasource"} | set(re.findall(r"\$(tenant|group|run)\b", " ".join(queries(file))))


def test_every_dashboard_leads_to_the_others_with_what_is_chosen():
    boards = [json.loads(file.read_text(encoding="utf-8")) for file in FILES]
    for board in boards:
        (link,) = board["links"]
        assert (link["type"], link["includeVars"], link["keepTime"]) == ("dashboards", True, True)
        assert all(set(link["tags"]) <= set(other["tags"]) for other in boards)


def test_each_run_and_group_of_the_fleet_leads_to_its_own_dashboard():
    """Only what is summed over groups leads nowhere."""
    uids = {json.loads(file.read_text(encoding="utf-8"))["uid"] for file in FILES}
    for panel in panels(DEPLOY / "fleet.json"):
        expression = panel["targets"][0]["expr"]
        links = panel.get("fieldConfig", {}).get("defaults", {}).get("links", [])
        assert len(links) == ("$group" in expression), panel["title"]
        for link in links:
            path, _, query = link["url"].partition("?")
            assert path.removeprefix("/d/") in uids
            of_series = re.findall(r"var-(\w+)=\$\{__(?:field\.labels|data\.fields)\.\1:percentencode\}", query)
            as_chosen = re.findall(r"\$\{(\w+):queryparam\}", query)
            assert sorted(of_series + as_chosen) == ["datasource", "group", "run", "tenant"]
            by_group = re.search(r" by \(tenant, group\)|\bgroup:|topowatch_group_", expression)
            assert of_series == (["group"] if by_group else ["group", "run"])


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


def scraped(server: Prometheus) -> bool:
    """Whether there are series of every metric that is asked for; raises LookupError with those that lack."""
    asked = set(re.findall(NAME, " ".join(query for file in FILES for query in queries(file))))
    if lacking := asked - set(server.get("label/__name__/values")):
        raise LookupError(f"no series of {sorted(lacking)}")
    return True


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped every metric that is asked for, of a daemon that has runs of all kinds."""
    if shutil.which("prometheus") is None:
        unavailable("the Debian package prometheus is not installed")
    directory = tmp_path_factory.mktemp("dashboards")
    settings = directory / "topowatch.toml"
    settings.write_text("atlas_seconds = 1.0\nended_series_seconds = 3600.0\n")
    daemon = Daemon(directory, "--engine", "inline", "--config", str(settings)).start()
    with ExitStack() as after:
        after.callback(daemon.stop)
        feed(daemon)
        server = Prometheus(directory, daemon.http, faster={": 10s": ": 1s", ": 2s": ": 1s"})
        after.callback(server.stop)
        send_whole(daemon, OF_ALL_KINDS)
        eventually(lambda: scraped(server), within=SLOW)
        send_whole(daemon, LAST)  # a rate is of what comes between two scrapes
        eventually(lambda: server.value("instance:topowatch_ack_seconds:p99_5m") > 0, within=SLOW)
        yield server


def test_prometheus_parses_every_query(tmp_path: Path):
    """As rules, which promtool checks; what they answer is tested on real data below."""
    if shutil.which("promtool") is None:
        unavailable("the Debian package prometheus is not installed")
    asked = [filled_in(query) for file in FILES for query in queries(file)]
    rules = [{"record": f"r{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


@pytest.mark.slow
@pytest.mark.xdist_group("dashboards")  # one daemon and one Prometheus serve all
@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_real_prometheus_answers_every_query_from_real_data(prometheus: Prometheus, file: Path):
    for expression in map(filled_in, queries(file)):
        eventually(lambda expression=expression: answered(prometheus, expression), within=SLOW)


def answered(server: Prometheus, expression: str) -> bool:
    """Whether a query has a number for an answer now; raises LookupError, which names it."""
    numbers = [float(series["value"][1]) for series in server.get("query", query=expression)["result"]]
    if all(math.isnan(number) for number in numbers):
        raise LookupError(f"{expression}: {numbers}")
    return True
