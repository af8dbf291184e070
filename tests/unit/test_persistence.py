"""Landmarks, H₁ and sublevel persistence against gudhi and ripser."""

from __future__ import annotations

import gudhi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ripser import ripser
from scipy.optimize import linear_sum_assignment

from topowatch_monitor.topology import h1_diagram, maxmin_landmarks, sublevel_persistence, total_persistence
from topowatch_monitor.topology.persistence import MAX_PIXELS, MAX_POINTS


def distances_of(points: np.ndarray) -> np.ndarray:
    wide = np.asarray(points, dtype=np.float64)
    return np.sqrt(((wide[:, None] - wide[None]) ** 2).sum(axis=2))


def same_bars(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Whether two diagrams are equal as multisets of pairs, matched as pairs and never sorted apart."""
    if len(found) != len(expected):
        return False
    if not len(found):
        return True
    with np.errstate(invalid="ignore"):
        gaps = np.abs(found[:, None] - expected[None])
    gaps[np.isnan(gaps)] = 0.0  # inf − inf: both never die
    cost = np.minimum(gaps.max(axis=2), 1e9)
    return bool(cost[linear_sum_assignment(cost)].max() <= tolerance)


def circle(count: int, seed: int, noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) + noise * rng.standard_normal((count, 2))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["gauss", "circle", "grid", "line", "equal", "offset"]),
    count=st.integers(1, 30),
    seed=st.integers(0, 10**6),
)
def test_h1_equals_ripser_and_gudhi_bar_by_bar(kind, count, seed):
    rng = np.random.default_rng(seed)
    points = {
        "gauss": rng.standard_normal((count, 3)),
        "circle": circle(count, seed, 0.1),
        "grid": rng.integers(0, 4, (count, 2)),
        "line": np.outer(rng.standard_normal(count), [1.0, 2.0]),
        "equal": np.ones((count, 2)),
        "offset": 1e3 + 1e-2 * rng.standard_normal((count, 4)),
    }[kind].astype(np.float32)
    diagram, radius = h1_diagram(points)
    assert radius == 0.0
    # Single precision makes and ends tiny bars by itself; only longer ones are facts.
    distances = distances_of(points)
    tolerance = 1e-5 * max(1e-12, distances.max())
    long = diagram[diagram[:, 1] - diagram[:, 0] > 10 * tolerance]
    complex_ = gudhi.RipsComplex(distance_matrix=distances).create_simplex_tree(max_dimension=2)
    complex_.compute_persistence()
    by_gudhi = complex_.persistence_intervals_in_dimension(1).reshape(-1, 2)
    by_ripser = ripser(distances, maxdim=1, distance_matrix=True)["dgms"][1]
    for expected in (by_gudhi, by_ripser):
        assert same_bars(long, expected[expected[:, 1] - expected[:, 0] > 10 * tolerance], 3 * tolerance)


def test_a_circle_has_one_long_bar_and_landmarks_move_it_by_at_most_twice_the_cover_radius():
    points = circle(200, seed=0)
    full, none = h1_diagram(points)
    few, radius = h1_diagram(points, 40)
    assert len(full) == 1
    assert none == 0.0
    assert 0 < radius < 0.2
    longest = few[np.argmax(few[:, 1] - few[:, 0])]
    assert np.abs(longest - full[0]).max() <= 2 * radius


@pytest.mark.parametrize(("counts", "radii"), [((12, 12), (1, 1)), ((12, 15), (1, 1.4)), ((16, 9), (1, 2))])
def test_a_torus_has_the_loops_that_kuenneth_counts(counts, radii):
    """In the maximum metric the complex of a product is the product of complexes, at every scale.

    So H₁ holds each loop of one circle once for every component that the other circle has at that scale.
    """
    factors = [distances_of(radius * circle(count, 0)) for count, radius in zip(counts, radii, strict=True)]
    distances = np.maximum(
        np.kron(factors[0], np.ones((counts[1], counts[1]))), np.kron(np.ones((counts[0], counts[0])), factors[1])
    )
    expected = []
    for one, other in (factors, factors[::-1]):
        (birth, death), gap = h1_diagram(one, precomputed=True)[0][0], np.sort(other, axis=1)[:, 1].max()
        expected += [(birth, death)] + [(birth, min(death, gap))] * (len(other) - 1 if gap > birth * (1 + 1e-5) else 0)
    diagram, radius = h1_diagram(distances, precomputed=True)
    assert radius == 0.0
    assert len(diagram) == {(1, 1): 2, (1, 1.4): 16, (1, 2): 10}[radii]
    assert same_bars(diagram, np.array(expected), 1e-5)


def test_a_torus_in_three_dimensions_has_two_long_bars_as_ripser_finds_them():
    rng = np.random.default_rng(0)
    around, along = 2 * np.pi * rng.random((2, 4000))
    ring = 2 + np.cos(along)
    points = np.stack([ring * np.cos(around), ring * np.sin(around), np.sin(along)], axis=1)
    picked, radius = maxmin_landmarks(points, 250)
    diagram, same_radius = h1_diagram(points, 250)
    assert radius == same_radius
    lengths = np.sort(diagram[:, 1] - diagram[:, 0])[::-1]
    assert lengths[1] > 3 * lengths[2]
    by_ripser = ripser(distances_of(points[picked]), maxdim=1, distance_matrix=True)["dgms"][1]
    long = by_ripser[by_ripser[:, 1] - by_ripser[:, 0] > 1e-4]
    assert same_bars(diagram[diagram[:, 1] - diagram[:, 0] > 1e-4], long, 1e-5)


def test_points_and_their_distance_matrix_give_the_same_diagram():
    points = np.random.default_rng(4).standard_normal((60, 5)).astype(np.float32)
    by_points, radius = h1_diagram(points, 30)
    by_distances, same_radius = h1_diagram(distances_of(points), 30, precomputed=True)
    assert radius == pytest.approx(same_radius, rel=1e-6)
    np.testing.assert_allclose(by_points, by_distances, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_fewer_than_four_points_have_no_loop(count):
    diagram, radius = h1_diagram(np.eye(3)[:count])
    assert diagram.shape == (0, 2)
    assert radius == 0.0


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 40), m=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_maxmin_equals_its_slow_twin_and_its_radius_covers_every_point(count, m, seed):
    points = np.random.default_rng(seed).integers(0, 6, (count, 3)).astype(np.float32)
    picked, radius = maxmin_landmarks(points, m)
    distances = distances_of(points)
    slow = [0]
    while len(slow) < m:
        to_nearest = distances[:, slow].min(axis=1)
        if to_nearest.max() == 0:
            break
        slow.append(int(np.argmax(to_nearest.astype(np.float32))))
    assert picked.tolist() == slow
    assert radius == pytest.approx(distances[:, slow].min(axis=1).max(), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: h1_diagram(np.zeros((5, 2)), 301), "1 to 300 landmarks, not 301"),
        (lambda: h1_diagram(np.zeros((5, 2)), 0), "not 0"),
        (lambda: h1_diagram(np.zeros((MAX_POINTS + 1, 1))), "thin them out"),
        (lambda: h1_diagram(np.full((5, 2), np.nan)), "finite"),
        (lambda: h1_diagram(np.zeros(5)), "n × d points"),
        (lambda: h1_diagram(np.zeros((5, 2)), precomputed=True), "distance matrix"),
    ],
)
def test_h1_refuses_what_it_cannot_do_and_says_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def by_gudhi(grid: np.ndarray) -> np.ndarray:
    complex_ = gudhi.CubicalComplex(vertices=grid)
    bars = [(birth, death, dimension) for dimension, (birth, death) in complex_.persistence(min_persistence=0)]
    return np.array([bar for bar in bars if bar[1] > bar[0]], dtype=float).reshape(-1, 3)


@settings(max_examples=150, deadline=None)
@given(
    grid=arrays(np.int64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 5)),
    scale=st.sampled_from([1.0, 1e-6, 1e6]),
)
def test_sublevel_persistence_equals_gudhi_with_pixels_as_vertices(grid, scale):
    """Ties and saddles everywhere: where the two constructions of cubical complexes differ, this tells them apart."""
    values = grid * scale - 2 * scale
    assert same_bars(sublevel_persistence(values), by_gudhi(values), 1e-12 * scale)


def test_two_basins_meet_at_the_pass_and_a_ring_encloses_its_peak():
    basins = np.array([[0.0, 3.0, 1.0]])
    assert sublevel_persistence(basins).tolist() == [[0.0, np.inf, 0.0], [1.0, 3.0, 0.0]]
    ring = np.array([[1.0, 1.0, 1.0], [1.0, 7.0, 1.0], [1.0, 1.0, 1.0]])
    assert sublevel_persistence(ring).tolist() == [[1.0, np.inf, 0.0], [1.0, 7.0, 1.0]]


def test_corner_neighbours_are_not_connected():
    """Pixels taken as squares would touch at the corner and merge at once."""
    diagonal = np.array([[0.0, 5.0], [5.0, 0.0]])
    assert sublevel_persistence(diagonal).tolist() == [[0.0, 5.0, 0.0], [0.0, np.inf, 0.0]]


def test_an_infinite_wall_keeps_basins_apart_for_ever():
    walled = np.array([[0.0, np.inf, 1.0]])
    assert sublevel_persistence(walled).tolist() == [[0.0, np.inf, 0.0], [1.0, np.inf, 0.0]]
    assert sublevel_persistence(np.full((2, 2), np.inf)).shape == (0, 3)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (np.zeros((0, 3)), "at least one entry"),
        (np.zeros(4), "is a matrix"),
        (np.array([[np.nan]]), "NaN"),
        (np.array([[-np.inf]]), "−inf"),
        (np.broadcast_to(0.0, (MAX_PIXELS + 1, 1)), "more coarsely"),
    ],
)
def test_sublevel_persistence_refuses_what_is_no_grid(grid, message):
    with pytest.raises(ValueError, match=message):
        sublevel_persistence(grid)


def test_total_persistence_sums_powers_of_the_bars_that_die():
    diagram = [[0.0, 2.0], [1.0, 4.0], [0.0, np.inf]]
    assert total_persistence(diagram) == 5.0
    assert total_persistence(diagram, power=2) == 13.0
    assert total_persistence(np.empty((0, 2))) == 0.0
