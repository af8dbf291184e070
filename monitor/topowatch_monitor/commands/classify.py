"""`topowatch classify`: the classes of anyone's paths, from a file and without a daemon."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from topowatch_monitor.commands.group_page import classes_table, evidence, outliers_table, tree
from topowatch_monitor.commands.killable import TooSlowError, run_killable
from topowatch_monitor.commands.output import CommandError, console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

WORKER = "topowatch_monitor.commands.classify_worker"
LONGEST = 1e6  # seconds


def classify(
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Parquet file with the columns path, t and vector, a row a point.")
    ],
    landmarks: Annotated[
        int, typer.Option(min=8, max=1000, help="Points that stand for the territory; the cost grows with their cube.")
    ] = 400,
    dims: Annotated[
        int, typer.Option(min=1, help="Principal coordinates to keep; holes that need more are not seen.")
    ] = 3,
    alpha: Annotated[float, typer.Option(help="p-value against noise below which a loop may count.")] = 1e-4,
    no_relative: Annotated[bool, typer.Option("--no-relative", help="Do not let all ends count as one point.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=LONGEST, metavar="SECONDS", help="Give up after that long.")
    ] = 600.0,
    table: Annotated[bool, typer.Option("--table", help="Print tables and a dendrogram, for people.")] = False,
) -> None:
    """Sort the paths of a file into classes and print them as JSON, with all that the answer rests on.

    Two paths are in one class if no loop that stands out from noise and scatter lies between them. Where no loop does,
    the answer is withheld: `abstained` is true, `reason` says why, and all labels are 0.

    For example:

      topowatch classify paths.parquet --table

      topowatch classify paths.parquet --landmarks 200 | jq .label_of
    """
    options = {
        "landmarks": landmarks,
        "dims": dims,
        "alpha": alpha,
        "relative": not no_relative,
        "timeout": timeout,
    }
    try:
        told = run_killable(WORKER, [str(file), json.dumps(options)], timeout=timeout)
    except TooSlowError:
        raise CommandError(
            f"the classification took longer than {timeout:g} s and was dropped: allow more with --timeout, or take "
            "fewer --landmarks or thinner paths"
        ) from None
    if table:
        terminal = console()
        terminal.print(_page(told, terminal.width))
    else:
        # A field a line: indented as elsewhere, a matrix would take a line a number.
        lines = (f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in told.items())
        sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


def _page(told: Mapping[str, Any], width: int) -> RenderableType:
    """Lay out an answer as `topowatch classes` does."""
    told = {
        **told,
        "paths": [_printable(name) for name in told["paths"]],
        "outliers": [_printable(name) for name in told["outliers"]],
        "p_value_of": {_printable(name): value for name, value in told["p_value_of"].items()},
    }
    labels = {_printable(name): label for name, label in told["label_of"].items()}
    of_class: dict[int, list[str]] = {}
    for name, label in labels.items():
        of_class.setdefault(label, []).append(name)
    outside = set(told["outliers"])
    group = {
        **told,
        "classes": [
            {"label": label, "majority": bool(outside) and outside.isdisjoint(names), "members": names}
            for label, names in of_class.items()
        ],
        "runs": told["paths"],
        "merges": told["merges"] or [],
        "timeouts": 0,
        "refused": 0,
    }
    members = {
        name: {
            "run": name,
            "results": None,
            "label": labels[name],
            "p_value": told["p_value_of"][name],
            "outlier": name in outside,
            "abstained": told["abstained"],
            "provisional": False,
        }
        for name in told["paths"]
    }
    parts: list[RenderableType] = [Text(f"{len(labels):,} paths, {told['points']:,} points", style="dim")]
    if told["abstained"]:
        parts.append(Text.assemble("\nClasses: ", ("abstained", "dim"), f", {told['reason']}"))
    else:
        parts += classes_table(group, members)
        parts += outliers_table(told["outliers"], members)
    parts += evidence(group)
    return Group(*parts, *tree(group, width))


def _printable(name: str) -> str:
    """Write out what would break lines or command the terminal: names are whatever the file says."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)
