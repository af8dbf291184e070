"""A live path on the atlas of its siblings: batch and stream agree, prefixes keep their class, strangers are off."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from planted_paths import around
from topowatch_monitor.topology import PathClasses, PathTracker, classify_paths

MEMBERS = 36
SIDES = (1,), (-1,)


@cache
def planted(seed: int = 0, *, relative: bool = True) -> tuple[PathClasses, list[np.ndarray], list[tuple[int, ...]]]:
    """Classes of the first runs around one hole, and all runs with their turns, some held out."""
    paths, truth = around(MEMBERS + 10, seed, radius=0.8, width=0.15, winding=0.2, samples=(25, 60))
    classes = classify_paths(paths[:MEMBERS], landmarks=200, relative=relative)
    assert not classes.abstained
    return classes, paths, truth


def tracked(classes: PathClasses, points: np.ndarray) -> PathTracker:
    tracker = PathTracker(classes.atlas)
    for point in points:
        tracker.add(point)
    return tracker


def label_of(classes: PathClasses, truth: list[tuple[int, ...]], turns: tuple[int, ...]) -> int:
    (label,) = {int(label) for label, other in zip(classes.labels, truth, strict=False) if other == turns}
    return label


def resampled(path: np.ndarray, count: int) -> np.ndarray:
    """The same polyline, at its corners and at `count` moments more."""
    moments = np.sort(np.append(np.arange(len(path)), np.linspace(0, len(path) - 1, count)))
    return np.column_stack([np.interp(moments, np.arange(len(path)), column) for column in path.T])


@pytest.mark.parametrize(("seed", "relative"), [(0, True), (0, False), (2, True)])
def test_a_member_fed_point_by_point_ends_with_the_signature_of_the_batch(seed, relative):
    """The same road in a batch and as a stream; ends lie so close here that closing them counts nothing."""
    classes, paths, _ = planted(seed, relative=relative)
    for path, signature in zip(paths[:24], classes.signatures[:24], strict=True):
        tracker = tracked(classes, path)
        assert tracker.signature.tolist() == signature.tolist()
        assert tracker.distance == 0.0


@pytest.mark.parametrize("seed", [0, 2])
def test_prefixes_of_paths_held_out_are_compatible_with_their_class_wherever_they_are_on_the_map(seed):
    """Every class has at least three members here: one that passes nowhere near a live run says nothing about it."""
    classes, paths, truth = planted(seed)
    assert np.bincount(classes.labels).min() >= 3
    on_map = 0
    for path, turns in zip(paths[MEMBERS:], truth[MEMBERS:], strict=True):
        tracker, own = PathTracker(classes.atlas), label_of(classes, truth, turns)
        for point in path:
            tracker.add(point)
            if tracker.distance == 0.0:
                on_map += 1
                assert own in tracker.compatible()
            else:
                assert tracker.compatible() == frozenset()
    assert on_map > 0.95 * sum(map(len, paths[MEMBERS:]))


@pytest.mark.parametrize("seed", [0, 2])
def test_behind_the_hole_the_other_side_is_ruled_out_and_in_front_of_it_nothing_is(seed):
    classes, paths, truth = planted(seed)
    over, under = (label_of(classes, truth, side) for side in SIDES)
    held_out = [(path, turns) for path, turns in zip(paths[MEMBERS:], truth[MEMBERS:], strict=True) if turns in SIDES]
    assert {turns for _, turns in held_out} == set(SIDES)
    for path, turns in held_out:
        tracker = tracked(classes, path[:1])
        assert {over, under} <= tracker.compatible()
        for point in path[1:]:
            tracker.add(point)
        assert {over, under} & tracker.compatible() == {over if turns == (1,) else under}


def test_another_representative_of_the_cocycles_changes_no_answer():
    """A coboundary adds to every edge, so that every loop has to be closed by the edges between paths as well."""
    classes, paths, _ = planted()
    atlas = classes.atlas
    potential = np.random.default_rng(0).integers(-50, 50, len(atlas.landmarks))
    visits = atlas.visits.copy()
    visits[:, 2:] += potential[visits[:, 1]][:, None]
    other = replace(
        atlas,
        values=(atlas.values + potential[None, None, :] - potential[None, :, None]).astype(np.int16),
        closing=atlas.closing + potential[:, None],
        visits=visits,
    )
    for path in (*paths[:6], *paths[MEMBERS:]):
        one, two = PathTracker(atlas), PathTracker(other)
        for point in path:
            one.add(point)
            two.add(point)
            assert two.compatible() == one.compatible()
            assert two.p_value == one.p_value


def test_a_path_and_its_finer_sampling_end_alike_and_there_and_back_counts_nothing():
    classes, paths, _ = planted()
    for path in paths[MEMBERS : MEMBERS + 5]:
        tracker = tracked(classes, path)
        signature = tracker.signature.tolist()
        assert tracked(classes, resampled(path, 100)).signature.tolist() == signature
        assert tracked(classes, np.repeat(path, 3, axis=0)).signature.tolist() == signature
        begun = tracked(classes, path[:1]).signature.tolist()
        for point in path[-2::-1]:
            tracker.add(point)
        assert tracker.signature.tolist() == begun


def test_raw_counts_are_additive_and_negated_backwards():
    """Whole loops over one run's way and back by another's, put after each other and turned round."""
    classes, paths, truth = planted()
    over, under = (paths[truth.index(side)] for side in SIDES)
    start = tracked(classes, over[:1]).signature
    there = tracked(classes, np.concatenate([over, under[::-1], over[:1]])).signature - start
    again = tracked(classes, np.concatenate([over, under[::-1], over, under[::-1], over[:1]])).signature - start
    back = tracked(classes, np.concatenate([over[:1], under, over[::-1]])).signature - start
    assert np.abs(there).tolist() == [1]
    assert again.tolist() == (2 * there).tolist()
    assert back.tolist() == (-there).tolist()


def test_every_addition_returns_the_signature_and_none_is_kept_waiting():
    classes, paths, _ = planted()
    tracker = PathTracker(classes.atlas)
    assert tracker.compatible() == frozenset()
    assert tracker.distance == 0.0
    for point in paths[0]:
        assert tracker.add(point).tolist() == tracker.signature.tolist()


def test_a_stranger_is_off_the_map_by_its_distance_in_the_unit_of_the_points():
    """A straight way out in the plane of the runs, then out of it: the distance grows with the way, nothing fits."""
    classes, paths, _ = planted()
    atlas = classes.atlas
    middle = np.mean([path[0] for path in paths], axis=0)
    before = middle - np.mean([path[-1] for path in paths], axis=0)
    normal = np.linalg.svd(np.concatenate(paths) - middle)[2][-1]
    for way in (before / np.linalg.norm(before), normal):
        tracker, seen = tracked(classes, paths[0][:1]), []
        for far in (1.0, 3.0, 9.0):
            tracker.add(middle + far * way)
            assert tracker.compatible() == frozenset()
            assert tracker.p_value == 1.0
            seen.append(tracker.distance)
        slack = 2.0 * atlas.cover * atlas.unit + 2.0 * atlas.projection.residual + 1.0
        assert seen[0] > 0.0
        for distance, far in zip(seen, (1.0, 3.0, 9.0), strict=True):
            assert far - slack <= distance <= far + 0.1
        tracker.add(paths[0][0])
        assert tracker.distance == 0.0
        assert tracker.compatible()


def test_a_path_backwards_is_on_the_map_and_told_by_its_turns_alone():
    """From the terminal point all ways back look alike at first: direction is no part of a class, turns are."""
    classes, paths, _ = planted()
    for path in paths[MEMBERS:]:
        backwards = tracked(classes, path[::-1])
        assert backwards.distance == 0.0
        forwards = tracked(classes, path).signature
        begun = tracked(classes, path[-1:]).signature
        assert (backwards.signature - begun).tolist() == (-(forwards - tracked(classes, path[:1]).signature)).tolist()


@pytest.mark.parametrize(
    "point",
    [
        np.full(10, np.nan),
        np.append(np.zeros(9), np.inf),
        np.full(10, 1e154),
        np.zeros(9),
        np.zeros(11),
        np.zeros((1, 10)),
        0.0,
        [],
    ],
)
def test_what_is_no_point_is_refused_and_the_path_stays_where_it_was(point):
    classes, paths, _ = planted()
    tracker = tracked(classes, paths[0][:10])
    before = (tracker.signature.tolist(), tracker.distance, tracker.compatible(), tracker.p_value)
    with pytest.raises(ValueError, match="10 finite numbers"):
        tracker.add(point)
    assert (tracker.signature.tolist(), tracker.distance, tracker.compatible(), tracker.p_value) == before
    for rest in paths[0][10:]:
        tracker.add(rest)
    assert tracker.signature.tolist() == classes.signatures[0].tolist()


@cache
def with_majority() -> tuple[PathClasses, np.ndarray, np.ndarray]:
    """Three of four members pass on one side; and a run of each side that is none of them."""
    paths, truth = around(120, 4, radius=0.8, width=0.15, winding=0.0, samples=(25, 60))
    sides = [[path for path, turns in zip(paths, truth, strict=True) if turns == side] for side in SIDES]
    classes = classify_paths(sides[0][:30] + sides[1][:10], landmarks=200)
    assert not classes.abstained
    return classes, sides[0][-1], sides[1][-1]


def test_a_path_that_leaves_the_majority_has_the_p_value_of_the_bar_that_parts_them():
    classes, usual, other = with_majority()
    assert classes.atlas.majority == classes.labels[0]
    assert tracked(classes, usual).p_value == 1.0
    assert tracked(classes, other).p_value == classes.p_values.min()
    assert classes.p_values.min() < 1e-4
    assert tracked(classes, other[:1]).p_value == 1.0


def test_without_a_majority_or_without_bars_nobody_is_told_apart():
    classes, paths, truth = planted()
    assert classes.atlas.majority == -1
    assert {tracked(classes, path).p_value for path in paths[MEMBERS:]} == {1.0}
    few = classify_paths(paths[:8], landmarks=100)
    assert few.abstained
    tracker = tracked(few, paths[truth.index((1,))])
    assert tracker.signature.tolist() == []
    assert tracker.p_value == 1.0
    assert tracked(few, paths[0]).compatible() == frozenset({0})
