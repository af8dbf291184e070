"""Paths that are no paths, groups that are too small, and arguments out of range: a clear answer or error each."""

from __future__ import annotations

import numpy as np
import pytest

from planted_paths import around
from topowatch_monitor.topology import PathClasses, classify_paths, outliers
from topowatch_monitor.topology.path_classes import MAX_COORDINATE, MIN_PATHS

LINE = [[0.0, 0.0], [1.0, 1.0]]


def assert_one_class(found: PathClasses, count: int, reason: str) -> None:
    """Abstained, in words, with every array of the shape that callers rely on."""
    assert found.abstained
    assert reason in found.reason
    assert found.labels.tolist() == [0] * count
    assert found.signatures.shape == (count, 0)
    assert found.bars.shape == (0, 2)
    assert found.merge_scale.shape == (count, count)
    p_values, flags = outliers(found)
    assert p_values.tolist() == [1.0] * count
    assert not flags.any()


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "no path to classify"),
        ([LINE, []], r"path 1 has shape \(0,\): T × d numbers are needed"),
        ([LINE, np.empty((0, 2))], "path 1 has no points: leave it out"),
        ([LINE, np.empty((3, 0))], r"path 1 has shape \(3, 0\)"),
        ([[1.0, 2.0]], r"path 0 has shape \(2,\)"),
        ([LINE, [LINE]], r"path 1 has shape \(1, 2, 2\)"),
        ([LINE, [[0.0, 0.0, 0.0]]], "path 1 has points of 3 numbers, path 0 of 2: paths are compared in one space"),
        ([LINE, LINE, [[0.0, np.nan]]], "path 2 has NaN or infinite numbers: cut it before them, or leave it out"),
        ([[[np.inf, 0.0]]], "path 0 has NaN or infinite"),
        ([[[-np.inf, 0.0]]], "path 0 has NaN or infinite"),
        ([LINE, [[2 * MAX_COORDINATE, 0.0]]], "path 1 has numbers beyond 1e.100: cut it"),
        ([[["a", "b"]]], "could not convert"),
    ],
)
def test_what_is_no_path_is_refused_by_its_number_with_what_to_do(paths, message):
    with pytest.raises(ValueError, match=message):
        classify_paths(paths)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"dims": 0}, "dims is at least 1, not 0"),
        ({"landmarks": 7}, "landmarks are at least 8, not 7"),
        ({"prime": 2}, "an odd prime below 128, not 2"),
        ({"prime": 33}, "an odd prime below 128, not 33"),
        ({"prime": 251}, "an odd prime below 128"),  # Ripser would never end
        ({"prime": 7.5}, r"prime is a whole number, not 7\.5"),
        ({"landmarks": np.nan}, "landmarks is a whole number, not nan"),
        ({"dims": "3"}, "dims is a whole number, not '3'"),
        ({"alpha": 0.0}, r"alpha lies between 0 and 1, not at 0\.0"),
        ({"alpha": 1.0}, "alpha lies between 0 and 1"),
        ({"alpha": np.nan}, "alpha lies between 0 and 1"),
    ],
)
def test_arguments_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        classify_paths([LINE], **option)


def test_one_run_and_one_run_too_few_are_one_class_and_enough_runs_are_not():
    paths, _ = around(MIN_PATHS, 3, radius=0.8, width=0.05, winding=0.0)
    assert_one_class(classify_paths(paths[:1]), 1, "at least 12")
    assert_one_class(classify_paths(paths[:-1], landmarks=60), 11, "11 paths: classes need at least 12")
    assert "classes need" not in classify_paths(paths, landmarks=60).reason


@pytest.mark.parametrize("count", [1, 12, 30])
@pytest.mark.parametrize("dims", [1, 2, 10])
def test_points_that_are_all_equal_are_one_class_without_a_map(count, dims):
    found = classify_paths([np.full((1 + number % 3, dims), 0.1) for number in range(count)])
    assert_one_class(found, count, "all points are equal")
    assert found.atlas is None
    assert not found.merge_scale.any()
    assert (found.scale, found.resolution, found.best_p) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(
    "paths",
    [
        [[[float(number)]] for number in range(14)],
        [[[0.0, 0.0]] if number % 2 else [[1.0, 0.0]] for number in range(14)],
        [[[0.0, 0.0], [1.0, 1.0]]] * 14,
        [[[0.0, 0.0], [float(number), 0.0], [0.0, 0.0]] for number in range(14)],
        [[[0.0, 0.0], [1e-13 * number, 0.0], [1.0, 1e-13 * number]] for number in range(14)],
    ],
    ids=["a point each", "two places", "copies", "on a line", "nearly copies"],
)
def test_groups_with_hardly_any_shape_are_one_class(paths, relative):
    found = classify_paths(paths, relative=relative)
    assert_one_class(found, 14, "loop")
    assert found.atlas is not None


@pytest.mark.parametrize("factor", [1e98, 1e-90])
def test_huge_and_tiny_coordinates_are_classified_as_their_copies_of_usual_size(factor):
    paths, _ = around(24, 1, radius=0.8, width=0.15)
    usual = classify_paths(paths, landmarks=150)
    found = classify_paths([factor * path for path in paths], landmarks=150)
    assert not usual.abstained
    assert found.labels.tolist() == usual.labels.tolist()
    assert np.isfinite(found.bars).all()
    np.testing.assert_allclose(found.bars, factor * usual.bars, rtol=1e-4)


def test_paths_far_from_the_origin_keep_their_classes():
    paths, _ = around(24, 1, radius=0.8, width=0.15)
    usual = classify_paths(paths, landmarks=150)
    far = classify_paths([path + 1e6 for path in paths], landmarks=150)
    assert far.labels.tolist() == usual.labels.tolist()
    assert far.scale == pytest.approx(usual.scale, rel=0.1)


def test_one_run_that_diverged_by_far_leaves_nothing_to_say_about_the_others():
    """It sets the scale of the map, on which the hole is no longer seen: a limit, and no false classes."""
    paths, _ = around(24, 1, radius=0.8, width=0.15)
    paths[0] = np.concatenate([paths[0], np.full((1, 10), 1e9)])
    found = classify_paths(paths, landmarks=150)
    assert found.resolution > 1.0
    assert_one_class(found, 24, "loop")
