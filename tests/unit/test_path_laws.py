"""Laws of path classes: merge scales are an ultrametric, signatures add up, what deforms a path leaves its class."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from path_words import homology, loops
from planted_paths import around, same
from topowatch_monitor.topology import PathClasses, classify_paths, outliers

LANDMARKS = 150


def classified(paths: list[np.ndarray], **options: Any) -> PathClasses:
    return classify_paths(paths, landmarks=LANDMARKS, **options)


@cache
def planted() -> tuple[list[np.ndarray], list[tuple[int, ...]], PathClasses]:
    paths, truth = around(30, 11, radius=0.8, width=0.15)
    found = classified(paths)
    assert np.array_equal(same(found.labels.tolist()), same(truth))
    return paths, truth, found


def same_partition(one: PathClasses, other: PathClasses) -> bool:
    return np.array_equal(same(one.labels.tolist()), same(other.labels.tolist()))


def assert_ultrametric(found: PathClasses) -> None:
    merge = found.merge_scale
    assert np.array_equal(merge, merge.T)
    assert not np.diag(merge).any()
    assert (merge[:, None, :] <= np.maximum(merge[:, :, None], merge[None])).all()
    apart = ~np.eye(len(merge), dtype=bool)
    assert (merge[apart] >= found.scale).all()


small_groups = st.lists(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=7), min_size=1, max_size=14
)


@settings(max_examples=60, deadline=None)
@given(paths=small_groups, relative=st.booleans())
def test_merge_scales_of_any_paths_are_an_ultrametric_and_labels_number_classes_by_size(paths, relative):
    found = classify_paths(paths, landmarks=12, relative=relative)
    assert_ultrametric(found)
    counts = np.bincount(found.labels)
    assert found.labels.shape == (len(paths),)
    assert (np.diff(counts) <= 0).all()
    assert (counts > 0).all()
    assert found.abstained == bool(found.reason)
    assert not (found.abstained and found.labels.any())


def test_two_paths_of_unlike_classes_merge_where_the_last_bar_that_parts_them_dies():
    """And with two holes a path that differs on both merges with the later death, whichever bar that is."""
    paths, truth = around(48, 0, holes=2, radius=0.8, width=0.15, winding=0.0)
    found = classify_paths(paths)
    assert np.array_equal(same(found.labels.tolist()), same(truth))
    assert_ultrametric(found)
    deaths = found.bars[:, 1]
    for one in range(len(paths)):
        parted = found.signatures != found.signatures[one]
        expected = np.where(parted, deaths, 0.0).max(axis=1)
        different = parted.any(axis=1)
        np.testing.assert_allclose(found.merge_scale[one][different], expected[different])
        assert (found.merge_scale[one][~different] < deaths.min()).all()


@cache
def joined() -> tuple[dict[str, np.ndarray], bool]:
    """Signatures of loops from one point, of the same loops put after each other, and turned round: no noise at all."""
    rng = np.random.default_rng(0)
    words = ["", "a", "b", "A", "B"] * 6
    paths = [loops(word, rng) for word in words]
    a, b = paths[1], paths[2]
    named = {"a": a, "b": b, "a a": [a, a], "a b": [a, b], "b a": [b, a], "a b a⁻¹ b⁻¹": [a, b, a[::-1], b[::-1]]}
    named |= {"a⁻¹": a[::-1], "b⁻¹": b[::-1], "a a⁻¹": [a, a[::-1]], "empty": paths[0]}
    group = [np.concatenate(path) if isinstance(path, list) else path for path in named.values()]
    found = classify_paths([*paths, *group], landmarks=300)
    truth = [homology(word) for word in words]
    assert np.array_equal(same(found.labels[: len(words)].tolist()), same(truth))
    return dict(zip(named, found.signatures[len(words) :], strict=True)), found.lifted


def test_signatures_of_paths_put_after_each_other_add_up():
    signature, lifted = joined()
    assert lifted
    assert signature["a"].any()
    assert signature["b"].any()
    assert signature["a a"].tolist() == (2 * signature["a"]).tolist()
    assert signature["a b"].tolist() == signature["b a"].tolist() == (signature["a"] + signature["b"]).tolist()
    assert signature["a b a⁻¹ b⁻¹"].tolist() == signature["a a⁻¹"].tolist() == signature["empty"].tolist() == [0, 0]


def test_the_signature_of_a_path_backwards_is_the_negative():
    signature, _ = joined()
    for name in ("a", "b"):
        assert signature[f"{name}⁻¹"].tolist() == (-signature[name]).tolist() != [0, 0]


def test_open_paths_and_their_reverses_add_up_to_one_number():
    """Closed over reference points, a path and its reverse leave out the same way between the two references."""
    paths, truth = around(24, 2, radius=0.8, width=0.15)
    found = classified([*paths, *(path[::-1] for path in paths)], relative=False)
    assert not found.abstained
    there, back = found.signatures[:24, 0], found.signatures[24:, 0]
    assert len(set(there.tolist())) == len(set(truth)) > 1
    assert len(set((there + back).tolist())) == 1


@pytest.mark.parametrize("moved", ["points", "curve"])
def test_a_small_deformation_leaves_a_path_in_its_class_and_a_large_one_over_the_hole_does_not(moved):
    """Every point shaken, or the whole curve pushed aside; then mirrored at the axis of the hole."""
    paths, _, found = planted()
    rng = np.random.default_rng(0)
    changed = []
    for path in paths[:10]:
        t = np.linspace(0.0, 1.0, len(path))[:, None]
        shaken = 0.03 * rng.standard_normal(path.shape)
        changed.append(path + (shaken if moved == "points" else 0.15 * np.sin(np.pi * t) * rng.standard_normal(10) / 3))
    ahead = np.mean([path[-1] - path[0] for path in paths], axis=0)
    aside = np.concatenate(
        [path - path[0] - np.outer((path - path[0]) @ ahead, ahead) / (ahead @ ahead) for path in paths]
    )
    axis = np.linalg.svd(aside, full_matrices=False)[2][0]
    mirrored = [path - 2.0 * np.outer((path - path[0]) @ axis, axis) for path in paths[:10]]
    labels = classified([*paths, *changed, *mirrored]).labels
    assert np.array_equal(same(labels[:30].tolist()), same(found.labels.tolist()))
    assert labels[30:40].tolist() == labels[:10].tolist()
    assert (labels[40:] != labels[:10]).all()


def test_another_sampling_of_a_path_leaves_it_in_its_class():
    """Points on its lines, points twice, and a long wait."""
    paths, _, found = planted()
    others = []
    for number, path in enumerate(paths[:9]):
        fine = np.linspace(0, len(path) - 1, 5 * len(path))
        finer = np.column_stack([np.interp(fine, np.arange(len(path)), column) for column in path.T])
        waiting = np.concatenate([path[:20], np.repeat(path[20:21], 500, axis=0), path[20:]])
        others.append([finer, np.repeat(path, 2, axis=0), waiting][number % 3])
    labels = classified([*paths, *others]).labels
    assert np.array_equal(same(labels[:30].tolist()), same(found.labels.tolist()))
    assert labels[30:].tolist() == labels[:9].tolist()


def test_rotation_translation_and_unit_do_not_change_the_classes():
    paths, _, found = planted()
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((10, 10)))[0]
    moved = classified([1000.0 * path @ turn - 7.0 for path in paths])
    assert same_partition(found, moved)
    np.testing.assert_allclose(moved.bars, 1000.0 * found.bars, rtol=0.1)
    assert moved.explained == pytest.approx(found.explained, abs=1e-6)


@pytest.mark.parametrize("power", [-200, -10, 10, 60])
def test_a_unit_that_is_a_power_of_two_changes_nothing_but_the_lengths(power):
    """Such a factor is exact, so everything else has to be equal, at any size of the numbers."""
    paths, _, found = planted()
    factor = 2.0**power
    scaled = classified([factor * path for path in paths])
    assert scaled.signatures.tolist() == found.signatures.tolist()
    assert scaled.labels.tolist() == found.labels.tolist()
    assert scaled.p_values.tolist() == found.p_values.tolist()
    for name in ("bars", "scale", "resolution", "merge_scale"):
        np.testing.assert_array_equal(getattr(scaled, name), factor * getattr(found, name))


def test_the_order_of_the_paths_does_not_change_the_classes():
    paths, _, found = planted()
    order = np.random.default_rng(3).permutation(len(paths))
    shuffled = classified([paths[number] for number in order])
    assert np.array_equal(same(shuffled.labels.tolist()), same(found.labels[order].tolist()))


def test_the_same_paths_give_the_same_answer_to_the_last_bit():
    paths, _, found = planted()
    again = classified([path.copy() for path in paths])
    for name in ("labels", "signatures", "bars", "p_values", "merge_scale"):
        assert getattr(again, name).tobytes() == getattr(found, name).tobytes()
    assert (again.best_p, again.scale, again.resolution) == (found.best_p, found.scale, found.resolution)


def test_paths_given_as_lists_or_float32_or_read_only_are_taken_and_left_alone():
    paths, _, found = planted()
    fixed = [path.copy() for path in paths]
    for path in fixed:
        path.flags.writeable = False
    assert classified([path.tolist() for path in fixed]).signatures.tolist() == found.signatures.tolist()
    assert same_partition(classified([path.astype(np.float32) for path in fixed]), found)


def test_outliers_are_those_outside_a_majority_and_without_one_nobody():
    paths, truth = around(120, 4, radius=0.8, width=0.15, winding=0.0)
    over, under = ([path for path, turns in zip(paths, truth, strict=True) if turns == side] for side in ((1,), (-1,)))
    most = classified([*over[:30], *under[:10]])
    p_values, flags = outliers(most)
    assert flags.tolist() == [False] * 30 + [True] * 10
    assert p_values[:30].tolist() == [1.0] * 30
    assert set(p_values[30:]) == {most.p_values.min()}
    halves = planted()[2]
    assert np.bincount(halves.labels).max() < 0.6 * len(halves.labels)
    p_values, flags = outliers(halves)
    assert not flags.any()
    assert p_values.tolist() == [1.0] * 30
