"""How the path classes of a group look in the terminal: table, outliers, evidence, spread and dendrogram."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from topowatch_monitor.commands.dendrogram import dendrogram
from topowatch_monitor.commands.render import UNKNOWN, ago, class_word, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

MOST_LISTED = 20  # runs of one kind


def group_page(group: Mapping[str, Any], now: float, width: int = 120) -> RenderableType:
    """Lay out everything that is known of a group's path classes; `group` is the daemon's answer."""
    counts = f"{number(group.get('ended'))} ended runs, {number(group.get('live'))} live"
    fitted = group.get("fitted_at")
    age = "" if fitted is None else f", computed {ago(now - fitted)}"
    parts: list[RenderableType] = [
        Text.assemble(("group ", "dim"), (group["group"], "bold"), (f"  {counts}{age}", "dim"))
    ]
    if group["abstained"]:
        parts.append(Text.assemble("\nClasses: ", ("abstained", "dim"), f", {group['reason']}"))
    elif group["reason"]:
        parts.append(Text(f"\n{group['reason']}"))
    if not group.get("version"):  # nothing has been computed, or the daemon is of an earlier version
        return Group(*parts)
    members = {run["run"]: run for run in group["members"]}
    if not group["abstained"]:
        parts += classes_table(group, members)
        parts += outliers_table(group["outliers"], members)
    parts += _live([run for run in group["members"] if run["state"] == "live" and not run["abstained"]])
    parts += evidence(group)
    parts.append(Text("\nSpread of the results", style="bold"))
    parts.append(Padding(spread_words(group["spread"]), (0, 0, 0, 2)))
    parts += tree(group, width)
    return Group(*parts)


def metric_of(group: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the result that was compared over the classes, else the one that most runs have; None without any."""
    told: str | None = (group.get("spread") or {}).get("metric")
    if told is not None:
        return told
    counts = Counter(name for run in runs for name in run["results"] or {})
    return min(counts, key=lambda name: (-counts[name], name), default=None)


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, None of nothing."""
    return sum(values) / len(values) if values else None


def result_of(run: Mapping[str, Any], metric: str | None) -> float | None:
    """Return a run's final result; None where it has none that is a number."""
    value: float | None = (run["results"] or {}).get(metric)
    return value


def spread_words(spread: Mapping[str, Any]) -> Text:
    """Say whether the results go with the classes, and on what evidence."""
    if spread["verdict"] == "abstained":
        return Text.assemble(("abstained", "dim"), f", {spread['reason']}")
    strata = f", within equal {', '.join(spread['strata'])}" if spread["strata"] else ""
    figures = (
        f"{spread['metric']} of {number(spread['runs'])} runs: {number(spread['within'], 3)} within classes, "
        f"{number(spread['between'], 3)} between them, p {number(spread['p_value'], 2)}{strata}"
    )
    style = "bold yellow" if spread["verdict"] == "difference" else "bold"
    return Text.assemble((spread["verdict"], style), f": {spread['reason']}\n", (figures, "dim"))


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        words = name in {"members", "run", "may belong to"}
        table.add_column(Text(name), justify="left" if words else "right", overflow="fold", no_wrap=not words)
    return table


def classes_table(group: Mapping[str, Any], members: Mapping[str, Mapping[str, Any]]) -> list[RenderableType]:
    """Lay out the classes, the largest first, with the mean result where it is known; `members` are runs by name."""
    metric = metric_of(group, list(members.values()))
    table = _table("class", "runs", *([f"mean {metric}"] if metric else []), "members")
    for one in sorted(group["classes"], key=lambda one: (-len(one["members"]), one["label"])):
        results = [result_of(members[name], metric) for name in one["members"] if name in members]
        label = Text(str(one["label"]), style="bold" if one["majority"] else "")
        names = Text(", ".join(one["members"]))
        if one["majority"]:
            names = Text.assemble(("majority  ", "dim"), names)
        names.truncate(400, overflow="ellipsis")
        means = [number(mean([value for value in results if value is not None]))] if metric else []
        table.add_row(label, number(len(one["members"])), *means, names)
    return [Text("\nClasses", style="bold"), Padding(table, (0, 0, 0, 2))]


def outliers_table(names: Sequence[str], members: Mapping[str, Mapping[str, Any]]) -> list[RenderableType]:
    """Lay out the runs that are outside their siblings' classes."""
    heading = Text("\nOutliers", style="bold")
    if not names:
        return [heading, Text("  none", style="dim")]
    table = _table("run", "class", "p")
    for name in names[:MOST_LISTED]:
        run = members.get(name)
        label, p_value = (UNKNOWN, None) if run is None else (class_word(run), run["p_value"])
        table.add_row(Text(name, style="yellow"), label, number(p_value, 2))
    return [heading, Padding(table, (0, 0, 0, 2)), *_rest(len(names))]


def _live(runs: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    if not runs:
        return []
    table = _table("run", "class", "p", "may belong to", "off the map by")
    for run in runs[:MOST_LISTED]:
        compatible = ", ".join(map(str, run["compatible"])) or "none"
        distance = number(run["distance"], 3) if run["distance"] else UNKNOWN
        name = Text(run["run"], style="yellow" if run["outlier"] else "")
        table.add_row(name, class_word(run), number(run["p_value"], 2), compatible, distance)
    return [Text("\nLive runs, provisionally", style="bold"), Padding(table, (0, 0, 0, 2)), *_rest(len(runs))]


def _rest(count: int) -> list[RenderableType]:
    more = count - MOST_LISTED
    return [Text(f"  and {more:,} more: the JSON has all", style="dim")] if more > 0 else []


def evidence(group: Mapping[str, Any]) -> list[RenderableType]:
    """Say which loops count, how sure they are, and at what resolution they were looked for."""
    explained = UNKNOWN if group["explained"] is None else f"{100 * group['explained']:.0f} %"
    words = (
        f"smallest p {number(group['best_p'], 2)}; {explained} of the variance in view; "
        f"resolution {number(group['resolution'], 3)}, scale {number(group['scale'], 3)}"
    )
    lines: list[RenderableType] = [Text("\nEvidence", style="bold"), Padding(Text(words), (0, 0, 0, 2))]
    troubles = [(group["timeouts"], "took too long"), (group["refused"], "were too large to be begun")]
    lines += [Text(f"  {number(count)} computations {what}", style="yellow") for count, what in troubles if count]
    if group["bars"]:
        table = _table("loop", "born", "died", "p")
        for place, ((birth, death), p_value) in enumerate(zip(group["bars"], group["p_values"], strict=True), start=1):
            table.add_row(str(place), number(birth, 3), "∞" if death is None else number(death, 3), number(p_value, 2))
        lines.append(Padding(table, (0, 0, 0, 2)))
    return lines


def tree(group: Mapping[str, Any], width: int) -> list[RenderableType]:
    """Draw the scales at which the runs merge."""
    if not group["runs"]:
        return []
    if len(group["merges"]) < len(group["runs"]) - 1:
        return [Text("\nNo dendrogram: it would compare every two of so many paths.", style="dim")]
    labels = {name: one["label"] for one in group["classes"] for name in one["members"]}
    outside = set(group["outliers"])
    notes = [
        "" if group["abstained"] else f"class {labels.get(name, UNKNOWN)}{', outlier' if name in outside else ''}"
        for name in group["runs"]
    ]
    lines = dendrogram(group["merges"], group["runs"], notes, floor=group["scale"], width=max(40, width - 2))
    drawn = [Text(line, no_wrap=True) for line in lines]
    for line in drawn:
        line.highlight_words(["outlier"], "yellow")
        line.highlight_regex("^[^\\w×]+", "dim")
    heading = Text.assemble(
        ("\nScales at which the runs merge", "bold"),
        ("  (the largest at the left)", "dim"),
    )
    return [heading, *[Padding(line, (0, 0, 0, 2)) for line in drawn]]
