"""A real Prometheus scrapes a real daemon that watches a real training, with the configuration that we ship."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from harness import Daemon, Job, eventually, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"


class Prometheus:
    """A Prometheus process on the shipped configuration, pointed at one daemon and scraping faster."""

    def __init__(self, directory: Path, target: str) -> None:
        config = (DEPLOY / "prometheus.yml").read_text()
        assert "127.0.0.1:7071" in config
        config = config.replace("127.0.0.1:7071", target).replace(": 10s", ": 1s").replace(": 5s", ": 1s")
        (directory / "prometheus.yml").write_text(config)
        shutil.copy(DEPLOY / "topowatch.rules.yml", directory)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        with (directory / "prometheus.log").open("wb") as journal:
            self.process = subprocess.Popen(
                [
                    "prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb",
                    f"--web.listen-address={self.address}",
                ],
                stdin=subprocess.DEVNULL, stdout=journal, stderr=journal,
            )  # fmt: skip

    def get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"http://{self.address}/api/v1/{path}", params=parameters, timeout=10.0)
        return answer.raise_for_status().json()["data"]

    def value(self, query: str) -> float:
        """The one value of an instant query; LookupError if there is not exactly one."""
        result = self.get("query", query=query)["result"]
        if len(result) != 1:
            raise LookupError(f"{query} has {len(result)} results")
        return float(result[0]["value"][1])

    def firing(self) -> dict[str, dict[str, str]]:
        """Labels of the firing alerts, by name."""
        alerts = self.get("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert["labels"] for alert in alerts if alert["state"] == "firing"}


@pytest.fixture
def prometheus(tmp_path: Path, inline_daemon: Daemon) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        unavailable("the Debian package prometheus is not installed")
    one = Prometheus(tmp_path, inline_daemon.http)
    yield one
    one.process.terminate()
    one.process.wait(30)


def test_metrics_arrive_and_the_alert_of_a_spoiled_run_fires_while_a_healthy_one_stays_silent(
    prometheus: Prometheus, inline_daemon: Daemon, start_job: Callable[..., Job]
) -> None:
    start_job(inline_daemon.grpc, "--run", "well", "--steps", "100000", "--pace", "0.02")
    start_job(inline_daemon.grpc, "--run", "spoiled", "--steps", "100000", "--pace", "0.02", "--explode-at", "60")
    eventually(lambda: prometheus.value('topowatch_run_step{run="well"}') > 60)
    assert prometheus.value('topowatch_path_length{run="well"}') > 0
    assert prometheus.value('topowatch_h0_total_persistence{run="well"}') > 0
    assert prometheus.value("topowatch_ingest_samples_total") > 60
    labels = eventually(lambda: prometheus.firing().get("TopowatchLossNotFinite"))
    assert labels["run"] == "spoiled"
    assert labels["severity"] == "critical"
    rules = prometheus.get("rules")["groups"]
    unwell = [rule for group in rules for rule in group["rules"] if rule["health"] == "err"]
    assert not unwell
    well = prometheus.get("query", query='ALERTS{run="well", alertstate="firing"}')["result"]
    assert not well
