"""The trace: few points that stand for a whole path, the same however it came, rewound or restored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.trace import Trace

MOST = 16


def walk(count: int, seed: int = 0, dimension: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension)).cumsum(axis=0).astype(np.float32)


def trace_of(points: np.ndarray, most: int = MOST) -> Trace:
    trace = Trace(most)
    for step, point in enumerate(points):
        trace.add(step, point)
    return trace


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 300), most=st.integers(2, 40), seed=st.integers(0, 99))
def test_it_is_never_longer_than_allowed_and_holds_the_first_and_the_newest_point(count, most, seed):
    points = walk(count, seed)
    trace = trace_of(points, most)
    assert len(trace) <= most
    assert (trace.steps[0], trace.steps[-1]) == (0, count - 1)
    assert trace.steps == sorted(set(trace.steps))
    for step, point in zip(trace.steps, trace.points, strict=True):
        assert (point == points[step]).all()


@settings(max_examples=40, deadline=None)
@given(count=st.integers(20, 300), seed=st.integers(0, 99))
def test_every_point_of_the_path_has_a_kept_one_within_the_gap_and_kept_ones_are_apart(count, seed):
    points = walk(count, seed)
    trace = trace_of(points)
    kept = np.stack(trace.points)
    gaps = np.linalg.norm(np.diff(kept, axis=0), axis=1)[:-1]  # the newest may be anywhere
    nearest = np.linalg.norm(points[:, None] - kept[None], axis=2).min(axis=1)
    # A kept point that is thinned out later was within the smaller gap of what is left: the gaps add up to two.
    assert nearest.max() <= 2 * trace.state_dict()["gap"]
    assert (gaps > trace.state_dict()["gap"]).all()


def test_points_that_come_closer_and_closer_do_not_crowd_out_the_way_there():
    """A run that converges: thinning by distance keeps its beginning, where a window would keep its end."""
    times = np.arange(2000)
    points = np.column_stack([np.exp(-times / 100), np.zeros(2000)]).astype(np.float32)
    steps = trace_of(points).steps
    assert sum(step < 200 for step in steps) >= MOST // 2


def test_points_that_are_all_equal_are_the_first_and_the_newest():
    assert trace_of(np.ones((50, 3), dtype=np.float32)).steps == [0, 49]


@pytest.mark.parametrize("order", [range(29, -1, -1), np.random.default_rng(0).permutation(30)], ids=["back", "mixed"])
def test_late_points_take_their_place(order):
    points = walk(30)
    trace = Trace(64)
    for step in order:
        trace.add(int(step), points[step])
    assert trace.steps == list(range(30))
    assert trace.rewritten


def test_late_points_in_any_order_end_even_where_all_are_equal():
    trace = Trace(4)
    for step in range(40, 0, -1):
        trace.add(step, np.zeros(2, dtype=np.float32))
    assert len(trace) <= 4
    assert (trace.steps[0], trace.steps[-1]) == (1, 40)


def test_a_step_has_one_point_and_a_point_of_another_dimension_none():
    trace = trace_of(walk(5))
    before = repr(trace.state_dict())
    trace.add(3, np.ones(5, dtype=np.float32))
    trace.add(9, np.ones(6, dtype=np.float32))
    assert repr(trace.state_dict()) == before


def test_a_rewind_drops_what_it_supersedes_and_one_to_the_start_begins_anew():
    points = walk(200)
    trace = trace_of(points)
    kept = [step for step in trace.steps if step < 100]
    trace.discard(100, 1 << 62)
    assert trace.steps == kept
    assert trace.rewritten == 1
    trace.discard(500)
    assert trace.rewritten == 1
    trace.discard(0)
    assert len(trace) == 0
    for step, point in enumerate(points):
        trace.add(step, point)
    assert trace.state_dict()["steps"].tolist() == trace_of(points).steps


def test_only_what_comes_at_the_end_counts_as_taken():
    trace = trace_of(walk(5))
    assert (trace.taken, trace.rewritten) == (5, 0)
    trace.add(10, np.full(5, 9, dtype=np.float32))
    trace.add(7, np.full(5, 7, dtype=np.float32))
    assert (trace.taken, trace.rewritten) == (6, 1)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 150), seed=st.integers(0, 50))
def test_saved_and_restored_anywhere_it_goes_on_as_if_nothing_had_been(cut, seed):
    points = walk(150, seed)
    part = trace_of(points[:cut])
    restored = Trace.from_state(decode(encode(part.state_dict())), MOST)
    for step in range(cut, 150):
        restored.add(step, points[step])
    assert repr(restored.state_dict()) == repr(trace_of(points).state_dict())


def test_a_thinner_copy_leaves_the_trace_alone():
    trace = trace_of(walk(100))
    before = repr(trace.state_dict())
    steps, points = trace.few(5)
    assert len(steps) == len(points) <= 5
    assert {steps[0], steps[-1]} <= set(trace.steps)
    assert repr(trace.state_dict()) == before


def test_distances_beyond_the_range_of_single_precision_are_distances():
    points = np.array([[3e38, 0], [-3e38, 0], [3e38, 1]], dtype=np.float32)
    assert trace_of(points, 2).steps == [0, 2]
