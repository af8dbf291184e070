"""How long a failing run takes to wake somebody: from the optimiser step to the webhook, on the files that we ship.

`make bench-alert` runs it. Daemon, forwarder, trainings, Prometheus and Alertmanager are real processes; of the shipped
configuration only addresses are replaced. The figures are kept as JSON and as a page of docs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from machine import machine
from tabular import table

sys.path.insert(0, str(Path(__file__).parents[1]))
from alert_stack import Alertmanager, Prometheus, Receiver, missing
from harness import Daemon
from topowatch_client import spawn

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "alert.json"
PAGE = HERE.parents[1] / "docs" / "bench-alert.md"
BAR = 15.0  # seconds from a sample to an active alert in Alertmanager
ALERT = "TopowatchMinimumUnstable"
FAILURES = {"nan": "NaN", "rise": "rise"}
STAGES = {
    "sampled": "the sample that shows it, after the failing step",
    "metric": "at /metrics",
    "firing": "firing in Prometheus",
    "active": f"active in Alertmanager (bar: {BAR:g} s)",
    "notified": "at the webhook",
}
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 300.0

_HEAD = """\
# How long an alert takes

Written by `make bench-alert`. Two real trainings at a time, one of each kind, with default settings of the client; a
real daemon, forwarder, Prometheus and Alertmanager on the same machine, on `deploy/prometheus` as shipped (scrapes and
rules of pages every 2 s, `group_wait` 1 s). The alert is `{alert}`.

The first line is how long it took from the end of the optimiser step that failed to that of the step whose sample shows
it. The others count from that step, the time in the sample, on, each with those above it. All in seconds. *NaN* is a
loss that becomes NaN, *rise* one that leaves its minimum when the learning rate is raised a hundredfold, which takes
several losses to tell.

What it is made of: the client hands on what was logged when four beats of its pulse have gathered and a second has
gone, or after 4 s; the forwarder looks every 0.25 to 1 s; then come a scrape and an evaluation, each 1 s away on
average and 2 s at most, and `group_wait`.
"""
_ENGINE = """\
## {engine}

Machine: {machine}, load {load:.0f}. {runs} runs of each kind, {step:.0f} ms a step, sketches every {interval} steps.
"""


class Training:
    """The process that fails, and when it took which step."""

    def __init__(self, failure: str, runs: int, endpoint: str, spool: Path) -> None:
        self.steps: dict[str, dict[int, float]] = {}
        self.failed: dict[str, float] = {}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TOPOWATCH_")}
        command = [str(HERE / "alert_training.py"), failure, "--runs", str(runs)]
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**clean, "TOPOWATCH_ENDPOINT": endpoint, "TOPOWATCH_SPOOL_DIR": str(spool)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def go_on(self) -> None:
        """Let it begin its next run."""
        assert self._process.stdin is not None
        self._process.stdin.write("seen\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self.steps.setdefault(told["run"], {})[told["step"]] = told["at"]
            if told["fails"]:
                self.failed.setdefault(told["run"], told["at"])


class Watchers:
    """Everything that looks at the trainings."""

    def __init__(self, directory: Path, engine: str) -> None:
        places = {name: directory / name for name in ("daemon", "prometheus", "alertmanager")}
        for place in places.values():
            place.mkdir()
        self.receiver = Receiver()
        self.daemon = Daemon(places["daemon"], "--engine", engine).start()
        self.alertmanager = Alertmanager(places["alertmanager"], self.receiver.address)
        self.prometheus = Prometheus(places["prometheus"], self.daemon.http, alertmanager=self.alertmanager.address)
        for server in (self.alertmanager, self.prometheus):
            when(server.is_ready)

    def at_metrics(self, run: str) -> bool:
        return self.daemon.metric("topowatch_minimum_unstable", run=run) == 1

    def is_firing(self, run: str) -> bool:
        return any(one["run"] == run for one in self.prometheus.firing() if one["alertname"] == ALERT)

    def is_active(self, run: str) -> bool:
        active = [one["labels"] for one in self.alertmanager.alerts() if one["status"]["state"] == "active"]
        return any(one.get("run") == run for one in active if one["alertname"] == ALERT)

    def notified_at(self, run: str) -> float | None:
        for notice in self.receiver.notices:
            for alert in notice.alerts():
                if alert["labels"].get("run") == run and alert["labels"]["alertname"] == ALERT:
                    return notice.at
        return None

    def stop(self) -> None:
        self.prometheus.stop()
        self.alertmanager.stop()
        self.daemon.stop()
        self.receiver.stop()


def when(is_so: Callable[[], object]) -> float:
    """Unix time at which something is found to be so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if is_so():
                return time.time()
        except (httpx.HTTPError, LookupError):  # not there yet
            pass
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"nothing within {PATIENCE_SECONDS:g} s")


def one_run(run: str, training: Training, watchers: Watchers) -> dict[str, float]:
    """Follow one run to its alert; return seconds by stage."""
    metric = when(lambda: watchers.at_metrics(run))
    firing = when(lambda: watchers.is_firing(run))
    active = when(lambda: watchers.is_active(run))
    when(lambda: watchers.notified_at(run))
    view = watchers.daemon.run(run)
    step = min(flag["since_step"] for flag in view["flags"] if flag["severity"] == "critical")
    sampled = training.steps[run][step]
    training.go_on()
    notified = watchers.notified_at(run) or time.time()
    # What was told of was active, however long the answer that says so took.
    times = {"metric": metric, "firing": firing, "active": min(active, notified), "notified": notified}
    since = {name: at - sampled for name, at in times.items()}
    step_seconds = float(np.median(np.diff(list(training.steps[run].values()))))
    return {"sampled": sampled - training.failed[run], **since, "interval": view["interval"], "step": step_seconds}


def measure(engine: str, runs: int) -> dict[str, Any]:
    """Let runs of both kinds fail under one daemon."""
    found: dict[str, list[dict[str, float]]] = {failure: [] for failure in FAILURES}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        watchers = Watchers(directory, engine)
        spool = directory / "spool"
        trainings = {failure: Training(failure, runs, watchers.daemon.grpc, spool) for failure in FAILURES}
        try:
            followers = [
                threading.Thread(target=_follow, args=(failure, runs, training, watchers, found[failure]))
                for failure, training in trainings.items()
            ]
            for follower in followers:
                follower.start()
            for follower in followers:
                follower.join()
        finally:
            for training in trainings.values():
                training.stop()
            if (forwarder := spawn.forwarder_pid(spool)) is not None:
                os.kill(forwarder, signal.SIGINT)
            watchers.stop()
    if any(len(each) < runs for each in found.values()):
        raise SystemExit("a run raised no alert; see above")
    return {"machine": machine(), "load": os.getloadavg()[0], "runs": found}


def _follow(failure: str, runs: int, training: Training, watchers: Watchers, found: list[dict[str, float]]) -> None:
    for number in range(runs):
        found.append(one_run(f"{failure}-{number}", training, watchers))
        print(f"{failure}-{number}", {name: round(value, 2) for name, value in found[-1].items()}, file=sys.stderr)


def worst(results: dict[str, Any]) -> float:
    """The longest that any alert took to be active in Alertmanager, in seconds from its sample."""
    return max(run["active"] for one in results.values() for runs in one["runs"].values() for run in runs)


def page(results: dict[str, Any]) -> str:
    """Return the page."""
    parts = [_HEAD.format(alert=ALERT)]
    for engine, one in results.items():
        kinds = one["runs"]
        intervals = sorted({int(run["interval"]) for runs in kinds.values() for run in runs})
        head = [""] + [f"{FAILURES[kind]}, {figure}" for kind in kinds for figure in ("median", "90 %", "worst")]
        rows = [
            [said] + [f"{value:.1f}" for runs in kinds.values() for value in figures([run[stage] for run in runs])]
            for stage, said in STAGES.items()
        ]
        parts += [
            _ENGINE.format(
                engine=f"`topowatch serve --engine {engine}`",
                machine=one["machine"],
                load=one["load"],
                runs=len(kinds["nan"]),
                step=1e3 * np.median([run["step"] for runs in kinds.values() for run in runs]),
                interval=" to ".join(map(str, sorted({intervals[0], intervals[-1]}))),
            ),
            *table(head, rows),
            "",
        ]
    return "\n".join(parts)


def figures(values: list[float]) -> tuple[float, float, float]:
    """Median, 90 % quantile and largest."""
    return float(np.median(values)), float(np.quantile(values, 0.9)), max(values)


def main() -> int:
    """Measure, keep, print; exit 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("ray", "inline"), default="ray")
    parser.add_argument("--runs", type=int, default=12, help="of each kind")
    options = parser.parse_args()
    if (why := missing()) is not None:
        raise SystemExit(f"{why}: apt-get install prometheus prometheus-alertmanager")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[options.engine] = measure(options.engine, options.runs)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    text = page(results)
    PAGE.write_text(text)
    print(text)
    return int(worst(results) > BAR)


if __name__ == "__main__":
    sys.exit(main())
