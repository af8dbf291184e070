"""Walks over an atlas: along short edges, round by them where an edge is long, additive and reversed with direction."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from planted_paths import around
from topowatch_monitor.topology import Atlas, classify_paths
from topowatch_monitor.topology.territory import TERMINAL


@cache
def group() -> list[np.ndarray]:
    """Two holes; every run goes over or under each."""
    return around(40, 0, holes=2, radius=0.8, width=0.15, winding=0.0)[0]


@cache
def planted() -> Atlas:
    atlas = classify_paths(group(), landmarks=250).atlas
    assert atlas is not None
    assert len(atlas.values) == 2
    return atlas


def small(distances: list[list[float]], values: list[list[int]], scale: float) -> Atlas:
    """An atlas of three vertices and one bar."""
    return replace(
        planted(),
        distances=np.array(distances, dtype=np.float32),
        values=np.array([values], dtype=np.int16),
        moduli=np.zeros(1, dtype=np.int64),
        scale=scale,
    )


EDGES = [[0, 2, 9], [-2, 0, 3], [-9, -3, 0]]


def test_a_short_edge_counts_itself_and_a_long_one_the_short_ones_around_it():
    line = [[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]
    assert small(line, EDGES, 2.0).count(0, 2).tolist() == [9]
    assert small(line, EDGES, 1.5).count(0, 2).tolist() == [2 + 3]
    assert small(line, EDGES, 1.5).count(2, 0).tolist() == [-3 - 2]


@pytest.mark.parametrize("apart", [0.0, 1e-30, 1e-9, 1e-6])
def test_vertices_that_coincide_are_connected(apart):
    """To scipy's graphs what is below 1e-8 is no edge; here the way round leads over such a one."""
    distances = [[0.0, apart, 1.0001], [apart, 0.0, 1.0], [1.0001, 1.0, 0.0]]
    assert small(distances, EDGES, 1.0).count(0, 2).tolist() == [5]


def test_integrals_are_additive_and_change_sign_with_direction():
    atlas = planted()
    rng = np.random.default_rng(0)
    for _ in range(20):
        walk = rng.integers(0, len(atlas.distances), 12)
        whole = atlas.integral(walk)
        assert (atlas.integral(walk[:5]) + atlas.integral(walk[4:])).tolist() == whole.tolist()
        assert atlas.integral(walk[::-1]).tolist() == (-whole).tolist()
    assert atlas.integral(walk[:1]).tolist() == [0, 0]


def test_walks_from_the_start_count_as_stored_and_loops_over_the_start_are_whole_turns():
    """Where two vertices see each other, out and back over the start counts as the edge, or turns round a hole."""
    atlas = planted()
    starts = [atlas.nearest(atlas.projection.reduce(path[:1]) / atlas.unit)[0][0] for path in group()]
    start = int(np.bincount(starts).argmax())
    vertices = np.random.default_rng(1).choice(len(atlas.distances), 40, replace=False)
    for vertex in vertices:
        assert atlas.count(start, int(vertex)).tolist() == atlas.closing[vertex].tolist()
    short = np.argwhere((atlas.distances <= atlas.scale) & (atlas.distances > 0))
    loops = atlas.closing[short[:, 0]] + atlas.values[:, short[:, 0], short[:, 1]].T - atlas.closing[short[:, 1]]
    assert set(np.unique(loops)) == {-1, 0, 1}
    assert np.mean(loops == 0) > 0.8


def test_the_nearest_vertex_is_a_landmark_or_near_an_end_the_terminal_one():
    atlas = planted()
    beyond = atlas.landmarks[1] + 10.0
    vertices, distances = atlas.nearest(np.vstack([atlas.landmarks[[1, 7, 100]], atlas.ends[3], beyond]))
    assert vertices[:4].tolist() == [1, 7, 100, TERMINAL]
    assert distances[:4].tolist() == [0.0] * 4
    away = np.linalg.norm(atlas.landmarks[1:] - beyond, axis=1)
    to_end = np.linalg.norm(atlas.ends - beyond, axis=1).min()
    assert distances[4] == pytest.approx(min(away.min(), to_end))
    assert vertices[4] == (TERMINAL if to_end < away.min() else away.argmin() + 1)


def test_counts_are_folded_on_the_bars_that_hold_modulo_a_prime_alone():
    mixed = replace(planted(), moduli=np.array([0, 41]))
    assert mixed.fold(np.array([[25, 25], [-30, -30], [41, 41]])).tolist() == [[25, -16], [-30, 11], [41, 0]]
