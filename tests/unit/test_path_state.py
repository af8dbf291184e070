"""The path of one run against its slow twin: a sorted list of points from which everything is computed anew."""

from __future__ import annotations

import gudhi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import cdist, pdist

from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.loss_path import LossPath
from topowatch_monitor.engine.path_state import LENGTHS_KEPT, PathSettings, PathState
from topowatch_monitor.topology import IncrementalMST, h1_diagram, total_persistence
from topowatch_monitor.topology.dimension import ph_dimension, positive_magnitude


def walk(count: int, seed: int = 0, dimension: int = 5) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).standard_normal((count, dimension)), axis=0).astype(np.float32)


def length_of(points: list[np.ndarray]) -> float:
    wide = np.array(points, dtype=np.float64)
    return float(np.linalg.norm(np.diff(wide, axis=0), axis=1).sum())


def finite(path: PathState) -> bool:
    """Whether all that a path tells is finite or unknown."""
    view = path.view()
    numbers = [*(view.pop("e_alpha") or {}).values(), *view.values()]
    return all(number is None or np.isfinite(number) for number in numbers)


def check(path: PathState, held: dict[int, np.ndarray]) -> None:
    """Compare with a path of these points that never lost any."""
    steps = sorted(held)
    points = [held[step] for step in steps]
    assert path.steps == steps
    if not steps:
        assert path.length is None
        return
    assert path.length == pytest.approx(length_of(points), rel=1e-5, abs=1e-6)
    expected = np.sort(linkage(pdist(np.array(points, dtype=float)), "single")[:, 2]) if len(points) > 1 else []
    np.testing.assert_allclose(path.h0_lengths, expected, rtol=1e-5)
    assert path.view()["h0_total_persistence"] == pytest.approx(np.sum(expected), rel=1e-5)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_late_points_duplicates_and_rewinds_within_the_window_are_exact(data):
    points = walk(40)
    path, held = PathState(PathSettings(window=64)), {}
    for _ in range(data.draw(st.integers(1, 40))):
        if data.draw(st.integers(0, 9)) < 8:
            step = data.draw(st.integers(0, 39))
            assert path.add(step, points[step]) is (step not in held)
            held.setdefault(step, points[step])
        else:
            start = data.draw(st.integers(0, 39))
            stop = data.draw(st.none() | st.integers(start, 40))
            path.discard(start, stop)
            held = {s: p for s, p in held.items() if s < start or (stop is not None and s >= stop)}
        check(path, held)
    assert path.unbridged == 0


@settings(max_examples=60, deadline=None)
@given(window=st.integers(2, 12), back=st.integers(1, 40), seed=st.integers(0, 1000))
def test_length_goes_on_over_evictions_and_a_rewind_restores_it_exactly(window, back, seed):
    points = walk(60, seed)
    path = PathState(PathSettings(window=window))
    for step in range(40):
        path.add(step, points[step])
    whole = path.length
    assert whole == pytest.approx(length_of(list(points[:40])), rel=1e-5)
    start = 40 - back
    path.discard(start)
    kept = length_of(list(points[:start])) if start else None
    assert path.length == (pytest.approx(kept, rel=1e-5, abs=1e-9) if start else None)
    assert path.steps == list(range(max(0, 40 - window), start))
    for step in range(start, 40):
        path.add(step, points[step])
    if back < window:
        assert path.unbridged == 0
        assert path.length == pytest.approx(whole, rel=1e-12)
    elif start:
        # The point before the rewind had left the window: one stretch is unknown, and said to be.
        assert path.unbridged == 1
        missing = np.linalg.norm(points[start].astype(float) - points[start - 1])
        assert path.length == pytest.approx(whole - missing, rel=1e-5)


def test_a_second_point_at_a_step_changes_nothing_and_is_counted():
    points = walk(20)
    path = PathState(PathSettings(window=8))
    for step in range(20):
        path.add(step, points[step])
    before = repr(path.state_dict())
    assert not path.add(15, points[0])
    assert not path.add(3, points[0])
    assert path.ignored == 2
    path.ignored = 0
    assert repr(path.state_dict()) == before


@pytest.mark.parametrize("dimension", [1, 5])
def test_points_near_the_largest_floats_leave_the_path_finite(dimension):
    """They are ignored, first or last, and the path is that of the others, also after a rewind."""
    points = walk(20, dimension=dimension)
    path, held = PathState(PathSettings(window=12, h1_every=4, h1_landmarks=8, shape_every=3)), {}
    for step in range(20):
        if step % 5 == 0:
            huge = np.full(dimension, 3e38 if step % 2 else -3e38, dtype=np.float32)
            assert not path.add(step, huge)
        else:
            assert path.add(step, points[step])
            held[step] = points[step]
    assert path.view()["ignored"] == 4
    assert path.length == pytest.approx(length_of(list(held.values())), rel=1e-5)
    path.discard(13)
    kept = [point for step, point in held.items() if step < 13]
    assert path.length == pytest.approx(length_of(kept), rel=1e-5)
    path.add(13, points[13])
    assert finite(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dimension=st.sampled_from([1, 2, 1021]))
def test_finite_points_of_any_size_give_finite_numbers(data, dimension):
    sizes = st.sampled_from([3.4e38, -3.4e38, 1e38, -1e38, 3e36, -3e36, 1e19, 1e-44, 0.0])
    path = PathState(PathSettings(window=16, h1_every=1, h1_landmarks=8, shape_every=1))
    for _ in range(data.draw(st.integers(1, 30))):
        if data.draw(st.integers(0, 9)):
            point = np.zeros(dimension, dtype=np.float32)
            point[: data.draw(st.sampled_from([1, dimension]))] = data.draw(sizes)
            path.add(data.draw(st.integers(0, 40)), point)
        else:
            path.discard(data.draw(st.integers(0, 40)))
        assert finite(path)


def test_points_of_another_dimension_or_without_a_number_are_ignored():
    path = PathState(PathSettings(window=4))
    assert path.add(0, np.zeros(3, dtype=np.float32))
    for point in (np.zeros(4, dtype=np.float32), np.zeros(0, dtype=np.float32), np.full(3, np.nan, dtype=np.float32)):
        assert not path.add(1, point)
    assert (path.points, path.ignored) == (1, 3)


def test_a_change_that_fails_half_way_leaves_an_empty_path_and_never_half_a_one(monkeypatch):
    points = walk(12)
    path = PathState(PathSettings(window=4))
    for step in range(6):
        path.add(step, points[step])

    def fail(*arguments, **named):
        raise ZeroDivisionError

    for method, change in (("_attach", lambda: path.add(6, points[6])), ("keep", lambda: path.discard(3))):
        with monkeypatch.context() as broken:
            broken.setattr(IncrementalMST, method, fail)
            with pytest.raises(ZeroDivisionError):
                change()
        assert (path.points, path.length, path.steps) == (0, None, [])
        for step in range(2, 6):
            assert path.add(step, points[step])
        assert path.length == pytest.approx(length_of(list(points[2:6])), rel=1e-5)


def test_a_view_tells_of_a_stretch_that_is_missing_from_the_length():
    points = walk(12)
    path = PathState(PathSettings(window=2))
    for step in range(8):
        path.add(step, points[step])
    path.discard(4)
    path.add(4, points[4])
    assert path.view()["unbridged"] == 1


def test_a_late_point_between_evicted_ones_is_left_out_and_counted():
    points = walk(30)
    path = PathState(PathSettings(window=4))
    for step in range(0, 30, 2):
        path.add(step, points[step])
    length = path.length
    assert not path.add(7, points[7])
    assert path.length == length
    assert path.ignored == 1
    assert path.add(27, points[27])
    detour = length_of([points[26], points[27], points[28]]) - length_of([points[26], points[28]])
    assert path.length == pytest.approx(length + detour, rel=1e-6)
    assert path.steps == [24, 26, 27, 28]


def test_the_history_of_lengths_is_exact_up_to_its_size_and_then_thinned():
    path = PathState(PathSettings(window=2, h1_every=10**9))
    for step in range(20_000):
        path.add(step, np.array([float(step)], dtype=np.float32))
        if step == LENGTHS_KEPT - 1:
            early = PathState.from_state(decode(encode(path.state_dict())))
    early.discard(17)
    assert early.length == 16.0
    assert len(path.state_dict()["lengths"]) <= LENGTHS_KEPT
    path.discard(19_000)
    assert path.length == 18_999.0
    path.discard(100)
    assert 0 <= path.length <= 99.0


def test_h1_is_that_of_the_window_at_every_kth_sample():
    angle = np.linspace(0, 6, 48)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    path = PathState(PathSettings(window=40, h1_every=16, h1_landmarks=24))
    for step, point in enumerate(points):
        path.add(step, point)
        if step == 14:
            assert path.view()["h1_total_persistence"] is None
    diagram, radius = h1_diagram(points[8:48], 24)
    assert path.view()["h1_total_persistence"] == pytest.approx(total_persistence(diagram), rel=1e-5)
    assert path.view()["resolution"] == pytest.approx(radius, rel=1e-5)
    assert total_persistence(diagram) > 0.5
    path.discard(30)
    assert path.view()["h1_total_persistence"] is None
    path.add(30, points[30])
    again, _ = h1_diagram(points[8:31], 24)
    assert path.view()["h1_total_persistence"] == pytest.approx(total_persistence(again), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.99])
def test_after_the_first_computation_the_second_comes_early_by_the_phase_and_so_it_is_after_a_rewind(phase):
    limits = PathSettings(window=20, h1_every=4, h1_landmarks=8, shape_every=10, phase=phase)
    path, losses, points = PathState(limits), LossPath(limits), walk(60, dimension=5)
    loops, shapes, dimensions = [], [], []
    for step, point in enumerate(points):
        if step == 45:
            path.discard(40)
            losses.discard(40)
        path.add(step, point)
        losses.add(step, np.abs(point))
        loops.append(None if path.loop is None else path.loop[0])
        shapes.append(path.view()["magnitude"])
        dimensions.append(losses.view()["e_alpha"])

    def changes(told):
        return [step for step in range(1, 60) if told[step] is not None and told[step] != told[step - 1]]

    for every, told in ((4, loops), (10, shapes), (10, dimensions)):
        early = int(phase * every)
        expected = [every - 1, *range(2 * every - 1 - early, 45, every), 45, *range(45 + every - early, 60, every)]
        assert changes(told) == expected


def shape_from_scratch(window: np.ndarray, stride: int, landmarks: int) -> dict[str, float | None]:
    """Dimension and magnitude of every `stride`-th point, and the drift between the halves, from the points alone."""
    few = cdist(*2 * [window[::-stride][::-1].astype(float)])
    estimate, half = ph_dimension(few), len(window) // 2
    diagrams = [h1_diagram(part, landmarks)[0] for part in (window[len(window) - 2 * half : -half], window[-half:])]
    return {
        "dimension": estimate.value,
        "dimension_lower": estimate.lower,
        "dimension_upper": estimate.upper,
        "magnitude": positive_magnitude(few),
        "betti_drift": gudhi.bottleneck_distance(*diagrams),
    }


def test_the_shape_is_that_of_the_window_at_every_kth_sample_and_a_rewind_takes_it_away():
    points = walk(400, dimension=2)
    path = PathState(PathSettings(window=300, h1_landmarks=40, shape_every=50, shape_points=150))
    names = ("dimension", "dimension_lower", "dimension_upper", "magnitude", "betti_drift")
    for step, point in enumerate(points):
        path.add(step, point)
        if step == 48:
            assert {path.view()[name] for name in (*names, "betti_drift_wasserstein")} == {None}
    expected = shape_from_scratch(points[100:], 2, 40)
    assert {name: path.view()[name] for name in names} == pytest.approx(expected, rel=1e-3)
    assert path.view()["dimension_lower"] < path.view()["dimension"] < path.view()["dimension_upper"]
    assert path.view()["betti_drift_wasserstein"] >= path.view()["betti_drift"] > 0
    path.discard(371)
    assert {path.view()[name] for name in (*names, "betti_drift_wasserstein")} == {None}
    path.add(371, points[371])
    expected = shape_from_scratch(points[100:372], 2, 40)
    assert {name: path.view()[name] for name in names} == pytest.approx(expected, rel=1e-3)


def test_the_first_shape_comes_as_soon_as_there_may_be_a_dimension():
    path, told = PathState(PathSettings(window=300)), []
    for step, point in enumerate(walk(257, dimension=2)):
        path.add(step, point)
        if (dimension := path.view()["dimension"]) not in told:
            told.append(dimension)
            assert len(told) == 1 or step == (63, 191)[len(told) - 2]
    assert len(told) == 3


def test_weighted_sums_are_always_those_of_the_present_window():
    path = PathState(PathSettings(window=8))
    assert path.view()["e_alpha"] is None
    for step, point in enumerate([0.0, 9.0, 10.0, 14.0]):
        path.add(step, np.array([point], dtype=np.float32))
    assert path.view()["e_alpha"] == {"0.5": 6.0, "1": 14.0, "2": 98.0}
    path.discard(3)
    assert path.view()["e_alpha"] == {"0.5": 4.0, "1": 10.0, "2": 82.0}


def test_a_path_that_stands_still_has_one_point_and_no_dimension():
    path = PathState(PathSettings(shape_every=70))
    for step in range(70):
        path.add(step, np.ones(3, dtype=np.float32))
    view = path.view()
    assert (view["dimension"], view["magnitude"], view["betti_drift"]) == (None, 1.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 59), seed=st.integers(0, 1000))
def test_a_restored_path_goes_on_exactly_as_the_original(cut, seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 4, (60, 3)).astype(np.float32)  # ties and duplicates
    steps = rng.permutation(60)
    first = PathState(PathSettings(window=20, h1_every=4, h1_landmarks=8, shape_every=5, shape_points=8))
    second = first
    for index, step in enumerate(steps.tolist()):
        if index == cut:
            second = PathState.from_state(decode(encode(first.state_dict())))
        if index % 17 == 16:
            first.discard(step)
            if second is not first:
                second.discard(step)
        first.add(step, points[step])
        if second is not first:
            second.add(step, points[step])
        assert first.view() == second.view()
        assert first.steps == second.steps


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="at least 2 points"):
        PathSettings(window=1)
    with pytest.raises(ValueError, match="landmarks"):
        PathSettings(h1_landmarks=301)
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="from 0 to less than 1"):
            PathSettings(phase=wrong)
    for wrong in ({"shape_every": 0}, {"shape_points": 1}):
        with pytest.raises(ValueError, match="at least 2 points, every 1 sample"):
            PathSettings(**wrong)
