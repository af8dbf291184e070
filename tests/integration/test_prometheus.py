"""A real Prometheus scrapes a real daemon that watches a real training, with the configuration that we ship."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from alert_stack import Prometheus
from harness import Daemon, Job, eventually, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def prometheus(tmp_path: Path, inline_daemon: Daemon) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        unavailable("the Debian package prometheus is not installed")
    one = Prometheus(tmp_path, inline_daemon.http, faster={": 10s": ": 1s", ": 2s": ": 1s"})
    yield one
    one.stop()


def test_metrics_arrive_and_the_alert_of_a_spoiled_run_fires_while_a_healthy_one_stays_silent(
    prometheus: Prometheus, inline_daemon: Daemon, start_job: Callable[..., Job]
) -> None:
    start_job(inline_daemon.grpc, "--run", "well", "--steps", "100000", "--pace", "0.02")
    start_job(inline_daemon.grpc, "--run", "spoiled", "--steps", "100000", "--pace", "0.02", "--explode-at", "60")
    eventually(lambda: prometheus.value('topowatch_run_step{run="well"}') > 60)
    assert prometheus.value('topowatch_path_length{run="well"}') > 0
    assert prometheus.value('topowatch_h0_total_persistence{run="well"}') > 0
    assert prometheus.value("topowatch_ingest_samples_total") > 60
    labels = eventually(lambda: [one for one in prometheus.firing() if one["alertname"] == "TopowatchLossNotFinite"])
    assert [(one["run"], one["severity"]) for one in labels] == [("spoiled", "critical")]
    rules = prometheus.get("rules")["groups"]
    unwell = [rule for group in rules for rule in group["rules"] if rule["health"] == "err"]
    assert not unwell
    well = prometheus.get("query", query='ALERTS{run="well", alertstate="firing"}')["result"]
    assert not well
