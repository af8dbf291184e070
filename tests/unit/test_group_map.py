"""The map of a group: true distances in the plane, and who is on it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from topowatch_monitor.engine.group_fit import OTHER_PROBES, OTHER_SKETCH
from topowatch_monitor.engine.group_map import MOST_RUNS, NO_PATHS, ONE_POINT, Walk, Walks, map_of

PLANE = np.linalg.qr(np.random.default_rng(5).standard_normal((30, 2)))[0]


def walk(run: str, *, live: bool = False, digest: str = "aa", dimension: int = 30, seed: int = 0) -> Walk:
    """Points of a plane that lies askew in a space of many dimensions."""
    flat = np.cumsum(np.random.default_rng([seed, len(run)]).standard_normal((20, 2)), axis=0)
    points = (flat @ PLANE.T)[:, :dimension] + 7.0
    return Walk(run, live, digest, list(range(20)), points.astype(np.float32))


def test_distances_between_paths_of_a_plane_are_kept():
    walks = [walk("a", seed=1), walk("b", seed=2)]
    told = map_of(Walks(walks[:1]), Walks(walks[1:]))
    there = np.concatenate([walks[0].points, walks[1].points])
    drawn = np.concatenate([path["points"] for path in told["paths"]])
    np.testing.assert_allclose(pdist(drawn), pdist(there), rtol=5e-3, atol=1e-2)
    assert told["explained"] == pytest.approx(1.0)
    assert [path["run"] for path in told["paths"]] == ["a", "b"]


def test_runs_on_other_probes_or_of_another_sketch_are_left_out_with_the_reason():
    others = [walk("c", digest="bb"), walk("d", dimension=10)]
    told = map_of(Walks([walk("a"), walk("b", seed=1)]), Walks(others))
    assert [path["run"] for path in told["paths"]] == ["a", "b"]
    assert told["left_out"] == {"c": OTHER_PROBES, "d": OTHER_SKETCH}


def test_live_runs_come_first_and_what_there_is_no_room_for_is_counted():
    many = [walk(f"run-{number:04d}") for number in range(MOST_RUNS)]
    told = map_of(Walks(many, more=30), Walks([walk("z", live=True)]))
    assert len(told["paths"]) == MOST_RUNS
    assert told["paths"][0]["run"] == "z"
    assert told["more"] == 31


def test_a_map_of_nothing_says_why():
    assert map_of(Walks([]), Walks([]))["reason"] == NO_PATHS
    still = Walk("a", True, "aa", [0], np.ones((1, 30), dtype=np.float32))
    assert map_of(Walks([still]))["reason"] == ONE_POINT
