"""Scores of forecasts against scikit-learn and scipy, and what it brings to stop runs by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import mean_absolute_error, r2_score

from topowatch_monitor.forecast.scores import halve, score


@settings(max_examples=40, deadline=None)
@given(count=st.integers(3, 40), seed=st.integers(0, 10_000))
def test_scores_are_those_of_the_libraries(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    results = rng.standard_normal(count)
    values = results + rng.standard_normal(count)
    found = score(results, values, values - 1.0, values + 1.0)
    assert found.r2 == pytest.approx(r2_score(results, values))
    assert found.error == pytest.approx(mean_absolute_error(results, values))
    assert found.tau == pytest.approx(kendalltau(results, values).statistic)
    assert found.coverage == pytest.approx(np.mean(np.abs(results - values) <= 1.0))
    assert found.runs == count


def test_what_is_not_finite_is_left_out_and_equal_results_have_no_r2() -> None:
    found = score([0.5, np.nan, 0.7], [0.6, 0.5, np.nan])
    assert found == (1, None, pytest.approx(0.1), None, None)
    assert score([0.5, 0.5], [0.4, 0.6]).r2 is None
    assert score([], []) == (0, None, None, None, None)
    assert score([0.1, 0.2], [0.3, 0.3]).tau is None


def test_stopping_by_the_truth_costs_nothing_and_against_it_all() -> None:
    results = np.arange(10.0)
    assert halve(results, results, 0.25) == (0.375, 0.0, True)
    assert halve(results, -results, 0.25) == (0.375, 5.0, False)
    assert halve(results, results, 0.25, higher_is_better=False) == (0.375, 0.0, True)
    assert halve(results, -results, 0.5, higher_is_better=False) == (0.25, 5.0, False)


def test_a_run_without_a_forecast_goes_on() -> None:
    results, said = np.array([0.1, 0.2, 0.9, 0.4]), np.array([0.1, 0.2, np.nan, 0.4])
    assert halve(results, said, 0.25).kept_best
