"""`topowatch show RUN --slice`: have a job take a slice of its loss, and wait for it."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from topowatch_monitor.commands.daemon import ask_for_slice, fetch_run
from topowatch_monitor.commands.output import CommandError

USUAL_SIDE = 17
LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 600.0  # until the job has begun: so long the daemon tells it


def take_slice(url: str, run: str, side: int, group: str | None = None, tenant: str | None = None) -> dict[str, Any]:
    """Return the run's JSON once it has a new slice; raises CommandError where the job takes none."""
    before = _points(fetch_run(url, run, group, tenant))
    request = ask_for_slice(url, run, side, group, tenant)
    deadline: float | None = time.monotonic() + PATIENCE_SECONDS
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("waiting for the job", total=side**2)
        while True:
            answer = fetch_run(url, run, group, tenant)
            landscape, points = answer["landscape"], _points(answer)
            if landscape is not None and landscape["request"] == request:
                if landscape["problem"]:
                    raise CommandError(f"the job took no slice: {landscape['problem']}")
                return answer
            if answer["state"] != "live":
                raise CommandError(f"run {run!r} is {answer['state']} and has taken no slice")
            if points != before:
                deadline = None
                progress.update(task, description="points taken", completed=points or 0)
            if deadline is not None and time.monotonic() > deadline:
                raise CommandError(
                    f"the job has not begun within {PATIENCE_SECONDS / 60:.0f} min: does it send samples, and is its "
                    "topowatch as new as the daemon's?"
                )
            time.sleep(LOOK_SECONDS)


def _points(answer: dict[str, Any]) -> float | None:
    points: float | None = answer["scalars"].get("loss_slice_points")
    return points
