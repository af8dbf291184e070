"""What the demo shows: the live table and the closing verdict. Pure functions of what the daemon's API answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from topowatch_monitor.demo.processes import Job

STYLES = {"healthy": "green", "unstable": "bold red", "warning": "yellow", "lost": "magenta", "starting": "dim"}


def number(value: float | None, digits: int = 3) -> str:
    """Format for a table; a dash where nothing is known."""
    return "–" if value is None else f"{value:.{digits}g}"


def verdict_text(run: Mapping[str, Any]) -> Text:
    """The verdict in its colour."""
    return Text(run["verdict"], style=STYLES.get(run["verdict"], ""))


def live_table(jobs: Sequence[Job], runs: Mapping[str, Mapping[str, Any]], steps: int) -> Table:
    """One row a job: how far it is and what the daemon says of it now."""
    table = Table(title="Four trainings, as the daemon sees them", title_justify="left", expand=False)
    for heading in ("run", "progress", "step", "loss", "path length", "H₀", "H₁", "verdict"):
        table.add_column(heading, justify="left" if heading in {"run", "progress", "verdict"} else "right")
    for job in jobs:
        run = runs.get(job.run)
        step = 0 if run is None or run["step"] is None else run["step"] + 1
        bar = ProgressBar(total=steps, completed=min(step, steps), width=18)
        if run is None:
            table.add_row(job.run, bar, "–", "–", "–", "–", "–", Text("starting", style="dim"))
            continue
        path = run["path"]
        table.add_row(
            job.run, bar, str(step), number(run["loss"]), number(path["length"], 4),
            number(path["h0_total_persistence"], 4), number(path["h1_total_persistence"], 3), verdict_text(run),
        )  # fmt: skip
    return table


def verdict_table(jobs: Sequence[Job], runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """The closing table, with every flag's reason below its run."""
    table = Table(title="Verdict", title_justify="left", show_lines=True)
    table.add_column("run")
    for heading in ("loss", "test acc.", "path length", "H₀", "H₁", "samples", "dropped", "client cost"):
        table.add_column(heading, justify="right")
    table.add_column("verdict and flags", ratio=1, min_width=24)
    for job in jobs:
        run = runs[job.run]
        path, results = run["path"], run["results"] or {}
        cost = run["overhead_ratio"]
        verdict = verdict_text(run)
        for flag in run["flags"]:
            verdict.append(f"\n{flag['detector']} since step {flag['since_step']}: {flag['reason']}", style="default")
        table.add_row(
            Text.assemble(job.run, "\n", (job.story, "dim")), number(run["loss"]), number(results.get("test_accuracy")),
            number(path["length"], 4), number(path["h0_total_persistence"], 4),
            number(path["h1_total_persistence"], 3), str(run["samples"]), str(run["dropped"]),
            "–" if cost is None else f"{cost:.2%}", verdict,
        )  # fmt: skip
    return table
