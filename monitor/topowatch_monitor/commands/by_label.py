"""`topowatch compare`: results and path classes of a group's runs, by the values of a label."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from topowatch_monitor.commands.daemon import DEFAULT_URL, fetch_group, fetch_runs
from topowatch_monitor.commands.group_page import mean, metric_of, result_of, spread_words
from topowatch_monitor.commands.output import CommandError, console, print_json
from topowatch_monitor.commands.read import AsJson, OfTenant, Url  # noqa: TC001 - typer reads the annotations when it runs
from topowatch_monitor.commands.render import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def compare(
    *,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.")],
    by: Annotated[str, typer.Option("--by", metavar="LABEL", help="Label by whose values the runs are put together.")],
    result: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Final result to compare; default: the one that most runs have."),
    ] = None,
    tenant: OfTenant = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Compare a group's runs by a label: how many, their final result, and the classes of their paths.

    For example:

      topowatch compare my-sweep --by lr

      topowatch compare my-sweep --by optimizer --result accuracy --json
    """
    told = fetch_group(url, group, tenant)
    runs = fetch_runs(url, group, told["tenant"])["runs"]
    _check(runs, group, by, result)
    metric = result or metric_of(told, runs)
    rows = by_label(runs, by, metric)
    if as_json:
        print_json({"group": group, "by": by, "metric": metric, "rows": rows, "spread": told.get("spread")})
        return
    terminal = console()
    terminal.print(_table(rows, by, metric))
    if told.get("spread"):
        terminal.print(Text.assemble(("Over the classes: ", "bold"), spread_words(told["spread"])))


def by_label(runs: Sequence[Mapping[str, Any]], by: str, metric: str | None) -> list[dict[str, Any]]:
    """Return a row a value of the label, numbers in order before words, runs without the label last.

    Columns: value; runs; with_result, mean and spread (standard deviation, n − 1) of the metric; classes (runs by
    label); unclassified; outliers.
    """
    values: dict[str | None, list[Mapping[str, Any]]] = {}
    for run in runs:
        values.setdefault(run["labels"].get(by), []).append(run)
    rows = []
    for value in sorted(values, key=_order):
        members = values[value]
        results = [number for run in members if (number := result_of(run, metric)) is not None]
        told = [run["path_class"] for run in members]
        classes = Counter(one["label"] for one in told if not one["abstained"] and one["label"] is not None)
        rows.append(
            {
                "value": value,
                "runs": len(members),
                "with_result": len(results),
                "mean": mean(results),
                "spread": _deviation(results),
                "classes": {str(label): classes[label] for label in sorted(classes)},
                "unclassified": len(members) - classes.total(),
                "outliers": [run["run"] for run in members if run["path_class"]["outlier"]],
            }
        )
    return rows


def _order(value: str | None) -> tuple[int, float, str]:
    if value is None:
        return 2, 0.0, ""
    try:
        size = float(value)
    except ValueError:
        return 1, 0.0, value
    return (0, size, value) if math.isfinite(size) else (1, 0.0, value)


def _deviation(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    middle = sum(values) / len(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))


def _check(runs: Sequence[Mapping[str, Any]], group: str, by: str, result: str | None) -> None:
    labels = sorted({name for run in runs for name in run["labels"]})
    if by not in labels:
        those = f"their labels are {', '.join(labels)}" if labels else "they have no labels: give some to attach()"
        raise CommandError(f"no run of group {group!r} has a label {by!r}; {those}")
    results = sorted({name for run in runs for name in run["results"] or {}})
    if result is not None and result not in results:
        those = f"their results are {', '.join(results)}" if results else "none has ended with any: see Watch.finish()"
        raise CommandError(f"no run of group {group!r} has a result {result!r}; {those}")


def _table(rows: Sequence[Mapping[str, Any]], by: str, metric: str | None) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(Text(by), overflow="fold")
    for name in ("runs", *((f"mean {metric}", "±", "with it") if metric else ())):
        table.add_column(Text(name), justify="right", no_wrap=True)
    table.add_column("classes", overflow="fold")
    table.add_column("outliers", overflow="fold")
    for row in rows:
        classes = [f"{label} ×{count}" for label, count in row["classes"].items()]
        classes += [f"unknown ×{row['unclassified']}"] if row["unclassified"] else []
        numbers = [number(row["mean"]), number(row["spread"], 3), number(row["with_result"])] if metric else []
        table.add_row(
            Text("(no label)", style="dim") if row["value"] is None else Text(row["value"]),
            number(row["runs"]),
            *numbers,
            Text(", ".join(classes)),
            Text(", ".join(row["outliers"]), style="yellow"),
        )
    return table
