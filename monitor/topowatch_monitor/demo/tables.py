"""What the demo shows: the live table and the closing verdict. Pure functions of what the daemon's API answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from topowatch_monitor.demo.processes import Job

LEGEND = """
acc.: on held-out digits. length: of the path of the weights, in sketch space.
H₀, H₁: total persistence of its window; H₀ of consecutive points is close to
the length of the path through them. client: share of wall time spent in
topowatch; the demo samples every 16 steps of 2 to 3 ms each, where by default
the client would keep it below 0.5 %."""
STYLES = {"healthy": "green", "unstable": "bold red", "warning": "yellow", "lost": "magenta", "starting": "dim"}


def number(value: float | None, digits: int = 3) -> str:
    """Format for a table; a dash where nothing is known."""
    return "–" if value is None else f"{value:.{digits}g}"


def verdict_text(run: Mapping[str, Any]) -> Text:
    """The verdict in its colour."""
    return Text(run["verdict"], style=STYLES.get(run["verdict"], ""))


def _table(title: str, left: str, right: Sequence[str], last: str) -> Table:
    """A table that fits 80 columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column(left, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(last, no_wrap=True)
    return table


def live_table(jobs: Sequence[Job], runs: Mapping[str, Mapping[str, Any]], steps: int) -> Table:
    """One row a job: how far it is and what the daemon says of it now."""
    headings = ("", "step", "loss", "length", "H₀", "H₁")
    table = _table("Four trainings, as the daemon sees them", "run", headings, "verdict")
    for job in jobs:
        run = runs.get(job.run)
        step = 0 if run is None or run["step"] is None else run["step"] + 1
        bar = ProgressBar(total=steps, completed=min(step, steps), width=16)
        if run is None:
            table.add_row(job.run, bar, "–", "–", "–", "–", "–", Text("starting", style="dim"))
            continue
        table.add_row(job.run, bar, str(step), number(run["loss"]), *_path(run), verdict_text(run))
    return table


def verdict_table(jobs: Sequence[Job], runs: Mapping[str, Mapping[str, Any]]) -> Group:
    """The closing table, and below it what each job was and why it was flagged."""
    headings = ("loss", "acc.", "length", "H₀", "H₁", "samples", "dropped", "client")
    table = _table("Verdict", "run", headings, "verdict")
    notes = []
    for job in jobs:
        run = runs[job.run]
        accuracy = (run["results"] or {}).get("test_accuracy")
        cost = run["overhead_ratio"]
        table.add_row(
            job.run, number(run["loss"]), number(accuracy), *_path(run), str(run["samples"]), str(run["dropped"]),
            "–" if cost is None else f"{cost:.1%}", verdict_text(run),
        )  # fmt: skip
        note = Text.assemble((job.run, "bold"), f": {job.story}.")
        if not run["flags"]:
            note.append(" No flag.")
        for flag in run["flags"]:
            note.append(f"\n  {flag['detector']} since step {flag['since_step']}: {flag['reason']}")
        notes.append(note)
    return Group(table, *notes, Text(LEGEND, style="dim"))


def _path(run: Mapping[str, Any]) -> tuple[str, str, str]:
    """Length, H₀ and H₁ total persistence of a run's path."""
    path = run["path"]
    return (
        number(path["length"], 4),
        number(path["h0_total_persistence"], 4),
        number(path["h1_total_persistence"], 2),
    )
