"""Gaussian-process forecasts: leaving one out equals fitting again, intervals cover, and strangers are told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor

from topowatch_monitor.forecast.regressor import fit, jackknife_plus


def problem(seed: int, count: int, features: int = 6, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, features))
    return rows, np.tanh(rows[:, 0]) + 0.5 * rows[:, 1] + noise * rng.standard_normal(count) + 3.0


@pytest.mark.parametrize("seed", range(3))
def test_what_the_others_forecast_is_what_they_forecast_when_fitted_again(seed: int) -> None:
    """With the same kernel; scikit-learn is the oracle, for the runs themselves and for others."""
    rows, targets = problem(seed, 25)
    fitted = fit(rows, targets)
    mean, scale = targets.mean(), targets.std()
    kernel = fitted._kernel
    stranger = problem(seed + 10, 1)[0][0]
    reduced = kernel(stranger[None], rows)[0] @ fitted._inverse
    without = mean + scale * (reduced @ ((targets - mean) / scale) - reduced * fitted._residuals)
    for number in range(len(rows)):
        others = np.arange(len(rows)) != number
        again = GaussianProcessRegressor(kernel, optimizer=None).fit(rows[others], (targets[others] - mean) / scale)
        assert fitted.left_out[number] == pytest.approx(mean + scale * again.predict(rows[number][None])[0], rel=1e-6)
        assert without[number] == pytest.approx(mean + scale * again.predict(stranger[None])[0], rel=1e-6)
        _, deviation = again.predict(rows[number][None], return_std=True)
        assert fitted._deviations[number] == pytest.approx(deviation[0], rel=1e-5)


def test_a_forecast_is_that_of_the_process() -> None:
    rows, targets = problem(0, 40)
    fitted = fit(rows, targets)
    oracle = GaussianProcessRegressor(fitted._kernel, optimizer=None).fit(
        rows, (targets - targets.mean()) / targets.std()
    )
    for row in problem(1, 5)[0]:
        expected = targets.mean() + targets.std() * oracle.predict(row[None])[0]
        assert fitted.predict(row).value == pytest.approx(expected, rel=1e-6)


def test_intervals_cover_and_are_not_wide() -> None:
    """Nine in ten of runs that were never seen, give or take what 400 of them tell."""
    within, widths = [], []
    for seed in range(20):
        rows, targets = problem(seed, 60)
        fitted = fit(rows[:40], targets[:40])
        for row, target in zip(rows[40:], targets[40:], strict=True):
            found = fitted.predict(row)
            within.append(found.lower <= target <= found.upper)
            widths.append(found.upper - found.lower)
    assert 0.85 <= np.mean(within) <= 0.95
    assert np.median(widths) < 0.7  # the noise alone spans 0.33, the targets 3


def test_far_away_the_interval_widens_and_the_run_is_a_stranger() -> None:
    rows, targets = problem(3, 60)
    fitted = fit(rows, targets)
    near, far = fitted.predict(np.zeros(6)), fitted.predict(np.full(6, 12.0))
    assert near.strangeness < 1 < far.strangeness
    assert far.upper - far.lower > 2 * (near.upper - near.lower)
    assert fitted.strangeness_left_out.max() == pytest.approx(1.0)


def test_few_runs_of_the_same_kind_are_rarely_strangers() -> None:
    """One in n + 1 of exchangeable runs, as the strangest of n + 1 is any of them alike."""
    strange = []
    for seed in range(40):
        rows, targets = problem(seed, 16)
        fitted = fit(rows[:12], targets[:12])
        strange += [fitted.predict(row).strangeness > 1 for row in rows[12:]]
    assert np.mean(strange) < 0.25


def test_a_unit_changes_nothing() -> None:
    rows, targets = problem(4, 30)
    row = np.ones(6)
    one, other = fit(rows, targets).predict(row), fit(rows, 1e6 * targets - 5.0).predict(row)
    for first, second in zip(one[:3], other[:3], strict=True):
        assert second == pytest.approx(1e6 * first - 5.0, rel=1e-4)
    assert other.strangeness == pytest.approx(one.strangeness, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(2, 60), level=st.floats(0.5, 0.97), seed=st.integers(0, 1000))
def test_the_jackknife_plus_takes_the_places_that_its_paper_names(count: int, level: float, seed: int) -> None:
    """⌊α(n + 1)⌋-th smallest and ⌈(1 − α)(n + 1)⌉-th smallest; beyond n they are infinite."""
    rng = np.random.default_rng(seed)
    without, reach = rng.standard_normal(count), np.abs(rng.standard_normal(count))
    lower, upper = jackknife_plus(without, reach, level)
    low, high = np.sort(without - reach), np.sort(without + reach)
    place = int(np.floor((1 - level) * (count + 1) + 1e-9))
    if place < 1:
        assert (lower, upper) == (-np.inf, np.inf)
    else:
        assert lower == low[place - 1]
        assert upper == high[int(np.ceil(level * (count + 1) - 1e-9)) - 1]


@pytest.mark.parametrize(
    ("rows", "targets", "words"),
    [
        (np.zeros((3, 2)), np.zeros(2), "a row of features a target"),
        (np.zeros((1, 2)), np.zeros(1), "two runs at least"),
        (np.array([[np.nan], [1.0]]), np.array([0.0, 1.0]), "finite"),
        (np.array([[0.0], [1.0]]), np.array([0.0, np.inf]), "finite"),
        (np.array([[0.0], [1.0], [2.0]]), np.full(3, 0.7), "all the same"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(rows: np.ndarray, targets: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit(rows, targets)
