"""The incremental spanning tree against scipy, giotto-ph, gudhi and ripser from scratch, and against theorems."""

from __future__ import annotations

import gudhi
import numpy as np
import pytest
from gph import ripser_parallel
from hypothesis import given, settings
from hypothesis import strategies as st
from ripser import ripser
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from topowatch_monitor.topology import IncrementalMST

# Clouds of every kind that has broken a spanning tree: ties, duplicates, degenerate, far from the origin.
KINDS = ("gauss", "grid", "circle", "line", "equal", "offset", "walk")


def cloud(kind: str, count: int, dimension: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((count, dimension))
    if kind == "grid":
        points = rng.integers(0, 3, (count, dimension)).astype(float)
    elif kind == "circle":
        angle = rng.uniform(0, 2 * np.pi, count)
        points = np.zeros((count, max(2, dimension)))
        points[:, 0], points[:, 1] = np.cos(angle), np.sin(angle)
    elif kind == "line":
        points = rng.integers(-5, 6, (count, 1)) * np.arange(1, dimension + 1)
    elif kind == "equal":
        points = np.ones((count, dimension))
    elif kind == "offset":
        points = 1e3 + 1e-4 * normal
    elif kind == "walk":
        points = np.cumsum(normal, axis=0)
    else:
        points = normal
    return np.asarray(points, dtype=np.float32)


def from_scratch(points: np.ndarray) -> np.ndarray:
    """H₀ lifetimes by single linkage in float64: the slow, obvious twin."""
    if len(points) < 2:
        return np.empty(0)
    return np.sort(linkage(pdist(points.astype(np.float64)), "single")[:, 2])


def tree_of(points: np.ndarray, window: int | None = None) -> IncrementalMST:
    tree = IncrementalMST(window)
    for point in points:
        tree.add(point)
    return tree


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(1, 60),
    dimension=st.integers(1, 12),
    window=st.none() | st.integers(1, 40),
    seed=st.integers(0, 10**6),
)
def test_lengths_of_a_sliding_window_equal_single_linkage_from_scratch(kind, count, dimension, window, seed):
    points = cloud(kind, count, dimension, seed)
    tree = IncrementalMST(window)
    for index, point in enumerate(points):
        tree.add(point)
        if index % 7 == 0 or index == count - 1:
            held = points[max(0, index + 1 - window) if window else 0 : index + 1]
            np.testing.assert_allclose(tree.lengths, from_scratch(held), rtol=1e-5, atol=1e-30)
            assert np.array_equal(tree.points, held)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), kind=st.sampled_from(KINDS), window=st.none() | st.integers(2, 20), seed=st.integers(0, 10**6))
def test_any_sequence_of_adding_late_insertion_dropping_and_restoring_is_exact(data, kind, window, seed):
    points = cloud(kind, 50, 5, seed)
    tree, held = IncrementalMST(window), []
    for point in points:
        action = data.draw(st.sampled_from(["add", "add", "add", "insert", "keep", "truncate", "restore"]))
        if action == "keep":
            mask = data.draw(st.lists(st.booleans(), min_size=len(held), max_size=len(held)))
            tree.keep(mask)
            held = [other for other, kept in zip(held, mask, strict=True) if kept]
        elif action == "truncate":
            count = data.draw(st.integers(0, len(held)))
            tree.truncate(count)
            held = held[:count]
        elif action == "restore":
            tree = IncrementalMST.from_state(tree.state_dict())
        else:
            position = len(held) if action == "add" else data.draw(st.integers(min(1, len(held)), len(held)))
            tree.insert(position, point)
            held.insert(position, point)
            if window is not None and len(held) > window:
                held.pop(0)
        assert len(tree) == len(held)
        np.testing.assert_allclose(
            tree.lengths, from_scratch(np.array(held).reshape(-1, points.shape[1])), rtol=1e-5, atol=1e-30
        )


@pytest.mark.parametrize("kind", KINDS)
def test_deaths_of_h0_equal_those_of_gudhi_ripser_and_giotto_ph(kind):
    points = cloud(kind, 80, 6, seed=3)
    lengths = tree_of(points, window=50).lengths
    held = points[-50:].astype(np.float64)
    distances = np.sqrt(((held[:, None] - held[None]) ** 2).sum(axis=2))
    complex_ = gudhi.RipsComplex(distance_matrix=distances).create_simplex_tree(max_dimension=1)
    complex_.compute_persistence(min_persistence=-1)
    by_gudhi = np.sort([death for _, death in complex_.persistence_intervals_in_dimension(0) if np.isfinite(death)])
    np.testing.assert_allclose(lengths, by_gudhi, rtol=1e-5, atol=1e-30)
    # ripser and giotto-ph leave bars of length zero out.
    positive = lengths[lengths > 0]
    for diagram in (
        ripser(distances, maxdim=0, distance_matrix=True)["dgms"][0],
        ripser_parallel(distances.astype(np.float32), maxdim=0, metric="precomputed")["dgms"][0],
    ):
        deaths = np.sort(diagram[np.isfinite(diagram[:, 1]), 1])
        np.testing.assert_allclose(positive, deaths[deaths > 0], rtol=1e-5)


def test_points_that_differ_by_a_ten_millionth_of_their_norm_keep_their_distances():
    """The Gram trick would return noise here; the values that float32 can hold are the truth."""
    rng = np.random.default_rng(0)
    points = (1e3 + 1e-3 * rng.standard_normal((60, 1021))).astype(np.float32)
    np.testing.assert_allclose(tree_of(points).lengths, from_scratch(points), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e25])
def test_distances_whose_squares_leave_the_range_of_float32_are_exact(scale):
    points = (np.random.default_rng(1).standard_normal((20, 7)) * scale).astype(np.float32)
    np.testing.assert_allclose(tree_of(points).lengths, from_scratch(points), rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(KINDS), count=st.integers(2, 40), seed=st.integers(0, 10**6))
def test_moving_every_point_by_at_most_epsilon_moves_every_sorted_death_by_at_most_two(kind, count, seed):
    """Stability: the k-th shortest tree edge is a function of distances that no two of which move by more than 2ε."""
    points = cloud(kind, count, 4, seed)
    moves = np.random.default_rng(seed + 1).standard_normal(points.shape)
    moved = (points + 0.05 * moves / np.linalg.norm(moves, axis=1, keepdims=True)).astype(np.float32)
    epsilon = np.linalg.norm(moved.astype(np.float64) - points, axis=1).max()
    assert np.abs(tree_of(moved).lengths - tree_of(points).lengths).max() <= 2 * epsilon * (1 + 1e-5)


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(KINDS), count=st.integers(3, 40), seed=st.integers(0, 10**6))
def test_one_more_point_adds_at_most_its_nearest_distance_and_never_raises_the_old_merge_heights(kind, count, seed):
    """Old points only merge earlier, and the new one costs its nearest distance; the total weight itself may fall."""
    points = cloud(kind, count, 4, seed)
    tree = tree_of(points[:-1])
    before = tree.lengths
    nearest = tree.distances_to(range(count - 1), points[-1]).min()
    tree.add(points[-1])
    after = tree.lengths
    assert after.sum() <= before.sum() + nearest * (1 + 1e-5)
    old = linkage(pdist(points[:-1].astype(float)), "single")[:, 2]
    np.testing.assert_allclose(before, np.sort(old), rtol=1e-5, atol=1e-30)
    # Components of the old points at height h can only be joined further by the new point.
    for height in before:
        assert np.count_nonzero(after > height * (1 + 1e-5)) <= np.count_nonzero(before > height * (1 - 1e-5)) + 1


def test_total_weight_can_fall_when_a_point_is_inserted():
    """The centre of a large triangle is a Steiner point: no test may assume that the weight grows."""
    corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
    tree = tree_of(corners)
    before = tree.lengths.sum()
    tree.add(corners.mean(axis=0))
    assert tree.lengths.sum() < before


def test_no_and_one_point_have_no_edges_and_two_have_one():
    tree = IncrementalMST()
    assert tree.lengths.shape == (0,)
    tree.add([0.0, 0.0])
    assert tree.lengths.shape == (0,)
    tree.add([3.0, 4.0])
    assert tree.lengths.tolist() == [5.0]


def test_duplicates_count_as_zeros():
    tree = tree_of(np.array([[1.0], [1.0], [3.0], [1.0]]))
    assert tree.lengths.tolist() == [0.0, 0.0, 2.0]


def test_distances_by_position_survive_eviction_and_truncation():
    points = cloud("gauss", 30, 3, seed=5)
    tree = tree_of(points, window=12)
    tree.truncate(7)
    held = points[18:25].astype(np.float64)
    expected = np.sqrt(((held[:, None] - held[None]) ** 2).sum(axis=2))
    np.testing.assert_allclose(tree.distances, expected, rtol=1e-5, atol=1e-7)
    assert tree.distance(-2, -1) == pytest.approx(expected[-2, -1], rel=1e-5)
    np.testing.assert_allclose(tree.distance_rows()(3), expected[3], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ([np.nan, 0.0], "finite"),
        ([np.inf, 0.0], "finite"),
        ([1e300, 0.0], "finite"),
        ([3e38, 0.0], "norm"),
        ([1.0], "have 2 numbers, this one has 1"),
        ([[1.0, 2.0]], "a vector"),
        ([], "a vector"),
    ],
)
def test_a_bad_point_is_refused_and_changes_nothing(point, message):
    tree = tree_of(np.array([[0.0, 0.0], [1.0, 0.0]]), window=2)
    with pytest.raises(ValueError, match=message):
        tree.add(point)
    assert tree.lengths.tolist() == [1.0]


def test_a_full_window_refuses_a_point_older_than_its_oldest():
    tree = tree_of(np.array([[0.0], [1.0]]), window=2)
    with pytest.raises(ValueError, match="older than its oldest"):
        tree.insert(0, [5.0])
    with pytest.raises(IndexError):
        tree.insert(3, [5.0])
    with pytest.raises(ValueError, match="at least one point"):
        IncrementalMST(0)
    with pytest.raises(ValueError, match="2 entries"):
        tree.keep([True])


def test_an_emptied_tree_takes_points_of_another_dimension():
    tree = tree_of(np.array([[0.0], [1.0]]))
    tree.truncate(0)
    tree.add([0.0, 0.0])
    tree.add([0.0, 2.0])
    assert tree.lengths.tolist() == [2.0]
