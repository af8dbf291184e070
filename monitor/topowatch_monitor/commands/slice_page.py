"""How a slice of the loss looks in the terminal: a map of characters, and what its basin is like."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

SHADES = "·░▒▓█"
COLOURS = ("bright_blue", "cyan", "green", "yellow", "red")
NOT_FINITE = "×"


def slice_page(landscape: Mapping[str, Any]) -> RenderableType:
    """Lay a slice out with its numbers; of one that was refused, say why."""
    parts: list[RenderableType] = [Text("\nSlice of the loss", style="bold")]
    if landscape["problem"]:
        parts.append(Text(f"  The job took none: {landscape['problem']}", style="yellow"))
    if landscape["values"]:
        extent, side = landscape["extent"], landscape["side"]
        where = f"  around step {landscape['step']:,}, {side} × {side} points, {extent:g} filter norms to each side"
        parts += [Text(where, style="dim"), Padding(heat_map(landscape["values"], side), (1, 0, 1, 2))]
        for name, key in (
            ("basin depth", "basin_depth"),
            ("escape height", "escape_height"),
            ("total persistence", "total_persistence"),
        ):
            parts.append(Text.assemble((f"  {name:20}", "dim"), _level(landscape[key])))
    return Group(*parts)


def heat_map(values: Sequence[float | None], side: int) -> Text:
    """Draw losses row after row, two characters a point, in five shades between the least and the largest.

    The shades are of equal steps in log(loss − least + 1 % of the range), as most of a slice lies far below its
    corners. `+` is the centre, `×` a loss that is not finite.
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    least, largest = min(finite, default=0.0), max(finite, default=0.0)
    drawn = Text()
    for index, value in enumerate(values):
        if index and index % side == 0:
            drawn.append("\n")
        if value is None or not math.isfinite(value):
            drawn.append(2 * NOT_FINITE, style="magenta")
            continue
        shade = _shade(value - least, largest - least)
        centre = index == len(values) // 2
        drawn.append(
            "+ " if centre else 2 * SHADES[shade], style=f"bold {COLOURS[shade]}" if centre else COLOURS[shade]
        )
    drawn.append(f"\n{SHADES[0]} {least:.4g}  to  {SHADES[-1]} {largest:.4g}", style="dim")
    return drawn


def _shade(above: float, span: float) -> int:
    if span <= 0:
        return 0
    share = math.log1p(100 * above / span) / math.log1p(100)
    return min(int(share * len(SHADES)), len(SHADES) - 1)


def _level(value: float | None) -> str:
    # JSON has no infinity: the daemon sends null, as for a centre at which the loss is not finite.
    return "not finite" if value is None else f"{value:.4g}"
