"""What is learned from ended runs, and when nothing is: constant results, too few, NaN, renamed, too strange."""

from __future__ import annotations

import math

import numpy as np
import pytest

from finished_runs import STEPS, finished, fleet, milestone
from topowatch_monitor.engine.forecast_view import forecast_view
from topowatch_monitor.engine.forecasting import STRANGE, forecast
from topowatch_monitor.engine.group_forecast import (
    LEVELS,
    Finished,
    ForecastFit,
    at_level,
    fit_forecasts,
    higher_is_better,
    level_of,
    score_made,
)
from topowatch_monitor.engine.made_forecasts import MadeForecast
from topowatch_monitor.forecast.table import NAMES, TOPOLOGICAL


@pytest.fixture(scope="module")
def fit() -> ForecastFit:
    runs = fleet()
    return fit_forecasts(runs[:7], [], runs[7:])


def test_live_runs_are_told_apart_and_more_surely_later(fit: ForecastFit) -> None:
    rng = np.random.default_rng(5)
    errors = {}
    for level in (4, 16):
        said = []
        for skill in np.linspace(0.05, 0.95, 12):
            found = forecast(fit, milestone(STEPS * level // LEVELS - 1, skill, rng), "aa", level)
            if not found["abstained"]:
                assert found["metric"] == "test_accuracy"
                assert found["lower"] < found["value"] < found["upper"]
                said.append(abs(found["value"] - 0.3 - 0.6 * skill))
        assert len(said) >= 9
        errors[level] = np.mean(said)
    assert errors[16] < 0.05
    assert errors[16] < errors[4] < 0.15


def test_scores_are_of_runs_that_were_left_out(fit: ForecastFit) -> None:
    end, quarter = fit.score_at(LEVELS), fit.score_at(LEVELS // 4)
    assert end.runs == quarter.runs == 24
    assert 0.9 < end.r2 < 1
    assert quarter.r2 < end.r2


def test_plain_baselines_and_the_same_without_topology_stand_beside(fit: ForecastFit) -> None:
    for level in (4, 8, 16):
        learned = fit.levels[level - 1]
        assert set(learned.baselines) == {"loss only", "weight norm and path length", "last value", "power law"}
        assert all(np.isfinite(values).all() for values in learned.baselines.values())
        assert learned.without_topology is not None
        assert not TOPOLOGICAL.isdisjoint(learned.table.names)
    assert fit.levels[4].without_topology is None
    last, drawn = (fit.levels[3].baselines[name] for name in ("last value", "power law"))
    assert np.abs(drawn - fit.results).mean() < np.abs(last - fit.results).mean()


def test_it_is_told_what_stopping_the_worse_half_would_have_brought(fit: ForecastFit) -> None:
    view = forecast_view(("", "g"), fit)
    assert [level["halving"]["saved"] for level in view["levels"]] == [0.375, 0.25, 0.0]
    assert view["levels"][-1]["halving"]["kept_best"]
    assert view["higher_is_better"]


def test_where_the_order_of_hand_outs_changes_nothing_does(fit: ForecastFit) -> None:
    again = fit_forecasts(fleet()[::-1])
    np.testing.assert_allclose(again.levels[7].with_topology, fit.levels[7].with_topology)


def test_a_stranger_gets_no_forecast(fit: ForecastFit) -> None:
    strange = milestone(STEPS - 1, 0.5, np.random.default_rng(1))
    strange.features[:] *= 1e6
    found = forecast(fit, strange, "aa", LEVELS)
    assert found["abstained"]
    assert found["reason"].startswith(STRANGE)


def test_on_other_probes_there_is_no_agreement_and_too_little_known_is_said(fit: ForecastFit) -> None:
    known = milestone(STEPS - 1, 0.5, np.random.default_rng(1))
    assert not forecast(fit, known, "bb", LEVELS)["abstained"]
    nothing = known._replace(features=np.full(len(NAMES), np.nan))
    assert "too little is known" in forecast(fit, nothing, "aa", LEVELS)["reason"]


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([], "no ended run has a result"),
        (fleet(1), "1 ended runs have a finite test_accuracy: forecasts need at least 12"),
        ([finished(number, 0.5, results={}) for number in range(14)], "no ended run has a result"),
        ([finished(number, 0.5, results={"acc": 0.7}) for number in range(14)], "all ended runs have the same acc"),
        ([finished(number, 0.5, results={"acc": math.nan}) for number in range(14)], "no ended run has a result"),
    ],
)
def test_where_nothing_can_be_learned_the_reason_is_given(runs: list[Finished], words: str) -> None:
    found = fit_forecasts(runs)
    assert found.metric is None
    assert words in found.reason


def test_a_metric_that_was_renamed_half_way_is_that_of_most_runs() -> None:
    runs = fleet(20)
    renamed = [run._replace(results={"accuracy": run.results["test_accuracy"]}) for run in runs[:8]]
    found = fit_forecasts([*renamed, *runs[8:]])
    assert found.metric == "test_accuracy"
    assert found.runs == [run.run for run in runs[8:]]


def test_the_length_of_runs_is_known_where_all_are_of_one() -> None:
    assert fit_forecasts(fleet(12)).steps == STEPS
    longer = [finished(100 + number, 0.1 * number, steps=STEPS * 2) for number in range(6)]
    assert fit_forecasts([*fleet(12), *longer]).steps is None


def test_levels_are_shares_of_the_steps() -> None:
    assert [level_of(step, 320) for step in (0, 18, 19, 159, 319, 1000)] == [0, 0, 1, 8, 16, 16]
    run = finished(0, 0.5)
    assert at_level(run.milestones, STEPS, 16).step == STEPS - 1
    assert at_level(run.milestones, STEPS, 8).step == 150
    assert at_level(run.milestones[:3], STEPS, 8) is None
    assert at_level([], STEPS, 8) is None


def test_forecasts_are_scored_as_they_were_made() -> None:
    """At a level counts what was said last up to it, of the metric that runs ended with."""
    runs = [
        finished(number, 0.1 * number)._replace(
            results={"acc": 0.1 * number},
            forecasts=[
                MadeForecast(79, "acc", 0.1 * number + 0.2, 0.0, 0.1),
                MadeForecast(159, "acc", 0.1 * number + 0.02, -1.0, 2.0),
                MadeForecast(160, "loss", 7.0, 7.0, 7.0),
            ],
        )
        for number in range(8)
    ]
    quarter, half = score_made(runs, "acc", 4), score_made(runs, "acc", 8)
    assert (quarter.runs, quarter.error, quarter.coverage) == (8, pytest.approx(0.2), 0.25)
    assert (half.runs, half.error, half.coverage) == (8, pytest.approx(0.02), 1.0)
    assert half.r2 > 0.99 > quarter.r2
    assert score_made(runs, "acc", 3).runs == 0


def test_losses_are_better_when_low() -> None:
    assert higher_is_better("test_accuracy")
    assert not higher_is_better("val_loss")
    assert not higher_is_better("Perplexity")
