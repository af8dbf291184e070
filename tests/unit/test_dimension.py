"""PH dimension, E_α and magnitude against gudhi, scipy, direct solves and sets whose dimension is known."""

from __future__ import annotations

import gudhi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import cdist, pdist

from topowatch_monitor.topology.dimension import (
    ALPHAS,
    MIN_POINTS,
    e_alpha,
    loss_distances,
    ph_dimension,
    positive_magnitude,
    strided,
    tree_lengths,
)

clouds = arrays(
    np.int64, st.tuples(st.integers(1, 25), st.integers(1, 3)), elements=st.integers(-4, 4)
)  # ties and duplicates everywhere


def distances_of(points: np.ndarray) -> np.ndarray:
    return cdist(points, points)


def single_linkage(distances: np.ndarray) -> np.ndarray:
    return np.sort(linkage(distances[np.triu_indices(len(distances), 1)], "single")[:, 2])


@settings(max_examples=100, deadline=None)
@given(points=clouds, alpha=st.sampled_from([*ALPHAS, 0.1, 3.0]))
def test_e_alpha_of_the_tree_is_that_of_gudhis_h0(points, alpha):
    distances = distances_of(points)
    complex_ = gudhi.RipsComplex(distance_matrix=distances).create_simplex_tree(max_dimension=1)
    complex_.compute_persistence(min_persistence=-1)
    deaths = complex_.persistence_intervals_in_dimension(0)[:, 1]
    expected = sum(death**alpha for death in deaths if np.isfinite(death))
    assert e_alpha(tree_lengths(distances), [alpha]) == {alpha: pytest.approx(expected, rel=1e-9, abs=1e-12)}


@settings(max_examples=100, deadline=None)
@given(points=clouds, factor=st.floats(1e-6, 1e6))
def test_e_alpha_scales_with_the_power_alpha_of_the_distances(points, factor):
    distances = distances_of(points)
    scaled = e_alpha(tree_lengths(factor * distances))
    for alpha, value in e_alpha(tree_lengths(distances)).items():
        assert scaled[alpha] == pytest.approx(factor**alpha * value, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(2, 20), dtype=st.sampled_from([np.float32, np.float64, np.int64]))
def test_trees_grown_side_by_side_equal_single_linkage_one_by_one(data, n, dtype):
    shape = data.draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    upper = data.draw(arrays(np.int64, (*shape, n, n), elements=st.integers(0, 6)))
    spaces = np.triu(upper, 1)
    spaces = (spaces + np.swapaxes(spaces, -1, -2)).astype(dtype)
    lengths = tree_lengths(spaces)
    assert lengths.shape == (*shape, n - 1)
    for index in np.ndindex(shape):
        assert np.sort(lengths[index]).tolist() == single_linkage(spaces[index]).tolist()


def test_no_and_one_point_have_no_edges_and_no_spaces_no_trees():
    assert tree_lengths(np.zeros((0, 0))).shape == (0,)
    assert tree_lengths(np.zeros((1, 1))).shape == (0,)
    assert tree_lengths(np.zeros((4, 1, 1))).shape == (4, 0)
    assert tree_lengths(np.zeros((0, 5, 5))).shape == (0, 4)
    assert e_alpha([]) == dict.fromkeys(ALPHAS, 0.0)


def uniform(dimension: int, count: int, seed: int) -> np.ndarray:
    """A cube of this dimension, turned into 10 dimensions."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((10, 10)))
    return rng.random((count, dimension)) @ turn[:dimension]


@pytest.mark.parametrize(("dimension", "tolerance"), [(1, 0.1), (2, 0.2), (3, 0.4)])
def test_a_segment_a_square_and_a_cube_have_their_dimension_and_the_interval_covers_it(dimension, tolerance):
    covered = 0
    for seed in range(20):
        found = ph_dimension(distances_of(uniform(dimension, 256, seed)))
        assert found.value == pytest.approx(dimension, abs=tolerance)
        assert found.lower < found.value < found.upper
        covered += found.lower <= 1.02 * dimension and dimension <= found.upper  # a segment's bias is 2 %
    assert covered >= 19


@pytest.mark.parametrize(("ambient", "tolerance"), [(3, 0.45), (1021, 0.3)])
def test_a_brownian_path_has_dimension_two(ambient, tolerance):
    for seed in range(5):
        path = np.cumsum(np.random.default_rng(seed).standard_normal((500, ambient)), axis=0)
        assert ph_dimension(distances_of(path)).value == pytest.approx(2, abs=tolerance)


def test_a_smooth_curve_has_dimension_one_however_many_dimensions_it_runs_through():
    time = np.linspace(0, 1, 300)[:, None]
    curve = np.cos(np.arange(1, 50) * 0.1 * time)
    found = ph_dimension(distances_of(curve))
    assert found.value == pytest.approx(1, abs=0.06)
    assert found.upper < 1.2


@pytest.mark.parametrize("alpha", [0.5, 1.5])
def test_other_exponents_find_the_same_dimension(alpha):
    assert ph_dimension(distances_of(uniform(2, 400, 0)), alpha).value == pytest.approx(2, abs=0.3)


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(1e-30, 1e30), seed=st.integers(0, 100))
def test_a_dimension_has_no_unit_and_is_the_same_for_the_same_seed(factor, seed):
    distances = distances_of(uniform(2, 80, seed))
    found = ph_dimension(distances, seed=seed)
    again = ph_dimension(factor * distances, seed=seed)
    assert (again.value, again.lower, again.upper) == pytest.approx((found.value, found.lower, found.upper), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from([1e-45, 1e-38, 1e-20, 1e19, 1e38, 3e38]), alpha=st.sampled_from(ALPHAS))
def test_distances_at_the_ends_of_float32_give_finite_numbers(size, alpha):
    distances = (size * (distances_of(uniform(1, 70, 0)) > 0.3)).astype(np.float32)
    found = ph_dimension(distances, alpha)
    assert found.value is None or np.isfinite([found.value, found.lower, found.upper]).all()
    assert 1 <= positive_magnitude(distances) < 71


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (np.empty((0, 2)), "0 points are too few"),
        (uniform(2, MIN_POINTS - 1, 0), f"too few: {MIN_POINTS} are needed"),
        (np.ones((100, 2)), "all points are equal"),
        (np.eye(100)[[0] * 97 + [1, 2, 3]], "too few points are distinct"),
        (np.eye(100), "no finite dimension"),  # all at the same distance: E₁ grows as n − 1
    ],
)
def test_where_there_is_no_dimension_it_says_why(points, reason):
    found = ph_dimension(distances_of(points))
    assert found.value is found.lower is found.upper is None
    assert found.points == len(points)
    assert reason in found.reason


def test_one_point_has_magnitude_one_and_no_point_none():
    assert positive_magnitude(np.zeros((0, 0))) == 0
    assert positive_magnitude(np.zeros((1, 1))) == 1
    assert positive_magnitude(np.zeros((7, 7))) == pytest.approx(1)


@pytest.mark.parametrize("distance", [1e-3, 0.1, 1.0, 5.0])
def test_two_points_have_the_magnitude_of_the_formula(distance):
    space = [[0, distance], [distance, 0]]
    assert positive_magnitude(space, 1.0) == pytest.approx(2 / (1 + np.exp(-distance)))
    assert positive_magnitude(space, 3.0) == pytest.approx(2 / (1 + np.exp(-3 * distance)))
    assert positive_magnitude(space) == pytest.approx(2 / (1 + np.exp(-1)))


def test_points_far_apart_count_one_each_and_points_on_a_line_as_the_formula_says():
    assert positive_magnitude(100 * (1 - np.eye(9)), 1.0) == pytest.approx(9)
    places = np.sort(np.random.default_rng(0).random(40))[:, None]
    # Leinster: a finite subset of a line has magnitude 1 + Σ tanh(gap / 2).
    expected = 1 + np.tanh(np.diff(places[:, 0]) / 2).sum()
    assert positive_magnitude(distances_of(places), 1.0) == pytest.approx(expected, rel=1e-3)


@settings(max_examples=100, deadline=None)
@given(points=clouds, scale=st.none() | st.floats(0.05, 5))
def test_magnitude_equals_a_direct_solve_of_the_distinct_points_and_sees_no_duplicates(points, scale):
    distinct = np.unique(points, axis=0)
    distances = distances_of(distinct)
    unit = distances_of(points)
    between = unit[np.triu_indices(len(points), 1)]
    t = scale or (1 / np.median(between[between > 0]) if between.any() else 1.0)
    weights = np.linalg.inv(np.exp(-t * distances)).sum(axis=1)
    expected = weights[weights > 0].sum()
    assert positive_magnitude(unit, scale) == pytest.approx(expected, rel=1e-6)
    twice = distances_of(np.concatenate([points, points[::-1]]))
    assert positive_magnitude(twice, t) == pytest.approx(expected, rel=1e-6)


def test_magnitude_holds_where_points_almost_coincide():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((20, 3))
    close = np.concatenate([points, points + 1e-9 * rng.standard_normal(points.shape)])
    expected = positive_magnitude(distances_of(points), 1.0)
    assert positive_magnitude(distances_of(close).astype(np.float32), 1.0) == pytest.approx(expected, rel=1e-3)


def test_a_singular_similarity_that_is_no_duplicate_still_has_a_magnitude():
    """The graph K₃,₃ at t = log 2 has a singular similarity (Leinster), whose least weights are all 2/9."""
    sides = np.repeat([0, 1], 3)
    distances = np.where(sides[:, None] == sides, 2.0, 1.0) * (1 - np.eye(6))
    similarity = np.exp(-np.log(2) / 2 * 2 * distances)
    expected = np.linalg.lstsq(similarity, np.ones(6), rcond=None)[0]
    assert positive_magnitude(distances, np.log(2)) == pytest.approx(expected[expected > 0].sum())


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 300), most=st.integers(1, 50))
def test_strided_positions_are_even_end_at_the_last_and_are_as_many_as_may_be(count, most):
    positions = strided(count, most)
    assert len(positions) == min(most, -(-count // max(1, -(-count // most)))) if count else not len(positions)
    if count:
        assert positions[-1] == count - 1
        assert positions[0] < max(1, -(-count // most))
        assert len(set(np.diff(positions))) <= 1


@settings(max_examples=60, deadline=None)
@given(table=arrays(np.float32, st.tuples(st.integers(0, 8), st.integers(1, 6)), elements=st.floats(-9, 9, width=32)))
def test_loss_distances_are_means_of_absolute_differences(table):
    slow = np.array([[np.abs(a.astype(float) - b).mean() for b in table] for a in table]).reshape(2 * [len(table)])
    np.testing.assert_allclose(loss_distances(table), slow, rtol=1e-9, atol=1e-12)


def test_loss_distances_of_the_largest_float32_are_finite():
    assert np.isfinite(loss_distances(np.array([[3.4e38] * 4, [-3.4e38] * 4], dtype=np.float32))).all()


def test_the_path_of_losses_of_a_random_walk_has_dimension_two_in_rho_too():
    losses = np.abs(np.cumsum(np.random.default_rng(0).standard_normal((256, 100)), axis=0) + 300)
    assert ph_dimension(loss_distances(losses)).value == pytest.approx(2, abs=0.4)
    assert pdist(losses, "cityblock")[0] / 100 == pytest.approx(loss_distances(losses)[0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: e_alpha([-1.0]), "not negative"),
        (lambda: e_alpha([np.nan]), "finite"),
        (lambda: e_alpha([1.0], [0.0]), "positive, not 0"),
        (lambda: tree_lengths(np.zeros((2, 3))), r"shape \(2, 3\)"),
        (lambda: tree_lengths(np.zeros(3)), r"shape \(3,\)"),
        (lambda: ph_dimension(np.zeros((2, 3))), "n × n"),
        (lambda: ph_dimension(np.full((2, 2), np.inf)), "finite"),
        (lambda: ph_dimension(np.zeros((2, 2)), 0.0), "positive"),
        (lambda: ph_dimension(np.zeros((2, 2)), subsamples=19), "at least 20 subsamples a size, not 19"),
        (lambda: positive_magnitude(np.full((1, 1), -1.0)), "not negative"),
        (lambda: positive_magnitude(np.zeros((1, 1)), -2.0), "positive, not -2"),
        (lambda: loss_distances(np.zeros((3, 0))), "samples × probes"),
        (lambda: loss_distances([[np.nan]]), "finite"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
