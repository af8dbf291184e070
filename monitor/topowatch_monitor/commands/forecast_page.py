"""How the forecasts of a group look in the terminal: live runs, the best first, and what forecasts were worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from topowatch_monitor.commands.render import UNKNOWN, number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType


def forecast_page(answer: Mapping[str, Any]) -> RenderableType:
    """Lay out the daemon's answer about a group."""
    live = [run for run in answer["runs"] if run["state"] == "live"]
    counts = f"{number(len(live))} live runs, {number(len(answer['runs']) - len(live))} others"
    parts: list[RenderableType] = [Text.assemble(("group ", "dim"), (answer["group"], "bold"), (f"  {counts}", "dim"))]
    if answer["abstained"]:
        parts.append(Text.assemble("\nForecasts: ", ("abstained", "dim"), f", {answer['reason']}"))
    else:
        higher = all(view["higher_is_better"] for view in answer["learned"])
        parts += _runs(live, higher_is_better=higher)
    for view in answer["learned"]:
        parts += _worth(view)
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        words = name in {"run", "why not"}
        table.add_column(Text(name), justify="left" if words else "right", overflow="fold", no_wrap=not words)
    return table


def _runs(runs: Sequence[Mapping[str, Any]], *, higher_is_better: bool) -> list[RenderableType]:
    """Lay out the live runs, the best forecast first; the worse half of those that have one may be stopped."""
    told = sorted((run for run in runs if not run["abstained"]), key=lambda run: run["value"], reverse=higher_is_better)
    silent = [run for run in runs if run["abstained"]]
    table = _table("run", "step", told[0]["metric"], "90 %", "half")
    for place, run in enumerate(told):
        better = place < (len(told) + 1) // 2
        half = Text("better", style="green") if better else Text("worse", style="yellow")
        interval = f"{number(run['lower'])} to {number(run['upper'])}"
        table.add_row(Text(run["run"]), number(run["at"]), number(run["value"]), interval, half)
    parts: list[RenderableType] = [Text("\nLive runs", style="bold"), Padding(table, (0, 0, 0, 2))]
    if silent:
        rest = _table("run", "step", "why not")
        for run in silent:
            rest.add_row(Text(run["run"]), number(run["at"]), Text(run["reason"]))
        parts += [Text("\nWithout a forecast", style="bold"), Padding(rest, (0, 0, 0, 2))]
    return parts


def _worth(view: Mapping[str, Any]) -> list[RenderableType]:
    """Lay out how good forecasts were, beside plain ones."""
    if view["metric"] is None:
        return [Text(f"\nNothing was learned: {view['reason']}")]
    table = _table("share", "R² made", "runs", "in 90 %", "R² left out", "no topology", "plain")
    for level in view["levels"]:
        made, left_out = level["made"], level["left_out"]
        plain = [r2 for r2 in level["baselines"].values() if r2 is not None]
        table.add_row(
            percent(level["share"]),
            number(made["r2"], 2),
            number(made["runs"]),
            UNKNOWN if made["coverage"] is None else percent(made["coverage"]),
            number(left_out["r2"], 2),
            number(level["without_topology"], 2),
            number(max(plain, default=None), 2),
        )
    heading = Text.assemble(
        ("\nWhat forecasts were worth", "bold"), (f"  {view['metric']}, learned from {view['runs']} ended runs", "dim")
    )
    return [heading, Padding(table, (0, 0, 0, 2))]
