"""Groups of paths whose classes are known: told apart where a hole stands clear, left alone where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from path_words import homology, spelled
from planted_paths import HOLE_FREE, around, embedded, hole_free, same, times
from topowatch_monitor.topology import PathClasses
from topowatch_monitor.topology import classify_paths as classify

# Holes that stand clear: wide, and with runs close to their rim.
CLEAR = {"radius": 0.8, "width": 0.15}
# Noise of every coordinate that reaches over half of such a hole's radius in three dimensions: σ√3 > 0.4.
DROWNING = 0.26


def classify_paths(paths: list[np.ndarray], **options: Any) -> PathClasses:
    """Half the usual landmarks cost an eighth and are enough for holes that stand clear."""
    return classify(paths, landmarks=200, **options)


def assert_classes(found: PathClasses, truth: list) -> None:
    """The classes are those of the truth, whatever their numbers."""
    assert not found.abstained, found.reason
    assert found.reason == ""
    assert np.array_equal(same(found.labels.tolist()), same(truth))


def assert_abstains(found: PathClasses) -> None:
    assert found.abstained
    assert found.reason
    assert not found.labels.any()
    assert found.signatures.shape == (len(found.labels), 0)
    assert len(found.bars) == len(found.p_values) == 0


@pytest.mark.parametrize(("holes", "runs", "seed"), [(1, 24, 1), (2, 48, 0), (3, 72, 1)])
def test_paths_past_planted_holes_are_sorted_by_their_turns_around_each(holes, runs, seed):
    """Over and under, and once more around: one integer class of H¹ for every hole, and the classes of the truth."""
    paths, truth = around(runs, seed, holes=holes, **CLEAR)
    found = classify(paths)
    assert len(found.bars) == holes
    assert found.lifted
    assert_classes(found, truth)


@pytest.mark.parametrize("seed", range(2))
def test_one_turn_more_counts_two_half_turns_more(seed):
    """Signatures are turns: with one hole they differ by half the difference of the half turns, up to one sign."""
    paths, truth = around(30, seed, winding=0.5, **CLEAR)
    signatures = classify_paths(paths).signatures[:, 0]
    turns = np.array(truth)[:, 0] // 2
    differences = signatures - signatures[0]
    sign = np.sign(differences @ (turns - turns[0]))
    assert len(set(truth)) == 4
    assert np.array_equal(differences, sign * (turns - turns[0]))


@pytest.mark.parametrize("dims", [2, 3, 10, 50, 200])
def test_the_dimension_of_the_space_does_not_matter(dims):
    paths, truth = around(24, 5, dims=dims, **CLEAR)
    assert_classes(classify_paths(paths), truth)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_noise_below_the_size_of_the_hole_does_not_matter(noise):
    paths, truth = around(30, 7, noise=noise, dims=20, **CLEAR)
    assert_classes(classify_paths(paths), truth)


def test_paths_of_thirty_and_of_fifteen_hundred_points_are_compared():
    paths, truth = around(36, 0, samples=(30, 1500), noise=0.05, dims=30, **CLEAR)
    assert max(map(len, paths)) > 10 * min(map(len, paths))
    assert_classes(classify_paths(paths), truth)


@pytest.mark.parametrize("relative", [True, False])
def test_paths_that_end_far_apart_behind_the_hole_are_sorted_by_the_side_they_passed_on(relative):
    rng = np.random.default_rng(3)
    paths, truth = around(48, 3, dims=2, noise=0.0, ends=0.02, **CLEAR)
    ahead = np.mean([path[-1] - path[0] for path in paths], axis=0) / 2.0
    aside = np.array([-ahead[1], ahead[0]])
    on = np.linspace(0.0, 1.0, 30)[1:, None]
    tails = [path[-1] + on * (2.0 * ahead + rng.uniform(-1.5, 1.5) * aside) for path in paths]
    longer = embedded([np.concatenate(pair) for pair in zip(paths, tails, strict=True)], 10, 0.01, rng)
    assert_classes(classify_paths(longer, relative=relative), truth)


@pytest.mark.parametrize("seed", range(2))
def test_without_one_terminal_point_the_ends_are_closed_near_the_end(seed):
    """Ends scatter to both sides of the hole's axis: closed over the start, they would be closed around either side."""
    paths, truth = around(36, seed, **CLEAR)
    assert_classes(classify_paths(paths, relative=False), truth)


def forked(runs: int, seed: int) -> tuple[list[np.ndarray], list[float]]:
    """Two bundles from one point that end apart, with nothing between their ends."""
    rng = np.random.default_rng(seed)
    paths, sides = [], []
    for _ in range(runs):
        side, t = float(rng.choice([-1, 1])), times(rng, 40, 120)
        aside = side * t**1.5 + 0.1 * rng.standard_normal() * t + 0.05 * rng.standard_normal() * np.sin(2 * np.pi * t)
        paths.append(np.column_stack([2.0 * t, aside, 0.05 * rng.standard_normal() * np.sin(np.pi * t)]))
        sides.append(side)
    return embedded(paths, 10, 0.01, rng), sides


@pytest.mark.parametrize("seed", range(2))
def test_bundles_that_end_apart_bound_a_hole_relative_to_their_ends_and_none_otherwise(seed):
    paths, sides = forked(32, seed)
    assert_classes(classify_paths(paths), sides)
    assert_abstains(classify_paths(paths, relative=False))


def test_runs_between_two_bundles_that_end_apart_close_the_hole():
    """The same fork, and as many runs over the territory between its prongs."""
    rng = np.random.default_rng(0)
    between = []
    for share in np.linspace(-1.0, 1.0, 40):
        t = times(rng, 40, 120)
        between.append(np.column_stack([2.0 * t, share * t**1.5, np.zeros(len(t))]))
    for_both = np.random.default_rng(1)
    prongs = [between[index] for index in for_both.choice([0, 1, 38, 39], 24)]
    assert not classify_paths(embedded(prongs, 10, 0.01, for_both)).abstained
    assert_abstains(classify_paths(embedded(prongs + between, 10, 0.01, for_both)))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("noise", [DROWNING, 0.4])
def test_a_hole_that_noise_drowns_is_left_alone(noise, seed):
    """Noise is judged after the reduction: the same hole is found in a tenth of it, in the same 20 dimensions."""
    paths, truth = around(24, seed, noise=noise, dims=20, **CLEAR)
    assert_abstains(classify_paths(paths))
    quieter, same_truth = around(24, seed, noise=noise / 10.0, dims=20, **CLEAR)
    assert same_truth == truth
    assert_classes(classify_paths(quieter), truth)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("lateral", [1, 2])
@pytest.mark.parametrize("kind", HOLE_FREE)
def test_a_group_over_territory_without_a_hole_is_one_class(kind, lateral, seed):
    assert_abstains(classify_paths(hole_free(kind, 24, seed, lateral=lateral)))


@pytest.mark.parametrize("seed", range(2))
def test_a_hole_that_needs_three_axes_is_not_seen_in_two(seed):
    """A limit that is documented: the runs spread more along the hole than across it, so two axes lay it flat."""
    flat, truth = around(80, seed, radius=1.0, width=0.05, dims=2, noise=0.0, winding=0.0)
    rng = np.random.default_rng(seed)
    deep = [
        np.column_stack([path, 2.0 * rng.uniform(-1, 1) * np.sin(np.pi * np.linspace(0, 1, len(path)))])
        for path in flat
    ]
    paths = embedded(deep, 10, 0.01, rng)
    two = classify_paths(paths, dims=2)
    assert_abstains(two)
    assert two.explained < 0.9
    assert_classes(classify_paths(paths, dims=3), truth)


def test_loops_that_commute_in_homology_alone_are_not_told_apart():
    """A limit that is documented: the commutator of two loops is no constant path, and counts as one; ab is ba."""
    words = ["", "a", "A", "b", "B", "ab", "ba", "abAB", "aBAb", "aa", "bb", "BB"] * 3
    found = classify(spelled(words, 0))
    assert_classes(found, [homology(word) for word in words])
    labels = dict(zip(words, found.labels.tolist(), strict=True))
    assert labels["abAB"] == labels["aBAb"] == labels[""]
    assert labels["ab"] == labels["ba"] != labels[""]
