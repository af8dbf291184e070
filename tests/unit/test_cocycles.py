"""Persistent cocycles: integers that add up to zero around every living triangle, and turns around every loop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import cdist, squareform

from topowatch_monitor.topology.cocycles import Cocycle, persistent_cocycles

PRIME = 41


def distances_of(points: np.ndarray) -> np.ndarray:
    return cdist(points, points).astype(np.float32)


def longest(points: np.ndarray, count: int, prime: int = PRIME) -> list[Cocycle]:
    """The cocycles of the longest bars."""
    found = persistent_cocycles(distances_of(points), prime, 0.0)[1]
    return sorted(found, key=lambda cocycle: cocycle.birth - cocycle.death)[:count]


def around(cocycle: Cocycle, walk: list[int]) -> int:
    """What a closed walk counts."""
    sums = sum(int(cocycle.values[here, there]) for here, there in zip(walk, [*walk[1:], walk[0]], strict=True))
    return int(cocycle.fold(np.array([sums]))[0])


def ring(count: int, radius: float = 1.0) -> np.ndarray:
    angle = 2.0 * np.pi * np.arange(count) / count
    return radius * np.column_stack([np.cos(angle), np.sin(angle)])


def glued_disc(fold: int, rings: int, rim: int) -> np.ndarray:
    """Distances on a disc whose rim is wound `fold` times around a circle: that circle bounds only `fold` times over.

    Equal points of the rim are joined by edges that are next to nothing; zero would be no edge.
    """
    circles = [ring(rim, (number + 1) / rings) for number in range(rings)]
    points = np.concatenate([np.zeros((1, 2)), *circles])
    distances = cdist(points, points)
    edge = len(points) - rim
    for one, turn in itertools.product(range(rim), range(1, fold)):
        distances[edge + one, edge + (one + turn * rim // fold) % rim] = 1e-7
    kept = np.arange(edge + rim // fold)
    return shortest_path(distances)[np.ix_(kept, kept)].astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["plane", "ring", "grid", "no metric"]),
    count=st.integers(4, 16),
    prime=st.sampled_from([3, 5, 41]),
    seed=st.integers(0, 10**6),
)
def test_values_are_antisymmetric_and_add_up_to_zero_on_every_living_triangle(kind, count, prime, seed):
    """Every triangle of edges below the death, one by one: zero, or a multiple of the prime where no lift was found."""
    rng = np.random.default_rng(seed)
    distances = {
        "plane": lambda: distances_of(rng.standard_normal((count, 2))),
        "ring": lambda: distances_of(ring(count) + 0.1 * rng.standard_normal((count, 2))),
        "grid": lambda: distances_of(rng.integers(0, 4, (count, 2))),
        "no metric": lambda: squareform(rng.integers(1, 9, count * (count - 1) // 2)).astype(np.float32),
    }[kind]()
    bars, cocycles, alive = persistent_cocycles(distances, prime, 0.0)
    assert len(cocycles) == len(alive) == len(bars)
    for cocycle, (birth, death) in zip(cocycles, bars, strict=True):
        values = cocycle.values.astype(int)
        assert (cocycle.birth, cocycle.death) == (birth, death)
        assert birth < death
        assert np.array_equal(values, -values.T)
        assert np.abs(values).max() <= prime // 2
        assert values.any()
        for i, j, k in itertools.combinations(range(count), 3):
            if max(distances[i, j], distances[j, k], distances[i, k]) < np.float32(death):
                total = values[i, j] + values[j, k] + values[k, i]
                assert (total % cocycle.modulus if cocycle.modulus else total) == 0


@pytest.mark.parametrize("prime", [3, 41])
@pytest.mark.parametrize("count", [8, 25, 60])
def test_once_around_a_circle_counts_one_and_there_and_back_nothing(count, prime):
    (cocycle,) = longest(ring(count), 1, prime)
    there = list(range(count))
    assert cocycle.modulus == 0
    assert abs(around(cocycle, there)) == 1
    assert around(cocycle, there[::-1]) == -around(cocycle, there)
    assert around(cocycle, there + there) == 2 * around(cocycle, there)
    assert around(cocycle, there + there[::-1]) == 0
    assert around(cocycle, [0, 1, 2, 1]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_loops_in_an_annulus_count_their_turns_whichever_way_they_wind(seed):
    """Walks of short edges through an annulus, wobbling in and out: the integral is the turning number."""
    rng = np.random.default_rng(seed)
    angle, radius = 2.0 * np.pi * rng.random(250), 1.0 + 0.6 * rng.random(250)
    points = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    (cocycle,) = longest(points, 1)
    t = np.linspace(0.0, 1.0, 400, endpoint=False)
    unit = None
    for turns in (1, 0, -1, 2, 3):
        bearing = 2.0 * np.pi * (turns * t + 0.2 * np.sin(2.0 * np.pi * t))
        away = 1.3 + 0.25 * np.sin(2.0 * np.pi * (3 * t + rng.random()))
        line = away[:, None] * np.column_stack([np.cos(bearing), np.sin(bearing)])
        walk = cdist(line, points).argmin(axis=1).tolist()
        steps = np.linalg.norm(points[walk] - points[np.roll(walk, -1)], axis=1)
        assert steps.max() < cocycle.death
        unit = around(cocycle, walk) if unit is None else unit
        assert abs(unit) == 1
        assert around(cocycle, walk) == turns * unit


@pytest.mark.parametrize(("first", "second"), [(10, 12), (14, 9)])
def test_the_two_loops_of_a_torus_are_a_basis_and_its_diagonal_is_their_sum(first, second):
    """Counts of the two circles on the two cocycles have determinant ±1: nothing is missed, nothing counted twice."""
    one, other = (grid.ravel() for grid in np.meshgrid(np.arange(first), np.arange(second), indexing="ij"))
    points = np.column_stack([ring(first)[one], ring(second, 1.05)[other]])
    cocycles = longest(points, 2)
    walks = [
        [number * second for number in range(first)],
        list(range(second)),
        [(step * first // 70 % first) * second + step * second // 70 % second for step in range(70)],
    ]
    counts = np.array([[around(cocycle, walk) for cocycle in cocycles] for walk in walks])
    assert all(cocycle.modulus == 0 for cocycle in cocycles)
    assert round(abs(np.linalg.det(counts[:2]))) == 1
    assert counts[2].tolist() == (counts[0] + counts[1]).tolist()


@pytest.mark.parametrize(("fold", "rings", "rim"), [(3, 3, 15), (5, 4, 20)])
def test_a_loop_that_bounds_three_times_over_counts_modulo_three_alone_and_says_so(fold, rings, rim):
    """Torsion: no integer cocycle reduces to this one, so none is claimed; over another prime there is no long bar."""
    distances = glued_disc(fold, rings, rim)
    bars, cocycles, alive = persistent_cocycles(distances, fold, 0.0)
    number = int(np.argmax(bars[:, 1] - bars[:, 0]))
    cocycle = cocycles[int(np.flatnonzero(alive == number)[0])]
    assert cocycle.modulus == fold
    loop = list(range(len(distances) - rim // fold, len(distances)))
    assert around(cocycle, loop) != 0
    assert around(cocycle, loop * fold) == 0
    elsewhere = persistent_cocycles(distances, PRIME, 0.0)[0]
    assert (elsewhere[:, 1] - elsewhere[:, 0]).max() < bars[number, 1] - bars[number, 0]
    assert elsewhere[:, 1].max() < bars[number, 1]


def test_folding_leaves_integers_and_takes_residues_between_minus_and_plus_half_the_prime():
    sums = np.arange(-100, 101)
    values = np.zeros((2, 2), dtype=np.int16)
    assert Cocycle(0.0, 1.0, values, 0).fold(sums).tolist() == sums.tolist()
    for prime in (3, 5, 41):
        folded = Cocycle(0.0, 1.0, values, prime).fold(sums)
        assert ((folded - sums) % prime == 0).all()
        assert folded.min() == -(prime // 2)
        assert folded.max() == prime // 2


def test_only_bars_that_die_above_the_scale_have_cocycles():
    points = np.random.default_rng(0).random((60, 2))
    bars, every, _ = persistent_cocycles(distances_of(points), PRIME, 0.0)
    scale = float(np.median(bars[:, 1]))
    same, some, alive = persistent_cocycles(distances_of(points), PRIME, scale)
    assert np.array_equal(bars, same)
    assert alive.tolist() == np.flatnonzero(bars[:, 1] > scale).tolist()
    assert 0 < len(some) < len(every)
    for cocycle, number in zip(some, alive, strict=True):
        assert np.array_equal(cocycle.values, every[number].values)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_than_four_points_have_no_loop(count):
    distances = 1.0 - np.eye(count, dtype=np.float32)
    bars, cocycles, alive = persistent_cocycles(distances, PRIME, 0.0)
    assert (bars.shape, cocycles, len(alive)) == ((0, 2), [], 0)
