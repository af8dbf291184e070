"""Betti curves, amplitudes and distances of diagrams against gudhi, giotto-tda and theorems."""

from __future__ import annotations

import gudhi
import gudhi.hera
import numpy as np
import pytest
from gtda.diagrams import BettiCurve, PairwiseDistance
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.topology import h1_diagram
from topowatch_monitor.topology.betti import amplitudes, betti_curve, betti_drift, bottleneck, wasserstein


@st.composite
def diagrams(draw, *, immortal: bool = True, most: int = 8) -> np.ndarray:
    """Bars on a coarse grid (ties, duplicates, length zero), or of any length; some never die."""
    numbers = st.integers(0, 6).map(float) | st.floats(-10, 10)
    bars = draw(st.lists(st.tuples(numbers, numbers), max_size=most))
    bars = [tuple(sorted(bar)) for bar in bars]
    if immortal:
        bars += [(draw(numbers), np.inf) for _ in range(draw(st.integers(0, 2)))]
    return np.array(bars, dtype=float).reshape(-1, 2)


def by_trial(first: np.ndarray, second: np.ndarray, power: float) -> float:
    """The least cost over all pairings, tried one by one; a bar may also go to the diagonal."""
    if not len(first):
        lengths = (second[:, 1] - second[:, 0]) / 2
        return float(lengths.max(initial=0) if np.isinf(power) else (lengths**power).sum())
    rest, found = first[1:], []
    for index in range(len(second)):
        cost = np.abs(first[0] - second[index]).max()
        found.append((cost, by_trial(rest, np.delete(second, index, axis=0), power)))
    found.append(((first[0, 1] - first[0, 0]) / 2, by_trial(rest, second, power)))
    return min(max(cost, more) if np.isinf(power) else cost**power + more for cost, more in found)


@settings(max_examples=150, deadline=None)
@given(first=diagrams(immortal=False, most=4), second=diagrams(immortal=False, most=4))
def test_both_equal_the_best_of_all_pairings(first, second):
    assert bottleneck(first, second) == pytest.approx(by_trial(first, second, np.inf), rel=1e-8, abs=1e-8)
    for power in (1.0, 2.0):
        expected = by_trial(first, second, power) ** (1 / power)
        assert wasserstein(first, second, power) == pytest.approx(expected, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_both_equal_gudhi_on_diagrams_without_ties(seed):
    """Of equal bars gudhi's own bottleneck distance is wrong (3.13), and its hera crashes on infinite ones."""
    rng = np.random.default_rng(seed)
    births = [rng.random(count) for count in rng.integers(0, 30, 2)]
    first, second = (np.stack([birth, birth + rng.random(len(birth))], axis=1) for birth in births)
    assert bottleneck(first, second) == pytest.approx(gudhi.bottleneck_distance(first, second, 0.0), rel=1e-8)
    for power in (1.0, 2.0):
        expected = gudhi.hera.wasserstein_distance(first, second, order=power, internal_p=np.inf, delta=1e-4)
        assert wasserstein(first, second, power) == pytest.approx(expected, rel=2e-4)


def test_both_are_giottos_on_its_padded_diagrams():
    rng = np.random.default_rng(0)
    ours = []
    for count in (5, 9, 0):
        births = rng.random(count)
        ours.append(np.stack([births, births + rng.random(count)], axis=1))
    padded = np.zeros((3, 9, 3))  # giotto-tda fills up with bars of length zero
    for row, bars in zip(padded, ours, strict=True):
        row[: len(bars), :2] = bars
        row[len(bars) :, :2] = 0.5
        row[:, 2] = 1
    for name, distance in (("bottleneck", bottleneck), ("wasserstein", wasserstein)):
        parameters = {"delta": 1e-6} | ({"p": 1.0} if name == "wasserstein" else {})
        expected = PairwiseDistance(metric=name, metric_params=parameters).fit_transform(padded)
        for i in range(3):
            for j in range(3):
                assert distance(ours[i], ours[j]) == pytest.approx(expected[i, j], rel=1e-4)
                assert distance(padded[i], padded[j]) == pytest.approx(expected[i, j], rel=1e-4)


@settings(max_examples=100, deadline=None)
@given(first=diagrams(), second=diagrams(), third=diagrams())
def test_both_are_metrics_and_the_largest_difference_is_never_above_the_sum(first, second, third):
    for distance in (bottleneck, wasserstein):
        assert distance(first, first) == 0
        assert distance(first, second) == pytest.approx(distance(second, first))
        assert distance(first, third) <= distance(first, second) + distance(second, third) + 1e-7
    assert bottleneck(first, second) <= wasserstein(first, second, 2.0) + 1e-7
    assert wasserstein(first, second, 2.0) <= wasserstein(first, second) + 1e-7


@settings(max_examples=100, deadline=None)
@given(bars=diagrams(), other=diagrams(), factor=st.sampled_from([1e-30, 1e-6, 1e6, 1e30]))
def test_both_scale_with_the_unit(bars, other, factor):
    for distance in (bottleneck, wasserstein):
        assert distance(factor * bars, factor * other) == pytest.approx(
            factor * distance(bars, other), rel=1e-6, abs=1e-9 * factor
        )


def test_of_an_empty_diagram_every_bar_is_half_its_length_away():
    bars = [[0.0, 1.0], [1.0, 4.0], [2.0, 2.0]]
    empty = np.empty((0, 2))
    assert betti_drift(bars, empty) == betti_drift(empty, bars) == (pytest.approx(1.5), pytest.approx(2.0))
    assert betti_drift(empty, empty) == betti_drift([], [[1.0, 1.0]]) == (0.0, 0.0)


def test_bars_that_never_die_are_paired_among_each_other():
    assert betti_drift([[0.0, np.inf], [5.0, np.inf]], [[6.0, np.inf], [0.5, np.inf]]) == (1.0, 1.5)
    assert betti_drift([[0.0, np.inf]], [[0.0, 9.0]]) == (np.inf, np.inf)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["gauss", "circle", "grid"]),
    count=st.integers(1, 40),
    epsilon=st.floats(1e-6, 0.5),
    seed=st.integers(0, 10**6),
)
def test_moving_every_point_by_at_most_epsilon_drifts_by_at_most_two(kind, count, epsilon, seed):
    """Stability of Rips diagrams; float32 distances add their rounding."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, count)
    points = {
        "gauss": rng.standard_normal((count, 2)),
        "circle": np.stack([np.cos(angle), np.sin(angle)], axis=1),
        "grid": rng.integers(0, 5, (count, 2)).astype(float),
    }[kind]
    moves = rng.standard_normal(points.shape)
    moved = points + epsilon * moves / np.linalg.norm(moves, axis=1, keepdims=True)
    drift = betti_drift(h1_diagram(points)[0], h1_diagram(moved)[0])
    assert drift.bottleneck <= 2 * epsilon + 1e-5


def test_a_loop_that_opens_drifts_by_half_of_its_bar():
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    diagram, _ = h1_diagram(circle)
    line, _ = h1_diagram(np.stack([angle, angle], axis=1))
    assert len(diagram) == 1
    assert betti_drift(line, diagram).bottleneck == pytest.approx((diagram[0, 1] - diagram[0, 0]) / 2)


@settings(max_examples=100, deadline=None)
@given(bars=diagrams(), levels=st.lists(st.integers(-1, 7).map(float) | st.floats(-11, 11), max_size=9))
def test_a_betti_curve_counts_the_bars_alive(bars, levels):
    slow = [sum(birth <= level < death for birth, death in bars) for level in levels]
    assert betti_curve(bars, levels).tolist() == slow


def test_a_betti_curve_is_giottos():
    bars = np.array([[0.0, 1.0, 1], [0.25, 2.0, 1], [0.5, 0.75, 1]])
    curve = BettiCurve(n_bins=50)
    expected = curve.fit_transform(bars[None])[0, 0]
    assert betti_curve(bars, curve.samplings_[1]).tolist() == expected.tolist()


def test_amplitudes_are_those_of_the_formulas():
    found = amplitudes([[0.0, 4.0], [10.0, 13.0], [0.0, np.inf], [2.0, 2.0]])
    assert found["bottleneck"] == pytest.approx(2.0)
    assert found["wasserstein"] == pytest.approx(np.hypot(2.0, 1.5))
    # Tents of heights 2 and 1.5 have squares of area 2 h³ / 3; curves of 0 and 1 have the area of the bars.
    assert found["landscape"] == pytest.approx(np.sqrt(2 / 3 * (2.0**3 + 1.5**3)), rel=0.02)
    assert found["betti"] == pytest.approx(np.sqrt(7.0), rel=0.02)
    assert amplitudes(np.empty((0, 2))) == amplitudes([[1.0, 1.0]]) == dict.fromkeys(found, 0.0)


def test_amplitudes_scale_with_the_powers_that_are_said():
    bars = np.array([[0.0, 4.0], [1.0, 3.0]])
    found, larger = amplitudes(bars), amplitudes(1e12 * bars)
    for name, power in (("bottleneck", 1), ("wasserstein", 1), ("landscape", 1.5), ("betti", 0.5)):
        assert larger[name] == pytest.approx(found[name] * 1e12**power)


@pytest.mark.parametrize(
    ("diagram", "message"),
    [
        (np.zeros(3), "bars × "),
        (np.zeros((3, 1)), "bars × "),
        ([[np.nan, 1.0]], "finite"),
        ([[-np.inf, 1.0]], "finite"),
        ([[0.0, np.nan]], "after their birth"),
        ([[1.0, 0.0]], "after their birth"),
    ],
)
def test_what_is_no_diagram_is_refused(diagram, message):
    for call in (bottleneck, wasserstein, betti_drift):
        with pytest.raises(ValueError, match=message):
            call(diagram, [[0.0, 1.0]])
    for call in (amplitudes, lambda bars: betti_curve(bars, [0.0])):
        with pytest.raises(ValueError, match=message):
            call(diagram)


def test_a_power_below_one_is_refused():
    with pytest.raises(ValueError, match=r"at least 1, not 0\.5"):
        wasserstein([], [], 0.5)


def test_a_bar_that_is_lost_in_the_rounding_beside_a_long_one_is_no_bar() -> None:
    assert bottleneck([[0.0, 2.0]], [[0.0, 5e-324]]) == 1.0
    assert bottleneck([[0.0, 5e-324]], []) <= 5e-324
