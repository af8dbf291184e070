"""Whom a real Alertmanager tells, on the rules, routes and inhibitions that we ship; only waiting times are shorter."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

import pytest

from alert_stack import Alertmanager, Notice, Prometheus, Receiver, missing
from harness import Daemon, Job, eventually, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SCRAPING = {": 10s": ": 1s", ": 2s": ": 1s"}
RULES = {f" for: {usual}": " for: 1s" for usual in ("30s", "1m", "2m")} | {"firing_for: 2m": "firing_for: 2s"}
ROUTES = {"group_wait: 10s": "group_wait: 2s", "group_interval: 5m": "group_interval: 2s", ": 1m": ": 2s"}


class Stack(NamedTuple):
    prometheus: Prometheus
    alertmanager: Alertmanager
    receiver: Receiver

    def told(self, receiver: str, run: str | None, status: str = "firing") -> dict[str, dict[str, str]]:
        """Annotations of what a receiver was told of a run (None: of the daemon), by alert."""
        return {
            alert["labels"]["alertname"]: alert["annotations"]
            for notice in self.of(receiver)
            for alert in notice.alerts(status)
            if alert["labels"].get("run") == run
        }

    def of(self, receiver: str) -> list[Notice]:
        return [notice for notice in self.receiver.notices if notice.path == receiver]

    def states(self, **labels: str) -> dict[str, str]:
        """Active or suppressed, by alert and detector, of the alerts with these labels."""
        return {
            alert["labels"].get("detector", alert["labels"]["alertname"]): alert["status"]["state"]
            for alert in self.alertmanager.alerts()
            if labels.items() <= alert["labels"].items()
        }


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Stack]]:
    """Start all three around the address of a daemon."""
    if (why := missing()) is not None:
        unavailable(why)
    started: list[Prometheus | Alertmanager | Receiver] = []

    def make(daemon: str) -> Stack:
        directories = [tmp_path / name for name in ("prometheus", "alertmanager")]
        for directory in directories:
            directory.mkdir()
        receiver = Receiver()
        started.append(receiver)
        alertmanager = Alertmanager(directories[1], receiver.address, faster=ROUTES)
        started.append(alertmanager)
        eventually(alertmanager.is_ready)
        prometheus = Prometheus(directories[0], daemon, alertmanager=alertmanager.address, faster=SCRAPING, rules=RULES)
        started.append(prometheus)
        return Stack(prometheus, alertmanager, receiver)

    yield make
    for one in reversed(started):
        one.stop()


class Exposition:
    """A daemon as Prometheus sees it: whatever series a test says."""

    def __init__(self) -> None:
        self.series: dict[str, float] = {}
        series = self.series

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write("".join(f"{name} {value}\n" for name, value in dict(series).items()).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def run(self, run: str, *detectors: str) -> None:
        """Tell of a live run of which some detectors are on."""
        self.series[f'topowatch_run_info{{group="g",run="{run}",state="live",verdict="warning"}}'] = 1
        for detector in detectors:
            self.series[f'topowatch_detector_active{{group="g",run="{run}",detector="{detector}"}}'] = 1

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def exposition() -> Iterator[Exposition]:
    one = Exposition()
    yield one
    one.stop()


def test_whoever_is_on_call_is_paged_about_a_run_that_fails_and_told_when_it_has_ended(
    start: Callable[[str], Stack], inline_daemon: Daemon, start_job: Callable[..., Job], tmp_path: Path
) -> None:
    stack = start(inline_daemon.http)
    end = tmp_path / "end"
    usual = ("--steps", "100000", "--pace", "0.02", "--until", str(end))
    start_job(inline_daemon.grpc, "--run", "well", *usual)
    job = start_job(inline_daemon.grpc, "--run", "spoiled", *usual, "--explode-at", "60")
    both = {"TopowatchLossNotFinite", "TopowatchMinimumUnstable"}
    told = eventually(lambda: found if both <= (found := stack.told("page", "spoiled")).keys() else None)
    page = told["TopowatchLossNotFinite"]
    assert page["runbook_url"] == "docs/runbooks.md#topowatchlossnotfinite"
    assert "`topowatch show spoiled --group tests`" in page["runbook"]
    assert all(notice.body["groupLabels"]["run"] == "spoiled" for notice in stack.of("page"))
    severities = {alert["labels"]["severity"] for notice in stack.of("page") for alert in notice.alerts()}
    assert severities == {"critical"}
    assert not stack.told("page", "spoiled", "resolved")
    end.touch()
    job.finish()
    eventually(lambda: both <= stack.told("page", "spoiled", "resolved").keys())
    eventually(lambda: "TopowatchRunEndedUnstable" in stack.told("chat", "spoiled"))
    assert not stack.told("page", "well")
    assert not stack.told("chat", "well")


def test_the_warnings_of_a_run_are_one_notice_and_are_held_back_while_somebody_is_paged_about_it(
    start: Callable[[str], Stack], exposition: Exposition
) -> None:
    exposition.run("ill", "analysis_failed", "superseded_samples", "missing_rank", "loss_not_decreasing")
    exposition.run("other", "analysis_failed")
    stack = start(exposition.address)
    eventually(lambda: {"ill", "other"} <= {one.body["groupLabels"]["run"] for one in stack.of("chat")})
    of_ill = [one for one in stack.of("chat") if one.body["groupLabels"]["run"] == "ill"]
    assert len(of_ill) == 1
    assert {alert["labels"]["detector"] for alert in of_ill[0].alerts()} >= {"analysis_failed", "superseded_samples"}
    assert not stack.of("page")

    unstable = 'topowatch_minimum_unstable{group="g",run="ill"}'
    exposition.series[unstable] = 1
    eventually(lambda: "TopowatchMinimumUnstable" in stack.told("page", "ill"))
    eventually(lambda: stack.states(run="ill", detector="analysis_failed") == {"analysis_failed": "suppressed"})
    states = stack.states(run="ill")
    assert states.pop("TopowatchMinimumUnstable") == "active"
    assert set(states.values()) == {"suppressed"}
    assert stack.states(run="other") == {"analysis_failed": "active"}

    exposition.series[unstable] = 0
    eventually(lambda: "TopowatchMinimumUnstable" in stack.told("page", "ill", "resolved"))
    eventually(lambda: stack.states(run="ill", detector="analysis_failed") == {"analysis_failed": "active"})


def test_a_daemon_in_trouble_holds_back_what_only_follows_from_it(
    start: Callable[[str], Stack], exposition: Exposition
) -> None:
    rejected, ready = 'topowatch_ingest_rejected_total{reason="malformed"}', "topowatch_ingest_ready"
    exposition.series |= {rejected: 0, ready: 1}
    exposition.run("silent", "stalled_run")
    stack = start(exposition.address)
    eventually(lambda: stack.states(run="silent") == {"stalled_run": "active"})
    exposition.series |= {rejected: 5, ready: 0}
    eventually(lambda: "TopowatchIngestNotReady" in stack.states())
    eventually(lambda: stack.states(run="silent") == {"stalled_run": "suppressed"})
    eventually(lambda: stack.states(alertname="TopowatchSamplesRejected") == {"TopowatchSamplesRejected": "active"})
    exposition.stop()
    eventually(lambda: "TopowatchDown" in stack.told("page", None))
    assert stack.states(alertname="TopowatchDown") == {"TopowatchDown": "active"}
    # Ten minutes of refusals are still known, and nobody needs them now.
    eventually(lambda: stack.states(alertname="TopowatchSamplesRejected") == {"TopowatchSamplesRejected": "suppressed"})
