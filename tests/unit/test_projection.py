"""The projection of paths as curves: it does not care how they were sampled, and equals its slow twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.topology.projection import MAX_DIMENSION, USUAL, Projection, fit_projection


def curves(seed: int, count: int = 5, dims: int = 6) -> list[np.ndarray]:
    """Smooth curves of unlike lengths, finely sampled."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0.0, 1.0, 400)
    return [
        np.sin(np.outer(t, rng.uniform(1.0, 4.0, dims)) + rng.uniform(0.0, 6.0, dims)) * rng.uniform(0.2, 2.0, dims)
        for _ in range(count)
    ]


def by_segments(paths: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance in slow loops: each end of a segment stands for half of it, every path weighs the same."""
    weights = []
    for path in paths:
        weight = np.zeros(len(path))
        for index in range(len(path) - 1):
            length = np.linalg.norm(path[index + 1] - path[index])
            weight[index] += length / 2.0
            weight[index + 1] += length / 2.0
        weights.append(weight / weight.sum())
    mean = sum(weight @ path for weight, path in zip(weights, paths, strict=True)) / len(paths)
    covariance = np.zeros((paths[0].shape[1],) * 2)
    for weight, path in zip(weights, paths, strict=True):
        for share, point in zip(weight, path, strict=True):
            covariance += share * np.outer(point - mean, point - mean) / len(paths)
    return mean, covariance


def assert_same_space(one: Projection, other: Projection, tolerance: float) -> None:
    """Axes are known up to their sign."""
    np.testing.assert_allclose(one.mean, other.mean, atol=tolerance)
    np.testing.assert_allclose(np.abs(np.diag(one.axes.T @ other.axes)), 1.0, atol=tolerance)
    assert one.explained == pytest.approx(other.explained, abs=tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_mean_axes_and_share_equal_the_eigenvectors_of_the_slow_covariance(seed):
    paths = curves(seed, count=3)
    fitted = fit_projection(paths, 3)
    mean, covariance = by_segments(paths)
    values, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(fitted.mean, mean, atol=1e-12)
    np.testing.assert_allclose(np.abs(fitted.axes.T @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(fitted.axes.T @ fitted.axes, np.eye(3), atol=1e-12)
    assert fitted.explained == pytest.approx(values[-3:].sum() / values.sum())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), data=st.data())
def test_points_put_on_the_lines_between_points_move_the_mean_by_nothing_and_the_axes_hardly(seed, data):
    """The mean of a polyline is exact at any sampling; second moments are those of the trapezoid rule."""
    paths = curves(seed)
    finer = []
    for path in paths:
        pieces = data.draw(st.integers(1, 4))
        at = np.arange(0, len(path) - 1 + 1e-9, 1.0 / pieces)
        finer.append(np.column_stack([np.interp(at, np.arange(len(path)), column) for column in path.T]))
    before, after = fit_projection(paths, 2), fit_projection(finer, 2)
    np.testing.assert_allclose(after.mean, before.mean, atol=1e-12)
    assert after.explained == pytest.approx(before.explained, abs=1e-3)
    span = before.axes @ before.axes.T - after.axes @ after.axes.T
    assert np.abs(span).max() < 0.02


def test_a_run_that_waits_or_is_sampled_slowly_has_no_other_say():
    """A thousand copies of a point, and half of a path ten times as dense: plain principal components would turn."""
    paths = curves(1)
    waiting = [np.concatenate([np.repeat(paths[0][:1], 1000, axis=0), paths[0]]), *paths[1:]]
    assert_same_space(fit_projection(waiting, 2), fit_projection(paths, 2), 1e-9)
    coarse = [paths[0][::10], *paths[1:]]
    assert_same_space(fit_projection(coarse, 2), fit_projection(paths, 2), 0.01)
    plain = np.concatenate(waiting).mean(axis=0) - np.concatenate(paths).mean(axis=0)
    assert np.abs(plain).max() > 0.1


def test_a_run_that_is_ten_times_as_long_weighs_as_much_as_another():
    short, long = np.array([[0.0, 0, 0], [1.0, 0, 0]]), np.array([[0.0, 0, 1.0], [10.0, 0, 1.0]])
    assert fit_projection([short, long], 2).mean.tolist() == [2.75, 0.0, 0.5]


def test_paths_that_do_not_move_weigh_as_much_as_others():
    still = np.array([[0.0, 0, 4.0]] * 3)
    assert fit_projection([still, still[:1] - [0, 0, 4.0]], 2).mean.tolist() == [0.0, 0.0, 2.0]
    assert fit_projection([still], 2).explained == 1.0


def test_dimensions_that_are_few_enough_are_kept_as_they_are():
    paths = curves(2, dims=3)
    kept = fit_projection(paths, 3)
    np.testing.assert_array_equal(kept.reduce(paths[0]), paths[0] - kept.mean)
    assert kept.explained == 1.0
    assert kept.residual == 0.0
    assert kept.residuals(paths[0]).tolist() == [0.0] * len(paths[0])


@pytest.mark.parametrize("seed", range(3))
def test_residuals_are_what_the_reduction_leaves_and_the_usual_one_covers_most(seed):
    paths = curves(seed)
    fitted = fit_projection(paths, 2)
    points = np.concatenate(paths)
    back = fitted.mean + fitted.reduce(points) @ fitted.axes.T
    np.testing.assert_allclose(fitted.residuals(points), np.linalg.norm(points - back, axis=1), atol=1e-7)
    assert np.mean(fitted.residuals(points) <= fitted.residual) == pytest.approx(USUAL, abs=0.005)


def test_points_of_too_many_numbers_are_refused_unless_all_are_kept():
    wide = [np.zeros((2, MAX_DIMENSION + 1))]
    with pytest.raises(ValueError, match=f"at most {MAX_DIMENSION} numbers.*sketch or project"):
        fit_projection(wide, 3)
    assert fit_projection(wide, MAX_DIMENSION + 1).explained == 1.0
