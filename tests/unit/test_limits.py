"""What homology will need is known beforehand, and what is too large is refused in words that say what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topowatch_monitor.topology import TooLargeError, classify_paths
from topowatch_monitor.topology.limits import MAX_NUMBERS, MAX_VERTICES, check_classes, estimate_rips


@given(vertices=st.integers(0, 5000))
def test_memory_grows_with_the_square_and_time_with_the_cube_of_the_vertices(vertices):
    one, twice = estimate_rips(vertices), estimate_rips(2 * vertices)
    assert twice.seconds == pytest.approx(8 * one.seconds)
    assert twice.memory <= 4 * one.memory + 64 * vertices
    assert twice.memory >= 4 * one.memory


def test_the_estimate_holds_the_distance_matrix_and_is_finite_where_it_is_allowed():
    most = estimate_rips(MAX_VERTICES)
    assert 8 * MAX_VERTICES**2 < most.memory < 1 << 30
    assert 1.0 < most.seconds < 60.0


@given(
    points=st.integers(0, 10**6),
    dimension=st.integers(1, 500),
    landmarks=st.integers(8, MAX_VERTICES),
    more=st.integers(1, 100),
)
def test_more_points_numbers_or_landmarks_never_cost_less(points, dimension, landmarks, more):
    plain = check_classes(points, dimension, landmarks)
    assert plain.memory >= estimate_rips(landmarks).memory + 8 * points * dimension
    assert plain.seconds >= estimate_rips(landmarks).seconds
    assert check_classes(points + more, dimension, landmarks).memory > plain.memory
    assert check_classes(points, dimension + more, landmarks).memory >= plain.memory
    if landmarks + more <= MAX_VERTICES:
        assert check_classes(points, dimension, landmarks + more).seconds > plain.seconds


def test_the_largest_that_is_allowed_is_allowed_and_one_more_is_not():
    assert check_classes(MAX_NUMBERS // 1024, 1024, MAX_VERTICES).memory > 8 * MAX_NUMBERS
    with pytest.raises(TooLargeError, match=r"524,289 points of 1,024 numbers .*thin the paths out, or project"):
        check_classes(MAX_NUMBERS // 1024 + 1, 1024, 400)
    with pytest.raises(TooLargeError, match=f"at most {MAX_VERTICES}, not {MAX_VERTICES + 1}: the cost grows"):
        check_classes(10, 2, MAX_VERTICES + 1)


def test_classify_paths_refuses_what_is_too_large():
    assert issubclass(TooLargeError, ValueError)
    with pytest.raises(TooLargeError, match="landmarks are at most"):
        classify_paths([[[0.0, 0.0], [1.0, 0.0]]], landmarks=MAX_VERTICES + 1)
