"""The basin of a slice's centre: against flooding by hand, and on shapes whose basin is known."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.topology.basin import basin


def around(place: tuple[int, int]) -> list[tuple[int, int]]:
    row, column = place
    return [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]


def flood(grid: np.ndarray) -> tuple[float, float]:
    """Let water rise at the centre until it runs off over a pass, then sound what it fills; (depth, escape height)."""
    rows, columns = grid.shape
    inside = {(row, column) for row in range(rows) for column in range(columns)}
    start = rows // 2, columns // 2
    queue, seen, height, top = [(-math.inf, start)], {start}, -math.inf, start
    while True:
        value, place = heapq.heappop(queue)
        height, top = max((height, top), (value, place))
        if not inside.issuperset(around(place)):
            break
        for other in set(around(place)) - seen:
            seen.add(other)
            heapq.heappush(queue, (grid[other], other))
    escape = max(height - grid[start], 0.0)
    if not math.isfinite(height):
        return math.inf, escape
    depths = [0.0]
    for beside in around(top):
        pool, left = {beside} & inside, [beside] if beside in inside and grid[beside] < height else []
        while left:
            fresh = {other for other in around(left.pop()) if other not in inside or grid[other] < height} - pool
            pool |= fresh
            left += fresh & inside
        if pool and pool <= inside and grid[beside] < height:
            depths.append(height - min(grid[place] for place in pool))
    return max(depths), escape


@settings(deadline=None)  # the first call imports giotto-tda
@given(st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False), st.booleans())
def test_it_is_what_a_flood_finds(half_rows: int, half_columns: int, random: object, with_walls: bool) -> None:
    """Of values that all differ; some may be infinite."""
    shape = 2 * half_rows + 1, 2 * half_columns + 1
    values = list(range(shape[0] * shape[1]))
    random.shuffle(values)  # type: ignore[attr-defined]
    grid = np.array(values, dtype=float).reshape(shape)
    if with_walls:
        grid[grid > 0.7 * grid.size] = np.inf
        grid[half_rows, half_columns] = -1.5
    found = basin(grid)
    depth, escape = flood(grid)
    assert found is not None
    assert found.depth == pytest.approx(depth)
    assert found.escape_height == pytest.approx(escape)


def test_a_bowl_is_as_deep_as_its_rim_is_low() -> None:
    axis = np.linspace(-1, 1, 17)
    found = basin(axis[:, None] ** 2 + 3 * axis**2)
    assert found is not None
    assert found.depth == pytest.approx(1)
    assert found.escape_height == pytest.approx(1)
    assert found.total_persistence == pytest.approx(0)  # one minimum, no loop


def test_a_slope_and_a_summit_are_no_basins() -> None:
    axis = np.linspace(-1, 1, 5)
    for grid in (np.add.outer(axis, axis), -np.add.outer(axis**2, axis**2)):
        found = basin(grid)
        assert found is not None
        assert (found.depth, found.escape_height) == (0, 0)


def test_a_small_bump_within_a_basin_does_not_make_it_shallow() -> None:
    axis = np.linspace(-1, 1, 17)
    bowl = axis[:, None] ** 2 + axis**2
    bowl[8, 8] += 0.1
    found = basin(bowl)
    assert found is not None
    assert found.depth == pytest.approx(1 - axis[9] ** 2)
    assert found.escape_height == pytest.approx(0.9)


def test_a_loss_that_is_not_finite_is_a_wall_and_at_the_centre_there_is_no_basin() -> None:
    grid = np.full((5, 5), np.nan)
    grid[2, 2] = 1.0
    found = basin(grid)
    assert found is not None
    assert found.depth == found.escape_height == math.inf
    grid[0, 0] = -math.inf
    assert basin(grid) == found
    grid[2, 2] = np.nan
    assert basin(grid) is None
    with pytest.raises(ValueError, match="odd"):
        basin(np.zeros((4, 5)))
    with pytest.raises(ValueError, match="3 at least"):
        basin(np.zeros((1, 5)))


@pytest.mark.parametrize("level", [0.0, 1e-300, 1e17, -1e300])
def test_a_plane_has_no_basin_however_high_it_lies(level: float) -> None:
    found = basin(np.full((3, 3), level))
    assert found is not None
    assert found.depth == found.escape_height == 0.0
