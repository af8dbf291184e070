"""How the events of a run look in the terminal: when flags went on and off, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

SHOWN = 20  # newest events on the page of a run; its JSON has all that are kept


def events_section(events: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Lay out the newest events, newest last; what the job has gone back to before is struck out. Nothing if empty."""
    if not events:
        return []
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", style="dim")
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for event in events[-SHOWN:]:
        colour = "bold red" if event["severity"] == "critical" else "bold yellow"
        name = Text(event["detector"].replace("_", " "), style=colour if event["on"] else "")
        why = Text(event["reason"] if event["on"] else "", style="dim")
        if event["superseded"]:
            name.stylize("dim strike")
            why = Text.assemble(why, ("  " if why else ""), ("superseded by a later start of the job", "dim"))
        table.add_row(Text(f"step {event['step']:,}"), Text("on" if event["on"] else "off"), name, why)
    earlier = len(events) - SHOWN
    title = Text.assemble(("\nEvents", "bold"), (f"  and {earlier} earlier: --json" if earlier > 0 else "", "dim"))
    return [title, Padding(table, (0, 0, 0, 2))]
