"""How runs look in the terminal: the table of all and the page of one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from topowatch_monitor.commands.render_events import events_section
from topowatch_monitor.commands.slice_page import slice_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

STYLES = {"healthy": "green", "starting": "dim", "warning": "yellow", "unstable": "bold red", "lost": "magenta"}
SIGNS = {"healthy": "✓", "starting": "…", "warning": "!", "unstable": "▲", "lost": "×"}
UNKNOWN = "–"


def number(value: float | None, digits: int = 4) -> str:
    """Format with some significant digits, integers with all of them; a dash for what is not known."""
    if value is None:
        return UNKNOWN
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:.{digits}g}" if math.isfinite(value) else str(value)


def percent(value: float | None, digits: int = 2) -> str:
    """Format a share as a percentage with so many decimals."""
    return UNKNOWN if value is None else f"{100 * value:.{digits}f} %"


def ago(seconds: float | None) -> str:
    """Format an age."""
    if seconds is None:
        return UNKNOWN
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{max(0, round(seconds / unit))} {name} ago"
    return f"{round(seconds / 86_400)} d ago"


def verdict_text(run: Mapping[str, Any]) -> Text:
    """Return the verdict in its colour, with a sign so that colour is not needed."""
    word = run["verdict"]
    return Text(f"{SIGNS.get(word, '?')} {word}", style=STYLES.get(word, ""))


def class_word(path_class: Mapping[str, Any]) -> Text:
    """Return the label of a path's class in a few characters: `~` if it may change, `!` if it is an outlier."""
    if path_class["abstained"]:
        return Text(UNKNOWN, style="dim")
    label = "none" if path_class["label"] is None else str(path_class["label"])
    if path_class["outlier"]:
        return Text(f"{label} !", style="yellow")
    return Text(f"{label} ~" if path_class["provisional"] else label)


def flag_lines(run: Mapping[str, Any]) -> list[Text]:
    """Return one line a flag: which detector, since when, why."""
    return [
        Text.assemble(
            (flag["detector"].replace("_", " "), "bold red" if flag["severity"] == "critical" else "bold yellow"),
            ("" if flag["since_step"] is None else f" since step {flag['since_step']:,}", "dim"),
            f": {flag['reason']}",
        )
        for flag in run["flags"]
    ]


def runs_table(runs: Sequence[Mapping[str, Any]], now: float, width: int = 120) -> RenderableType:
    """Lay out all runs, one table a group; a terminal of fewer than 100 columns gets fewer columns."""
    tables: list[RenderableType] = []
    for group in sorted({run["group"] for run in runs}):
        members = [run for run in runs if run["group"] == group]
        count = f"  {len(members)} runs" if len(members) > 1 else ""
        tables.append(Text.assemble(("group ", "dim"), (group, "bold"), (count, "dim")))
        classed = any(not run["path_class"]["abstained"] for run in members)
        table = _group_table(members, now, wide=width >= 100, classed=classed and width >= 90)
        tables.append(Padding(table, (0, 0, 1, 0)))
    return Group(*tables)


def _group_table(runs: Sequence[Mapping[str, Any]], now: float, *, wide: bool, classed: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("verdict", no_wrap=True, min_width=10)
    table.add_column("run", overflow="fold", min_width=20)
    names = ("step", "loss", "length", "H₀", "H₁", *(("class",) if classed else ()))
    for name in (*names, *(("seen", "dropped", "overhead") if wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        path = run["path"]
        name = Text(run["run"], style="bold" if run["state"] == "live" else "")
        if run["state"] == "ended":
            name.append("  ended", style="dim")
        for flag in run["flags"]:
            name.append(
                f"\n{flag['detector'].replace('_', ' ')}", style="red" if flag["severity"] == "critical" else "yellow"
            )
        if run["path_class"]["outlier"]:  # a verdict should not stand without its reason
            name.append("\npath outlier", style="yellow")
        cells: list[Text | str] = [
            verdict_text(run),
            name,
            number(run["step"]),
            _loss(run, digits=3),
            number(path["length"], 3),
            number(path["h0_total_persistence"], 3),
            number(path["h1_total_persistence"], 3),
        ]
        if classed:
            cells.append(class_word(run["path_class"]))
        if wide:
            cells += [
                ago(_age(run, now)),
                Text(number(run["dropped"]), "yellow" if run["dropped"] else ""),
                percent(run["overhead_ratio"]),
            ]
        table.add_row(*cells)
    return table


def run_page(run: Mapping[str, Any], now: float | None) -> RenderableType:
    """Lay out everything that is known of one run; `now` None leaves ages out."""
    head = Text.assemble((run["run"], "bold"), ("  in group ", "dim"), run["group"], "  ", verdict_text(run))
    parts: list[RenderableType] = [head]
    if run["labels"]:
        parts.append(Text("  ".join(f"{name}={value}" for name, value in sorted(run["labels"].items())), style="dim"))
    counts = f"{number(run['samples'])} samples"
    if run.get("superseded"):  # a daemon of an earlier version does not say
        counts += f", {number(run['superseded'])} of them superseded by a later start of the job"
    if run["rejected"]:
        counts += f", {number(run['rejected'])} rejected"
    state: dict[str, str | Text] = {
        "state": run["state"] + ("" if now is None else f", last seen {ago(_age(run, now))}"),
        "step": number(run["step"]),
        "stored": counts,
        "incarnation": "–" if run["incarnation"] is None else str(run["incarnation"]),
    }
    if ranks := _ranks(run):
        state["ranks"] = ranks
    state |= {f"result {name}": number(value) for name, value in sorted((run["results"] or {}).items())}
    parts += _section("State", state)
    parts += [Text("\nFlags", style="bold"), *[Padding(line, (0, 0, 0, 2)) for line in flag_lines(run)]]
    if not run["flags"]:
        parts.append(Text("  none", style="dim"))
    parts += events_section(run.get("events", ()))  # a daemon of an earlier version does not say
    parts += _section("Path of the weights", _path(run["path"]))
    if run["representation"]:
        parts += _section("Path of the representation", _path(run["representation"]))
    if run.get("loss_path"):
        parts += _section("Path of the probe losses", _loss_path(run["loss_path"]))
    if run.get("landscape"):
        parts.append(slice_page(run["landscape"]))
    scalars: dict[str, str | Text] = {"loss": _loss(run), "probe loss": number(run["probe_loss"])}
    others = run["scalars"].keys() - {"loss", "probe_loss"}
    scalars |= {name: number(run["scalars"][name]) for name in sorted(others)}
    parts += _section("Scalars, latest", scalars)
    parts += _section(
        "Cost of watching",
        {
            "overhead": percent(run["overhead_ratio"]),
            "interval": UNKNOWN if run["interval"] is None else f"every {run['interval']:,} steps",
            "coverage": UNKNOWN if run["coverage"] is None else f"{percent(run['coverage'])} of the parameters",
            "dropped": f"{number(run['dropped'])} samples",
        },
    )
    if not run["path_class"]["abstained"]:
        parts += _section("Path class", _path_class(run["path_class"]))
    if not run["forecast"]["abstained"]:
        parts += _section("Forecast", _forecast(run["forecast"]))
    for title, key in (("Path class", "path_class"), ("Forecast", "forecast")):
        if run[key]["abstained"] and run[key]["reason"]:
            parts += [Text.assemble(f"\n{title}: ", ("abstained", "dim"), f", {run[key]['reason']}")]
    return Group(*parts)


def _forecast(forecast: Mapping[str, Any]) -> dict[str, str | Text]:
    told: dict[str, str | Text] = {
        forecast["metric"]: number(forecast["value"]),
        "interval": f"{number(forecast['lower'])} to {number(forecast['upper'])} (90 %)",
    }
    gap = forecast.get("gap")  # a daemon of an earlier version does not say
    return {**told, "gap": number(gap["value"])} if gap else told


def _ranks(run: Mapping[str, Any]) -> str:
    """Say which ranks of a sharded model send; empty for another one."""
    ranks = run.get("ranks")  # a daemon of an earlier version does not say
    if not ranks or ranks["contributing"] <= 1:
        return ""
    told = f"{number(ranks['contributing'])} hold a part of the model, {number(ranks['heard'])} have been heard of"
    if ranks["missing"]:
        told += f", {number(len(ranks['missing']))} missing"
    if run["incomplete"]:
        told += f"; {number(run['incomplete'])} steps lack a part"
    return told


def _path(path: Mapping[str, Any]) -> dict[str, str | Text]:
    # A daemon of an earlier version does not say what is asked for with `get`.
    return {
        "length": number(path["length"]),
        "H₀ total persistence": number(path["h0_total_persistence"]),
        "E_α of H₀": _weighted_sums(path.get("e_alpha")),
        "H₁ total persistence": number(path["h1_total_persistence"]),
        "PH dimension": _interval(path["dimension"], path.get("dimension_lower"), path.get("dimension_upper")),
        "positive magnitude": number(path.get("magnitude")),
        "Betti drift": number(path.get("betti_drift")),
        "Betti drift, Wasserstein": number(path.get("betti_drift_wasserstein")),
        "points in the window": number(path["points"]),
        "resolution of H₁": number(path["resolution"]),
    }


def _path_class(told: Mapping[str, Any]) -> dict[str, str | Text]:
    label = "none" if told["label"] is None else str(told["label"])
    rows: dict[str, str | Text] = {"class": f"{label}, provisionally" if told["provisional"] else label}
    if told["outlier"] is not None:
        rows["outlier"] = Text("yes", style="bold yellow") if told["outlier"] else "no"
    if told["reason"]:
        rows["because"] = told["reason"]
    rows["p-value"] = number(told["p_value"], 2)
    if told["provisional"]:
        rows["may belong to"] = ", ".join(map(str, told["compatible"])) or "no class"
        rows["off the map by"] = number(told["distance"], 3)
    if told["outside"]:
        rows["outside for"] = f"{number(told['outside'])} computations in a row"
    return rows


def _loss_path(path: Mapping[str, Any]) -> dict[str, str | Text]:
    return {
        "PH dimension": _interval(path["dimension"], path["lower"], path["upper"]),
        "E_α of H₀": _weighted_sums(path["e_alpha"]),
        "points in the window": number(path["points"]),
    }


def _interval(value: float | None, lower: float | None, upper: float | None) -> str:
    if value is None or lower is None or upper is None:
        return number(value)
    return f"{number(value, 3)}  ({number(lower, 3)} to {number(upper, 3)})"


def _weighted_sums(sums: Mapping[str, float] | None) -> str:
    return "  ".join(f"α={alpha}: {number(value)}" for alpha, value in (sums or {}).items()) or UNKNOWN


def _section(title: str, rows: Mapping[str, str | Text]) -> list[RenderableType]:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value) if isinstance(value, str) else value)
    return [Text(f"\n{title}", style="bold"), Padding(table, (0, 0, 0, 2))]


def _loss(run: Mapping[str, Any], digits: int = 4) -> Text:
    broken = any(flag["detector"] == "non_finite_loss" for flag in run["flags"])
    if run["loss"] is None and broken:  # JSON has no NaN: the daemon sends null
        return Text("not finite", style="red")
    return Text(number(run["loss"], digits))


def _age(run: Mapping[str, Any], now: float) -> float | None:
    seen = run["last_received_at"]
    return None if seen is None else now - seen
