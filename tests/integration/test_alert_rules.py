"""The Prometheus files: checked by promtool, and complete."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
PROMTOOL = shutil.which("promtool")
RULES = yaml.safe_load((DEPLOY / "topowatch.rules.yml").read_text(encoding="utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
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


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_grave_it_is_and_what_to_do(alert: dict[str, Any]):
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert {"summary", "description", "runbook"} <= alert["annotations"].keys()


def test_each_alert_is_tested_for_firing_and_for_silence():
    tests = yaml.safe_load((DEPLOY / "topowatch.rules.test.yml").read_text(encoding="utf-8"))["tests"]
    firing, silent = set(), set()
    for test in tests:
        for one in test.get("alert_rule_test", []):
            (firing if one["exp_alerts"] else silent).add(one["alertname"])
        for one in test.get("promql_expr_test", []):
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
