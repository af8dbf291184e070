"""Trees of merge scales, drawn as text."""

from __future__ import annotations

import numpy as np
import pytest
from rich.cells import cell_len
from scipy.cluster.hierarchy import fcluster, linkage

from group_views import group_view
from topowatch_monitor.commands.dendrogram import dendrogram

GROUP = group_view()


def cloud(count: int, seed: int = 0) -> list[list[float]]:
    """Single linkage of random points, every scale its own."""
    points = np.random.default_rng(seed).normal(size=(count, 3))
    rows: list[list[float]] = linkage(points, "single").tolist()
    return rows


def test_runs_that_agree_are_one_line_and_the_largest_scale_is_at_the_left():
    notes = ["class 0"] * 12 + ["class 1, outlier", "class 2, outlier"]
    assert dendrogram(GROUP["merges"], GROUP["runs"], notes, floor=0.1, width=60) == [
        "0.8           0.45            0.1",
        "┬──────────────────────┬───────── ×12 runs  class 0",
        "│                      └───────── noisy  class 1, outlier",
        "└──────────────────────────────── shuffled  class 2, outlier",
    ]


def test_names_of_a_lumped_line_follow_where_there_is_room():
    [line, *_] = dendrogram([[0, 1, 0.1], [2, 3, 0.1]], ["a", "b", "c"], floor=0.1)
    assert line == "×3 runs  a, b, c"
    [line] = dendrogram([[0, 1, 0.1], [2, 3, 0.1]], ["a", "b", "c" * 90], floor=0.1, width=40)
    assert line == "×3 runs  a, b, …"


@pytest.mark.parametrize("count", [3, 12, 24, 100, 400])
@pytest.mark.parametrize("width", [40, 80, 132])
def test_any_number_of_runs_fits_the_terminal(count: int, width: int):
    names = [f"resnet-50-imagenet-lr-0.1-seed-{number}" for number in range(count)]
    notes = [f"class {number % 3}" for number in range(count)]
    lines = dendrogram(cloud(count), names, notes, floor=0.01, width=width)
    assert all(cell_len(line) <= width for line in lines)
    assert len(lines) <= 41
    assert count > 40 or len(lines) == count + 1


def test_every_run_is_drawn_once():
    for count in (3, 24, 100):
        lines = dendrogram(cloud(count, seed=count), [f"run{number}" for number in range(count)], width=100)
        lumped = [int(line.partition("×")[2].split()[0]) for line in lines[1:] if "×" in line]
        assert sum(lumped) + sum("×" not in line for line in lines[1:]) == count


def test_what_stands_at_the_right_end_are_the_clusters_at_that_scale():
    """Against scipy's own cut of the tree."""
    rows = cloud(100, seed=7)
    lines = dendrogram(rows, [f"run{number}" for number in range(100)], width=100)
    lowest = float(lines[0].split()[-1])
    sizes = sorted(int(line.partition("×")[2].split()[0]) if "×" in line else 1 for line in lines[1:])
    scales = [row[2] for row in rows]
    [exact] = [scale for scale in scales if f"{scale:.3g}" == f"{lowest:.3g}"]
    assert sizes == sorted(np.bincount(fcluster(np.array(rows), exact * 1.0001, "distance"))[1:])


def test_a_scale_of_infinity_stands_apart():
    lines = dendrogram([[0, 1, 0.5], [2, 3, None]], ["a", "b", "c"], floor=0.1, width=30)
    assert lines == [
        "∞   0.5      0.3         0.1",
        "┬───┬─────────────────────── a",
        "│   └─────────────────────── b",
        "└─────────────────────────── c",
    ]
    only = dendrogram([[0, 1, None]], ["a", "b"], floor=0.1, width=30)
    assert only[0].startswith("∞")
    assert len(only) == 3


def test_many_runs_that_part_at_one_scale_are_cut_short():
    count = 60
    rows = [[0, 1, 0.5], *([float(number), float(count + number - 2), 0.5] for number in range(2, count))]
    lines = dendrogram(rows, [f"seed-{number}" for number in range(count)], floor=0.1, max_leaves=8)
    assert len(lines) == 9
    assert lines[-1].endswith("×53 more runs that part here")


def test_a_long_name_loses_its_middle_and_keeps_its_end():
    """Runs of a sweep often differ at the end only."""
    names = ["x" * 100 + f"-seed-{number}" for number in range(2)]
    lines = dendrogram([[0, 1, 0.5]], names, ["class 0", "class 1"], floor=0.1, width=60)
    assert lines[1].endswith("-seed-0  class 0")
    assert "…" in lines[1]
    wide = dendrogram([[0, 1, 0.5]], ["字" * 60, "b"], floor=0.1, width=60)
    assert all(cell_len(line) <= 60 for line in wide)


def test_one_run_and_none():
    assert dendrogram([], ["alone"], ["class 0"]) == ["alone  class 0"]
    assert dendrogram([], []) == []
