"""The Prometheus files: checked by promtool, and complete."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from topowatch_monitor.detect import DETECTORS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
PROMTOOL = shutil.which("promtool")
RULES = yaml.safe_load((DEPLOY / "topowatch.rules.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
AMTOOL = shutil.which("amtool")
ROUTES = yaml.safe_load((DEPLOY / "alertmanager.yml").read_text(encoding="utf-8"))
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: apt-get install prometheus")


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "topowatch.rules.yml"),
        ("test", "rules", "topowatch.rules.test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]):
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(AMTOOL is None, reason="amtool is missing: apt-get install prometheus-alertmanager")
def test_amtool_agrees():
    assert AMTOOL is not None
    command = [AMTOOL, "check-config", "alertmanager.yml"]
    done = subprocess.run(command, cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_each_alert_is_tested_for_firing_and_for_silence():
    tests = yaml.safe_load((DEPLOY / "topowatch.rules.test.yml").read_text(encoding="utf-8"))["tests"]
    firing, silent = set(), set()
    for test in tests:
        for one in test.get("alert_rule_test", []):
            (firing if one["exp_alerts"] else silent).add(one["alertname"])
        for one in test.get("promql_expr_test", []):
            if "ALERTS" not in one["expr"]:
                continue  # of a recording rule
            [name] = re.findall(r'alertname="(\w+)"', one["expr"])
            (firing if one["exp_samples"] else silent).add(name)
    names = {alert["alert"] for alert in ALERTS}
    assert firing == names
    assert silent == names


def test_the_scrape_job_has_the_name_that_the_rules_look_for():
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    [job] = scrape["scrape_configs"]
    assert job["job_name"] == "topowatch"
    assert job["static_configs"][0]["targets"] == ["127.0.0.1:7071"]
    for alert in ALERTS:
        assert set(re.findall(r'job="(\w+)"', alert["expr"])) <= {job["job_name"]}
