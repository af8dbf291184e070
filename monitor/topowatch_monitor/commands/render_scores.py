"""How replayed runs look in the terminal: their flags, and the scores of the detectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from topowatch_monitor.commands.render import UNKNOWN, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from topowatch_monitor.commands.flag_history import Life
    from topowatch_monitor.commands.records import Key
    from topowatch_monitor.commands.replay_many import Scores
    from topowatch_monitor.detect.scoring import Bounds, Score

SHOWN = 8  # names in a sentence


def flags_table(runs: Mapping[Key, Sequence[Life]]) -> RenderableType:
    """Lay out every flag of every run: from which step to which, and why."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("run", overflow="fold", min_width=10)
    for name in ("on", "off"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("flag", no_wrap=True)
    table.add_column("reason", overflow="fold")
    quiet = []
    for (_, group, run), lives in runs.items():
        flags = [(life, flag) for life in lives for flag in life.flags]
        if not flags:
            quiet.append(run)
        for place, (life, flag) in enumerate(flags):
            off = f"{flag.off:,}" if flag.off is not None else ("" if life is lives[-1] else "rewind")
            title = Text.assemble((run, "bold"), (f"  {group}", "dim")) if place == 0 else Text()
            table.add_row(title, f"{flag.on:,}", off, Text(flag.detector.replace("_", " ")), Text(flag.reason))
    told = f"no flag: {_named(quiet)}" if quiet else "no run without a flag"
    return Group(table, Text(f"\n{told}", style="dim")) if table.row_count else Text(told, style="dim")


def scores_table(scores: Scores) -> RenderableType:
    """Lay out the scores of all detectors that raised a flag, and of `minimum_unstable`."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("flag", no_wrap=True)
    for title in ("found", "recall", "precision", "false alarms\nper 10,000", "median lead\nin steps", "worst\nlead"):
        table.add_column(title, justify="right", no_wrap=True)
    silent = []
    for place, (name, one) in enumerate(scores.by_detector.items()):
        if place and not one.found + one.false_alarms:
            silent.append(name.replace("_", " "))
            continue
        table.add_row(Text(name.replace("_", " "), style="" if place else "bold"), *_cells(one))
    any_score = next(iter(scores.by_detector.values()))
    head = Text.assemble(
        (f"{scores.marked} marked runs", "bold"),
        f": {any_score.events} went wrong, {any_score.healthy_steps:,} healthy steps; intervals of 95 %",
    )
    notes = [f"never on: {', '.join(silent)}"] if silent else []
    if scores.unmarked:
        notes.append(f"not marked, so not scored: {_named(scores.unmarked)}")
    if scores.unmeasured:
        notes.append(f"no lead: no departure is marked, nor seen in a loss of every step: {_named(scores.unmeasured)}")
    return Group(head, "", table, *(Text(f"\n{note}", style="dim") for note in notes))


def _cells(one: Score) -> list[Text]:
    return [
        Text(f"{one.found} of {one.events}"),
        _bounded(one.recall),
        _bounded(one.precision),
        _bounded(one.false_alarm_rate),
        _bounded(one.median_lead),
        Text(number(one.worst_lead)),
    ]


def _bounded(bounds: Bounds) -> Text:
    if bounds.value is None:
        return Text(UNKNOWN)
    text = Text(number(bounds.value, 3))
    if bounds.lower is not None and bounds.upper is not None:
        text.append(f"\n{number(bounds.lower, 3)} to {number(bounds.upper, 3)}", style="dim")
    return text


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
