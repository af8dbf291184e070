"""How a slice looks in the terminal."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from topowatch_monitor.commands.slice_page import NOT_FINITE, SHADES, heat_map, slice_page


def landscape(**changes: Any) -> dict[str, Any]:
    axis = np.linspace(-1, 1, 5)
    values = (axis[:, None] ** 2 + axis**2).ravel().tolist()
    told = {
        "request": "q",
        "step": 1200,
        "problem": "",
        "basin_depth": 1.0,
        "escape_height": 1.0,
        "total_persistence": 0.25,
        "side": 5,
        "extent": 1.0,
        "values": values,
    }
    return {**told, **changes}


def test_a_bowl_is_light_within_and_dark_at_its_corners() -> None:
    rows = heat_map(landscape()["values"], 5).plain.splitlines()
    assert [len(row) for row in rows[:5]] == [10] * 5
    assert rows[0][:2] == rows[4][-2:] == 2 * SHADES[-1]
    assert rows[2][4:6] == "+ "
    order = [SHADES.index(rows[2][column]) for column in (0, 2)]
    assert order == sorted(order, reverse=True)
    assert "0  to" in rows[5]
    assert rows[5].endswith("2")


def test_a_loss_that_is_not_finite_is_marked() -> None:
    values = [None, *landscape()["values"][1:]]
    assert heat_map(values, 5).plain.startswith(2 * NOT_FINITE)
    assert heat_map([None] * 9, 3).plain.count(NOT_FINITE) == 18


def shown(**changes: Any) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(slice_page(landscape(**changes)))
    return captured.get()


def test_the_page_has_the_basin_and_where_the_slice_lies() -> None:
    text = shown()
    for words in ("around step 1,200, 5 × 5 points", "basin depth", "escape height", "total persistence", "0.25"):
        assert words in text
    assert "not finite" in shown(escape_height=None)


def test_a_refusal_is_told_with_its_reason_and_without_a_map() -> None:
    text = shown(problem="the model is sharded", values=[])
    assert "The job took none: the model is sharded" in text
    assert "step" not in text
