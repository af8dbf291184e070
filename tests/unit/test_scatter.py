"""Loops against the scatter of Gaussian groups with the same mean path and covariance."""

from __future__ import annotations

import numpy as np
import pytest

from planted_paths import around, embedded, hole_free
from topowatch_monitor.topology import classify_paths
from topowatch_monitor.topology.loops import find_loops
from topowatch_monitor.topology.scatter import SCATTER_ALPHA, _gaussian_groups, scatter_p_values

OPTIONS = {"landmarks": 200, "prime": 41, "relative": True}
# Law of noise below which loops are compared with scatter here.
CLEAR = 1e-4


def test_gaussian_groups_have_the_mean_and_the_covariance_of_the_paths() -> None:
    """Over many groups both converge to those that the paths have."""
    rng = np.random.default_rng(1)
    paths = rng.standard_normal((16, 5, 2)).cumsum(axis=1)
    groups = _gaussian_groups(paths)
    drawn = np.concatenate([np.array(next(groups)) for _ in range(4000)]).reshape(-1, 10)
    flat = paths.reshape(16, 10)
    spread = np.sqrt(np.diag(np.cov(flat.T)))
    assert np.abs(drawn.mean(axis=0) - flat.mean(axis=0)).max() < 0.02 * spread.max()
    assert np.abs(np.cov(drawn.T) - np.cov(flat.T)).max() < 0.02 * spread.max() ** 2


def p_values(paths: list[np.ndarray]) -> tuple[np.ndarray, list[float]]:
    """Chance of scatter of each loop that beats the law of noise, and the share of the paths that it parts."""
    loops = find_loops(paths, dims=3, **OPTIONS)
    assert loops is not None
    assert loops.p_values is not None
    clear = np.flatnonzero(loops.p_values[loops.alive] < CLEAR)
    return scatter_p_values(loops, clear, paths, **OPTIONS), [loops.parted(int(number)) for number in clear]


def test_a_hole_between_two_halves_is_no_scatter() -> None:
    """Gaussian paths do not leave out the middle."""
    found, parted = p_values(around(24, 0, radius=0.8, width=0.15, winding=0.0)[0])
    assert found.size
    assert found[int(np.argmax(parted))] < SCATTER_ALPHA


# Groups without a hole in which one or two paths stray so that a loop beats the law of noise.
STRAYS = [
    ("fan", 24, 8),
    *(pytest.param("approach", 12, seed, marks=pytest.mark.slow) for seed in (5, 31)),
]


@pytest.mark.parametrize(("kind", "runs", "seed"), STRAYS)
def test_a_path_that_strays_among_gaussian_ones_is_scatter(kind: str, runs: int, seed: int) -> None:
    """The law of noise alone would call it a class of its own."""
    paths = hole_free(kind, runs, seed, lateral=1)
    loops = find_loops(paths, landmarks=400, dims=3, prime=41, relative=True)
    assert loops is not None
    assert loops.p_values is not None
    assert (loops.p_values[loops.alive] < CLEAR).any()
    classes = classify_paths(paths)
    assert classes.abstained
    assert "scatter" in classes.reason
    assert classes.best_p > SCATTER_ALPHA


def test_a_loop_that_all_paths_go_round_alike_is_not_compared() -> None:
    """It splits nobody, and a Gaussian group has it as well, as its mean path goes round."""
    rng = np.random.default_rng(3)
    t = np.linspace(0.0, 1.0, 120)
    rings = []
    for _ in range(14):
        angle = 2 * np.pi * t * 1.25
        radius = 1.0 + 0.03 * rng.standard_normal() * np.sin(np.pi * t)
        rings.append(np.column_stack([radius * np.cos(angle), radius * np.sin(angle)]))
    paths = embedded(rings, 5, 0.005, rng)
    loops = find_loops(paths, dims=3, **OPTIONS)
    assert loops is not None
    assert loops.p_values is not None
    clear = np.flatnonzero(loops.p_values[loops.alive] < CLEAR)
    ring = clear[np.argmax(loops.bars[loops.alive[clear], 1])]
    assert loops.parted(int(ring)) == 0.0
    assert scatter_p_values(loops, np.array([ring]), paths, **OPTIONS) == 0.0


def test_the_same_paths_get_the_same_answer() -> None:
    """The Gaussian groups are drawn from a seed of their own."""
    paths = around(14, 4)[0]
    first, _ = p_values(paths)
    np.random.default_rng().standard_normal(7)
    second, _ = p_values(paths)
    assert np.array_equal(first, second)
