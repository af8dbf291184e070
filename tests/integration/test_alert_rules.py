"""The Prometheus files: checked by promtool and amtool, and complete."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from harness import unavailable
from topowatch_monitor.detect import DETECTORS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
RULES = yaml.safe_load((DEPLOY / "topowatch.rules.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDS = {rule["record"]: rule for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
CASE_FILES = sorted((DEPLOY / "tests").glob("*.test.yml"))
CASES = [case for file in CASE_FILES for case in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]]
ROUTES = yaml.safe_load((DEPLOY / "alertmanager.yml").read_text(encoding="utf-8"))
PACKAGES = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}


def tool(name: str, *arguments: str) -> str:
    if shutil.which(name) is None:
        unavailable(f"{name} is missing: apt-get install {PACKAGES[name]}")
    done = subprocess.run([name, *arguments], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "topowatch.rules.yml"),
        *(("test", "rules", f"tests/{file.name}") for file in CASE_FILES),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]):
    tool("promtool", *arguments)


def test_amtool_agrees():
    tool("amtool", "check-config", "alertmanager.yml")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_critical_alerts_go_to_the_pager_alone_and_warnings_to_the_chat(alert: dict[str, Any]):
    severity = alert["labels"]["severity"]
    labels = [f"alertname={alert['alert']}", f"severity={severity}", "job=topowatch", "instance=a", "group=g", "run=r"]
    told = tool("amtool", "config", "routes", "test", "--config.file=alertmanager.yml", *labels)
    assert told.split() == [{"critical": "page", "warning": "chat"}[severity]]


def test_an_alert_of_unknown_severity_is_told_all_the_same():
    labels = ("alertname=Mine", "job=topowatch")
    told = tool("amtool", "config", "routes", "test", "--config.file=alertmanager.yml", *labels)
    assert told.split() == ["chat"]


def test_the_example_of_a_route_for_a_tenant_is_one(tmp_path: Path):
    text = (DEPLOY / "alertmanager.yml").read_text(encoding="utf-8")
    text = re.sub(r"^    # (- matchers|  \w)", r"    \1", text, flags=re.MULTILINE)
    (tmp_path / "alertmanager.yml").write_text(text.replace("receivers:\n", "receivers:\n  - name: page-vision\n"))
    for tenant, receiver in (("vision", "page-vision"), ("speech", "page")):
        labels = ["severity=critical", f"tenant={tenant}", "run=r"]
        told = tool("amtool", "config", "routes", "test", f"--config.file={tmp_path / 'alertmanager.yml'}", *labels)
        assert told.split() == [receiver]


def test_inhibitions_name_only_alerts_that_there_are():
    """A misspelt one would hold nothing back, and nobody would see."""
    named = set()
    for rule in ROUTES["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            named |= set(re.findall(r"Topowatch\w+", matcher)) if matcher.startswith("alertname") else set()
    assert named
    assert named <= {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_grave_it_is_and_what_to_do(alert: dict[str, Any]):
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook", "runbook_url"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_about_a_group_names_its_tenant_and_asks_for_it(alert: dict[str, Any]):
    """Several tenants may have a group of that name, and an administrator sees all of them."""
    told = alert["annotations"]
    assert ("$labels.group" in told["summary"]) == ("$labels.tenant" in told["summary"])
    for command in re.findall(r"`topowatch (?:show|classes|forecast) [^`]+`", told["runbook"]):
        assert "--tenant" in command


def test_each_alert_has_a_runbook_and_each_runbook_an_alert():
    sections = re.findall(r"^### (\w+)$", RUNBOOKS, re.MULTILINE)
    links = {alert["alert"]: alert["annotations"]["runbook_url"] for alert in ALERTS}
    assert sorted(sections) == sorted(links)
    for name, link in links.items():
        assert link == f"docs/runbooks.md#{name.lower()}"  # as GitHub and most others name a heading's anchor
    assert set(re.findall(r"\]\(#(\w+)\)", RUNBOOKS)) == {name.lower() for name in sections}


def test_every_detector_has_exactly_one_alert_as_grave_as_itself():
    """Alerts that many share have a line in their runbook for each."""
    asked = {alert["alert"]: re.findall(r'detector(=|=~|!~)"([^"]+)"', alert["expr"]) for alert in ALERTS}
    severities = {alert["alert"]: alert["labels"]["severity"] for alert in ALERTS}
    for detector in DETECTORS:
        found = [
            (name, operator)
            for name, matchers in asked.items()
            for operator, value in matchers
            if (detector.name in value.split("|")) == (operator != "!~")
        ]
        assert len(found) == 1, f"{detector.name} has the alerts {found}"
        [(name, operator)] = found
        assert severities[name] == detector.severity, detector.name
        section = RUNBOOKS.partition(f"### {name}\n")[2].partition("\n#")[0]
        assert operator == "=" or f"\n| `{detector.name}` |" in section, f"{name}: no line for {detector.name}"


class Look(NamedTuple):
    """What a case holds at one moment (seconds): which alerts fire, and which of those that it names do not."""

    at: int
    firing: frozenset[str]
    silent: frozenset[str]


def seconds(duration: str) -> int:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def looks(case: dict[str, Any]) -> Iterator[Look]:
    for one in case.get("alert_rule_test", []):
        named = frozenset({one["alertname"]})
        firing = named if one["exp_alerts"] else frozenset[str]()
        yield Look(seconds(one["eval_time"]), firing, named - firing)
    for one in case.get("promql_expr_test", []):
        if "ALERTS" in one["expr"]:
            labels = " ".join(sample["labels"] for sample in one["exp_samples"])
            named = frozenset(re.findall(r'alertname="(\w+)"', one["expr"]))
            firing = frozenset(re.findall(r'alertname="(\w+)"', labels)) or (named if labels else frozenset())
            yield Look(seconds(one["eval_time"]), firing, named - firing)


def vanishes_at(case: dict[str, Any], expression: str) -> int | None:
    """Say when (seconds) the last of the series asked for is gone for good; None if none goes."""
    asked = set(re.findall(r"\btopowatch_\w+|\bup\b", expression))
    moments = []
    for series in case["input_series"]:
        *items, last = series["values"].split()
        if last == "stale" and series["series"].partition("{")[0] in asked:
            # In promtool's notation 1x5 are six values, but _x5 five that are missing.
            counts = [re.fullmatch(r"(_?).*?(?:x(\d+))?", item) for item in items]
            steps = sum(int(one[2] or 0) + (not one[1] or one[2] is None) for one in counts if one)
            moments.append(steps * seconds(case["interval"]))
    return max(moments, default=None)


def test_each_alert_is_tested_for_firing_for_silence_and_for_vanished_series():
    """The last: a case in which it fires, its series vanish for good, and it is looked at once more."""
    firing, silent, vanished = set[str](), set[str](), set[str]()
    for case in CASES:
        seen = list(looks(case))
        fired = frozenset[str]().union(*(look.firing for look in seen))
        firing |= fired
        silent |= {name for look in seen for name in look.silent}
        for alert in ALERTS:
            gone = vanishes_at(case, alert["expr"])
            later = {
                name for look in seen if gone is not None and look.at >= gone for name in look.firing | look.silent
            }
            vanished |= fired & later & {alert["alert"]}
    names = {alert["alert"] for alert in ALERTS}
    assert names - firing == set()
    assert names - silent == set()
    assert names - vanished == set()
    assert firing | silent == names


def test_each_alert_is_tested_for_a_scrape_that_fails():
    """It may neither end nor begin anew; `up` itself has a value in such a scrape."""
    held = [one for case in CASES for one in case["promql_expr_test"] if "changes(ALERTS_FOR_STATE" in one["expr"]]
    names = {name for one in held for name in re.findall(r"Topowatch\w+", str(one["exp_samples"]))}
    assert names == {alert["alert"] for alert in ALERTS if "topowatch_" in alert["expr"]}


@pytest.mark.parametrize("record", RECORDS)
def test_each_recording_rule_is_tested_for_its_value_and_for_vanished_series(record: str):
    value, vanished = False, False
    for case in CASES:
        gone = vanishes_at(case, RECORDS[record]["expr"])
        for one in case["promql_expr_test"]:
            if record in one["expr"]:
                value |= bool(one["exp_samples"])
                vanished |= not one["exp_samples"] and gone is not None and seconds(one["eval_time"]) >= gone
    assert value
    assert vanished


def test_the_scrape_job_has_the_name_that_the_rules_look_for():
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    [job] = scrape["scrape_configs"]
    assert job["job_name"] == "topowatch"
    assert job["static_configs"][0]["targets"] == ["127.0.0.1:7071"]
    for alert in ALERTS:
        assert set(re.findall(r'job="(\w+)"', alert["expr"])) <= {job["job_name"]}
