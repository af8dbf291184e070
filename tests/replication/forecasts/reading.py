"""What the daemon knew of the runs of a sweep: its log read once more, as `topowatch replay` does."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from rich.progress import MofNCompleteColumn, Progress

from replication.forecasts.generate import folder_of
from replication.forecasts.keeping import keep
from topowatch_monitor.commands.records import by_run, log_records
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.engine.shard import finished

if TYPE_CHECKING:
    from replication.forecasts.sweep import Sweep
    from topowatch_monitor.commands.records import Key
    from topowatch_monitor.engine.finished import Finished


def read(sweep: Sweep) -> dict[str, list[Finished]]:
    """Return the ended runs of each group, as a shard hands them out for forecasts; kept until the code changes."""
    return keep(sweep, "finished", _read, sweep)


def _read(sweep: Sweep) -> dict[str, list[Finished]]:
    runs = by_run(log_records(folder_of(sweep) / "data"))
    found: dict[str, list[Finished]] = {}
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress,
        ProcessPoolExecutor(os.cpu_count()) as pool,
    ):
        task = progress.add_task(f"reading {sweep.name}", total=len(runs))
        jobs = {key: pool.submit(_follow, key, [(each.kind, each.payload) for each in runs[key]]) for key in runs}
        for key, job in jobs.items():
            if (run := job.result()) is not None:
                found.setdefault(key[1], []).append(run)
            progress.advance(task)
    return found


def _follow(key: Key, records: list[tuple[int, bytes]]) -> Finished | None:
    run = follow(key, records)
    return finished(run) if run.ended else None


def follow(key: Key, records: list[tuple[int, bytes]]) -> RunState:
    """Return the state of a run after its records."""
    run = RunState(*key)
    for kind, payload in records:
        run.apply(kind, payload)
    return run
