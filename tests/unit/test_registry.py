"""The registry of metric names, and what is held against it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from topowatch_monitor.export import registry

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"


def series_of(metric: registry.Metric) -> list[str]:
    parts = ("bucket", "sum", "count") if metric.kind == "histogram" else ()
    return [f"{metric.name}_{part}" for part in parts] or [metric.name]


EXPORTED = {name for metric in registry.METRICS for name in series_of(metric)}


def test_every_constant_is_listed_once():
    constants = [value for value in vars(registry).values() if isinstance(value, registry.Metric)]
    assert sorted(metric.name for metric in constants) == sorted(metric.name for metric in registry.METRICS)
    assert len({metric.name for metric in registry.METRICS}) == len(registry.METRICS)


@pytest.mark.parametrize("metric", registry.METRICS, ids=lambda metric: metric.name)
def test_names_follow_prometheus_conventions(metric: registry.Metric):
    """Prefix, lower case, `_total` on counters and on nothing else, a help line that is a sentence."""
    assert re.fullmatch(r"topowatch_[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.help.endswith(".")
    assert "\n" not in metric.help


def test_a_run_keeps_within_its_series():
    """All by-run metrics, every critical detector and a third of the others stay under the limit of the design.

    Only what comes behind them all, the forecast, may have to go.
    """
    from topowatch_monitor.detect.catalogue import DETECTORS

    last = registry.LAST_OF_RUN
    single = [metric for metric in registry.METRICS if metric.labels[:2] == registry.RUN and metric not in last]
    critical = sum(detector.severity == "critical" for detector in DETECTORS)
    assert len(single) - 1 + critical + (len(DETECTORS) - critical) // 3 <= registry.MAX_SERIES_PER_RUN


@pytest.mark.parametrize(
    "file", [DEPLOY / "topowatch.rules.yml", *(DEPLOY / "tests").glob("*.test.yml")], ids=lambda file: file.name
)
def test_rules_name_only_metrics_that_are_exported(file: Path):
    text = file.read_text(encoding="utf-8")
    named = set(re.findall(r"\btopowatch_[a-z0-9_]+", text))
    assert named
    assert named <= EXPORTED | {metric.name for metric in registry.METRICS}


def test_expressions_never_ask_for_the_bare_name_of_a_histogram():
    """A histogram has no series of its own name, so that a rule on it would be silent for ever."""
    rules = yaml.safe_load((DEPLOY / "topowatch.rules.yml").read_text(encoding="utf-8"))
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert expressions
    for expression in expressions:
        assert set(re.findall(r"\btopowatch_[a-z0-9_]+", expression)) <= EXPORTED
