"""`topowatch demo`: four real trainings, a real daemon, a live table and a verdict."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
from rich.live import Live

from topowatch_monitor.demo.processes import JOBS, DemoError, Processes
from topowatch_monitor.demo.tables import live_table, verdict_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STALL_SECONDS = 120.0  # without a new sample or a new result; a slow machine may take its time
PLAIN_SECONDS = 5.0  # between progress lines where there is no terminal


def run_demo(console: Console, *, steps: int, stay: bool) -> None:
    """Run the demo to its end; on Ctrl-C or failure every process it started is gone when this returns.

    Args:
        console: where to show it.
        steps: optimiser steps of each training.
        stay: keep the daemon up after the verdict, until Ctrl-C.

    Raises:
        DemoError: a process failed or nothing moves any more.
        KeyboardInterrupt: the user stopped it.
    """
    before = {number: signal.signal(number, _interrupt) for number in ENDINGS}
    with tempfile.TemporaryDirectory(prefix="topowatch-demo-", ignore_cleanup_errors=True) as directory:
        processes = Processes(Path(directory))
        try:
            console.print("Starting the daemon …")
            processes.start_daemon()
            console.print(f"The daemon is up: page {processes.http}/   metrics {processes.http}/metrics")
            for job in JOBS:
                processes.start_trainer(job, steps)
            runs = _watch(console, processes, steps)
            console.print(verdict_table(JOBS, runs))
            console.print(f"page     {processes.http}/\nmetrics  {processes.http}/metrics")
            if stay:
                console.print("The daemon stays up for you to look around. Ctrl-C ends it.")
                while True:
                    processes.check()
                    time.sleep(1.0)
        finally:
            for number in ENDINGS:
                signal.signal(number, signal.SIG_IGN)  # impatience must not leave a process behind
            with console.status("Stopping every process …"):
                processes.stop()
            for number, handler in before.items():
                signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _is_settled(run: Mapping[str, Any]) -> bool:
    """Whether a run has ended and all of it is analysed."""
    return bool(run["state"] == "ended" and run["analysed"] == run["samples"])


def _watch(console: Console, processes: Processes, steps: int) -> dict[str, dict[str, Any]]:
    """Show the live table until every run has ended and its last step is analysed."""
    stalled_by, moved = 0.0, None
    next_line = 0.0
    daemon = httpx.Client(base_url=processes.http, timeout=10.0, trust_env=False)
    with daemon, Live(console=console, auto_refresh=False) as live:
        while True:
            processes.check()
            runs = {run["run"]: run for run in daemon.get("/api/v1/runs").raise_for_status().json()["runs"]}
            if moved != (now := {name: (run["samples"], run["analysed"]) for name, run in runs.items()}):
                stalled_by, moved = time.monotonic() + STALL_SECONDS, now
            live.update(live_table(JOBS, runs, steps), refresh=console.is_terminal)
            if not console.is_terminal and time.monotonic() >= next_line:
                next_line = time.monotonic() + PLAIN_SECONDS
                console.print("  ".join(f"{name}: step {run['step']}" for name, run in runs.items()) or "training …")
            if len(runs) == len(JOBS) and all(map(_is_settled, runs.values())):
                return runs
            if time.monotonic() > stalled_by:
                raise DemoError(f"nothing has moved for {STALL_SECONDS:g} s; {processes.last_words()}")
            time.sleep(0.5)
