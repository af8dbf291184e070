"""Trains the runs of a sweep that are missing, against a real daemon: `python -m replication.forecasts.generate SWEEP`.

Kept in .cache/replication/forecasts/<sweep>: the daemon's data directory, and a JSON file for each run that has ended.
What was trained before an interruption stays; a run that was cut off begins anew and supersedes what it had sent.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from harness import Daemon
from replication.forecasts.sweep import SWEEPS
from replication.runs import CACHE

if TYPE_CHECKING:
    from pathlib import Path

    from replication.forecasts.sweep import Configuration, Sweep

_WORKERS = (os.cpu_count() or 1) + 1  # each waits now and then until the daemon has what it sent
_ARRIVAL_SECONDS = 300.0  # for what waits in spools when the last run has ended


def folder_of(sweep: Sweep) -> Path:
    """Return where a sweep lies."""
    return CACHE / "forecasts" / sweep.name


def kept(sweep: Sweep, configuration: Configuration) -> dict[str, Any] | None:
    """Return what `train` returned for a run; None where it is not there, as it is configured now."""
    try:
        found: dict[str, Any] = json.loads(_path(sweep, configuration).read_text())
    except FileNotFoundError:
        return None
    return found if found["configuration"] == asdict(configuration) else None


def generate(sweep: Sweep) -> None:
    """Train all runs that are not kept yet, on all cores, and wait until the daemon has them all."""
    missing = [each for each in sweep.configurations() if kept(sweep, each) is None]
    if not missing:
        return
    folder_of(sweep).mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that train
    spool = folder_of(sweep) / "spool"  # what an interruption leaves in it is sent at the next start
    daemon = Daemon(folder_of(sweep), "--engine", "inline").start()
    try:
        with (
            Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeRemainingColumn()) as progress,
            ProcessPoolExecutor(_WORKERS, mp_context=get_context("spawn")) as pool,
        ):
            task = progress.add_task(f"training {sweep.name}", total=len(missing))
            futures = [pool.submit(_keep, sweep, each, daemon.grpc, spool) for each in missing]
            try:
                for done in as_completed(futures):
                    progress.update(task, description=f"trained {done.result():<28}", advance=1)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # or leaving the block would train all the rest
                raise
            progress.update(task, description="the daemon reads on")
            _wait(daemon, sweep.configurations())
    finally:
        daemon.stop()


def _keep(sweep: Sweep, configuration: Configuration, endpoint: str, spool: Path) -> str:
    import torch

    from replication.forecasts.training import train

    torch.set_num_threads(1)
    found = train(configuration, endpoint, spool)
    path = _path(sweep, configuration)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps({"configuration": asdict(configuration), **found}))
    unfinished.replace(path)
    return f"{configuration.cell.name} {configuration.run}"


def _wait(daemon: Daemon, configurations: list[Configuration]) -> None:
    """Wait until the daemon has seen the end of all runs."""
    wanted = {(group, each.run) for each in configurations for group in each.groups}
    deadline = time.monotonic() + _ARRIVAL_SECONDS
    while missing := wanted - {
        (run["group"], run["run"]) for run in daemon.get("/api/v1/runs")["runs"] if run["state"] == "ended"
    }:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the daemon did not hear of the end of {len(missing)} runs, among them {min(missing)}")
        time.sleep(1.0)


def _path(sweep: Sweep, configuration: Configuration) -> Path:
    return folder_of(sweep) / "runs" / configuration.cell.name / f"{configuration.run}.json"


if __name__ == "__main__":
    generate(SWEEPS[sys.argv[1]])
    sys.exit(0)
