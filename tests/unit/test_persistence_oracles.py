"""H₀ and H₁ of clouds of every kind against ripser, giotto-ph and gudhi, pair by pair, and against theorems."""

from __future__ import annotations

import gudhi
import numpy as np
import pytest
from gph import ripser_parallel
from hypothesis import given, settings
from hypothesis import strategies as st
from ripser import ripser
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import cdist, squareform

from topowatch_monitor.topology import IncrementalMST, h1_diagram, maxmin_landmarks
from topowatch_monitor.topology.betti import bottleneck

KINDS = ("gauss", "circle", "annulus", "torus", "duplicates", "collinear", "grid", "clusters")


def cloud(kind: str, count: int, seed: int) -> np.ndarray:
    """Points of a kind, float32: what both sides of a comparison are given."""
    rng = np.random.default_rng(seed)
    angle, other = 2.0 * np.pi * rng.random((2, count))
    points = {
        "gauss": rng.standard_normal((count, 3)),
        "circle": np.column_stack([np.cos(angle), np.sin(angle)]),
        "annulus": (1.0 + 0.3 * rng.random((count, 1))) * np.column_stack([np.cos(angle), np.sin(angle)]),
        "torus": np.column_stack([np.cos(angle), np.sin(angle), np.cos(other), np.sin(other)]),
        "duplicates": rng.standard_normal((1 + count // 3, 2))[rng.integers(0, 1 + count // 3, count)],
        "collinear": np.outer(rng.standard_normal(count), [1.0, 2.0, -1.0]),
        "grid": rng.integers(0, 4, (count, 2)).astype(float),
        "clusters": 5.0 * rng.integers(0, 2, (count, 2)) + 0.1 * rng.standard_normal((count, 2)),
    }[kind]
    return np.asarray(points, dtype=np.float32)


def ordered(bars: np.ndarray) -> np.ndarray:
    """Rows by birth, then death: pairs stay pairs."""
    bars = np.asarray(bars, dtype=np.float64).reshape(-1, 2)
    return bars[np.lexsort((bars[:, 1], bars[:, 0]))]


def by_others(distances: np.ndarray, dimension: int) -> dict[str, np.ndarray]:
    """Diagrams without bars of length zero, from scratch."""
    tree = gudhi.RipsComplex(distance_matrix=distances).create_simplex_tree(max_dimension=dimension + 1)
    tree.compute_persistence(persistence_dim_max=True)
    exact = distances.astype(np.float32)
    found = {
        "gudhi": tree.persistence_intervals_in_dimension(dimension),
        "ripser": ripser(distances, maxdim=dimension, distance_matrix=True)["dgms"][dimension],
        "giotto-ph": ripser_parallel(exact, maxdim=dimension, metric="precomputed")["dgms"][dimension],
    }
    return {name: bars[bars[:, 1] > bars[:, 0]] for name, bars in found.items()}


def h0_pairs(points: np.ndarray) -> np.ndarray:
    """H₀ by the incremental tree: every component is born at 0, one never dies; no bars of length zero."""
    tree = IncrementalMST()
    for point in points:
        tree.add(point)
    deaths = np.append(tree.lengths, np.inf)
    return np.column_stack([np.zeros(len(deaths)), deaths])[deaths > 0]


@settings(max_examples=80, deadline=None)
@given(kind=st.sampled_from(KINDS), count=st.integers(1, 28), seed=st.integers(0, 10**6))
def test_h0_and_h1_are_the_pairs_that_three_libraries_find(kind, count, seed):
    """Distances are rounded to float32 first, so that nothing but the algorithms can differ."""
    points = cloud(kind, count, seed)
    distances = cdist(points, points).astype(np.float32).astype(np.float64)
    h1 = ordered(h1_diagram(distances, precomputed=True)[0])
    for name, bars in by_others(distances, 1).items():
        np.testing.assert_allclose(h1, ordered(bars), rtol=1e-6, err_msg=name)
    h0 = ordered(h0_pairs(points))
    for name, bars in by_others(distances, 0).items():
        np.testing.assert_allclose(h0, ordered(bars), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ["gauss", "duplicates"])
def test_one_and_two_points_are_components_and_no_loop(kind, count):
    points = cloud(kind, count, 0)
    expected = [0.0, float(np.linalg.norm(points[0] - points[-1]))]
    assert h0_pairs(points)[:-1].tolist() == [expected] * (expected[1] > 0)
    assert h0_pairs(points)[-1].tolist() == [0.0, np.inf]
    assert h1_diagram(points)[0].shape == (0, 2)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(4, 12), seed=st.integers(0, 10**6), levels=st.integers(2, 40))
def test_distances_that_are_no_metric_and_full_of_ties_give_the_pairs_of_the_others(count, seed, levels):
    """Nothing in the reduction may lean on the triangle inequality or on an order among equals."""
    upper = np.random.default_rng(seed).integers(1, levels + 1, count * (count - 1) // 2).astype(float)
    distances = squareform(upper)
    ours = ordered(h1_diagram(distances, precomputed=True)[0])
    for name, bars in by_others(distances, 1).items():
        assert ours.tolist() == ordered(bars).tolist(), name


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), count=st.integers(2, 25), seed=st.integers(0, 10**6))
def test_neither_the_order_of_the_points_nor_a_rigid_motion_changes_a_pair(kind, count, seed):
    points = cloud(kind, count, seed).astype(np.float64)
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((points.shape[1],) * 2))[0]
    moved = (points @ turn)[rng.permutation(count)] + 3.0
    assert bottleneck(h1_diagram(points)[0], h1_diagram(moved)[0]) < 1e-5
    before, after = (h0_pairs(shape.astype(np.float32))[:, 1] for shape in (points, moved))
    np.testing.assert_allclose(after[-len(before) :], before, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    counts=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 10**6),
)
def test_h1_of_any_product_is_that_of_kuenneth(kinds, counts, seed):
    """In the maximum metric H₁(X × Y) = H₁(X) ⊗ H₀(Y) ⊕ H₀(X) ⊗ H₁(Y): bars meet where both are alive."""
    factors = [cloud(kind, count, seed + 1) for kind, count in zip(kinds, counts, strict=True)]
    distances = [cdist(points, points).astype(np.float32).astype(np.float64) for points in factors]
    whole = np.maximum(
        np.kron(distances[0], np.ones((counts[1], counts[1]))), np.kron(np.ones((counts[0], counts[0])), distances[1])
    )
    expected = []
    for loops, parts in ((distances[0], distances[1]), (distances[1], distances[0])):
        deaths = np.append(linkage(squareform(parts), "single")[:, 2] if len(parts) > 1 else [], np.inf)
        for birth, death in h1_diagram(loops, precomputed=True)[0]:
            expected += [(birth, min(death, gone)) for gone in deaths if gone > birth]
    found = h1_diagram(whole, precomputed=True)[0]
    np.testing.assert_allclose(ordered(found), ordered(np.array(expected).reshape(-1, 2)), rtol=1e-6)


def test_a_flat_torus_has_one_component_and_two_loops_at_a_scale_between():
    """Betti numbers (1, 2) of the torus, from a grid of 16 × 16 points in four dimensions."""
    angle = 2.0 * np.pi * np.arange(16) / 16
    first, second = (grid.ravel() for grid in np.meshgrid(angle, angle))
    points = np.column_stack([np.cos(first), np.sin(first), np.cos(second), np.sin(second)])
    diagram, radius = h1_diagram(points)
    assert radius == 0.0
    scale = 1.0
    assert np.count_nonzero((diagram[:, 0] <= scale) & (diagram[:, 1] > scale)) == 2
    assert np.count_nonzero(h0_pairs(points.astype(np.float32))[:, 1] > scale) == 1


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), count=st.integers(1, 40), m=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_the_diagram_of_landmarks_is_within_twice_the_cover_radius(kind, count, m, seed):
    points = cloud(kind, count, seed)
    full, few = h1_diagram(points)[0], h1_diagram(points, m)
    assert few[1] == pytest.approx(maxmin_landmarks(points, m)[1])
    assert bottleneck(full, few[0]) <= 2.0 * few[1] + 1e-5


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), count=st.integers(1, 25), seed=st.integers(0, 10**6), epsilon=st.floats(1e-4, 0.3))
def test_points_added_within_epsilon_of_the_cloud_move_h1_by_at_most_twice_that(kind, count, seed, epsilon):
    """The Hausdorff distance bounds the drift, however many points are added."""
    points = cloud(kind, count, seed).astype(np.float64)
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal(points.shape)
    beside = points + epsilon * rng.random((count, 1)) * steps / np.linalg.norm(steps, axis=1, keepdims=True)
    assert bottleneck(h1_diagram(points)[0], h1_diagram(np.concatenate([points, beside]))[0]) <= 2.0 * epsilon + 1e-5
