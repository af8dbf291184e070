"""What is learned from ended runs, and when nothing is: constant results, too few, NaN, renamed, too strange."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from finished_runs import STEPS, finished, fleet, milestone
from topowatch_monitor.engine.finished import LEVELS, Finished, at_level, features_at, level_of
from topowatch_monitor.engine.forecast_view import forecast_view
from topowatch_monitor.engine.forecasting import OTHER_PROBES, STRANGE, forecast
from topowatch_monitor.engine.group_forecast import ForecastFit, fit_forecasts, length_of, score_made
from topowatch_monitor.engine.made_forecasts import MadeForecast
from topowatch_monitor.forecast.scores import score
from topowatch_monitor.forecast.table import NAMES

if TYPE_CHECKING:
    from topowatch_monitor.engine.milestones import Milestone
    from topowatch_monitor.engine.view import ForecastView


@pytest.fixture(scope="module")
def fit() -> ForecastFit:
    runs = fleet()
    return fit_forecasts(runs[:7], [], runs[7:])


def said_of(fit: ForecastFit, milestone: Milestone, level: int, digest: str = "aa") -> ForecastView:
    """What is forecast of a run that logs nothing of the metric on its way."""
    raw = features_at(milestone, fit.siblings, digest=digest, curve=None, steps=STEPS)
    return forecast(fit, raw, digest=digest, step=milestone.step, level=level)


def r2_at(fit: ForecastFit, level: int) -> float:
    return score(fit.of_metric.results, fit.of_metric.levels[level - 1].learned.left_out).r2


def test_live_runs_are_told_apart_and_more_surely_later(fit: ForecastFit) -> None:
    rng = np.random.default_rng(5)
    errors = {}
    for level in (4, 16):
        said = []
        for skill in np.linspace(0.05, 0.95, 12):
            found = said_of(fit, milestone(STEPS * level // LEVELS - 1, skill, rng), level)
            if not found["abstained"]:
                assert found["metric"] == "test_accuracy"
                assert found["lower"] < found["value"] < found["upper"]
                said.append(abs(found["value"] - 0.3 - 0.6 * skill))
        assert len(said) >= 9
        errors[level] = np.mean(said)
    assert errors[16] < 0.05
    assert errors[16] < errors[4] < 0.15


def test_scores_are_of_runs_that_were_left_out(fit: ForecastFit) -> None:
    assert len(fit.of_metric.results) == 24
    assert 0.9 < r2_at(fit, LEVELS) < 1
    assert 0.8 < r2_at(fit, LEVELS // 4) < 1


def test_plain_baselines_and_the_same_without_topology_stand_beside(fit: ForecastFit) -> None:
    for level in (4, 8, 16):
        held = fit.of_metric.levels[level - 1]
        assert set(held.baselines) == {"loss only", "weight norm and path length"}
        assert all(np.isfinite(values).all() for values in held.baselines.values())
        assert held.without_topology is not None
    assert fit.of_metric.levels[4].without_topology is None


def test_a_curve_of_the_metric_is_drawn_on_and_beaten() -> None:
    found = fit_forecasts(fleet(curve_of_metric=True))
    held = found.of_metric.levels[3]
    results = found.of_metric.results
    last, drawn = (np.abs(held.baselines[name] - results).mean() for name in ("last value", "power law"))
    assert drawn < last
    assert np.abs(held.learned.left_out - results).mean() < last


def test_the_gap_is_forecast_too_where_training_results_are_known(fit: ForecastFit) -> None:
    assert fit.of_gap is None
    runs = fleet()
    known = [
        run._replace(results={**run.results, "train_accuracy": 1.3 * run.results["test_accuracy"]}) for run in runs
    ]
    found = fit_forecasts(known)
    np.testing.assert_allclose(found.of_gap.results, 0.3 * found.of_metric.results)
    told = said_of(found, milestone(STEPS - 1, 0.7, np.random.default_rng(2)), LEVELS)
    assert told["gap"]["lower"] < told["gap"]["value"] < told["gap"]["upper"]
    assert told["gap"]["value"] == pytest.approx(0.3 * told["value"], abs=0.02)
    view = forecast_view(("", "g"), found)
    assert view["levels"][2]["gap"]["left_out"]["r2"] > 0.9
    some = fit_forecasts([*known[:8], *runs[8:]])
    assert some.of_gap is None


def test_what_drives_a_forecast_is_told_by_family(fit: ForecastFit) -> None:
    told = said_of(fit, milestone(STEPS - 1, 0.95, np.random.default_rng(4)), LEVELS)
    effects = list(told["drivers"].values())
    assert effects == sorted(effects, key=abs, reverse=True)
    assert next(iter(told["drivers"])) in {"siblings", "loss", "topology"}
    assert effects[0] > 0.02


def test_it_is_told_what_stopping_the_worse_half_would_have_brought(fit: ForecastFit) -> None:
    view = forecast_view(("", "g"), fit)
    assert [level["halving"]["saved"] for level in view["levels"]] == [0.375, 0.25, 0.0]
    assert view["levels"][-1]["halving"]["kept_best"]
    assert view["higher_is_better"]


def test_where_the_order_of_hand_outs_changes_nothing_does(fit: ForecastFit) -> None:
    again = fit_forecasts(fleet()[::-1])
    np.testing.assert_allclose(
        again.of_metric.levels[7].learned.left_out, fit.of_metric.levels[7].learned.left_out, rtol=1e-6
    )


def test_a_stranger_gets_no_forecast(fit: ForecastFit) -> None:
    strange = milestone(STEPS - 1, 0.5, np.random.default_rng(1))
    strange.features[:] *= 1e6
    found = said_of(fit, strange, LEVELS)
    assert found["abstained"]
    assert found["reason"].startswith(STRANGE)


def test_of_a_run_with_other_probes_than_its_siblings_have_nothing_is_forecast(fit: ForecastFit) -> None:
    """Shifted images have no other features than a worse run has, save that these images are others."""
    known = milestone(STEPS - 1, 0.5, np.random.default_rng(1))
    assert not said_of(fit, known, LEVELS)["abstained"]
    assert [said_of(fit, known, LEVELS, digest)["reason"] for digest in ("bb", "")] == [OTHER_PROBES] * 2


def test_where_each_run_has_probes_of_its_own_others_are_no_surprise() -> None:
    runs = [run._replace(digest=f"{number:02x}") for number, run in enumerate(fleet())]
    known = milestone(STEPS - 1, 0.5, np.random.default_rng(1))
    assert not said_of(fit_forecasts(runs), known, LEVELS, "bb")["abstained"]


def test_a_run_of_which_too_little_is_known_gets_no_forecast(fit: ForecastFit) -> None:
    known = milestone(STEPS - 1, 0.5, np.random.default_rng(1))
    nothing = known._replace(features=np.full(len(NAMES), np.nan))
    assert "too little is known" in said_of(fit, nothing, LEVELS)["reason"]


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([], "no ended run has a result"),
        (fleet(1), "1 ended runs have a finite test_accuracy: forecasts need at least 12"),
        ([finished(number, 0.5, results={}) for number in range(14)], "no ended run has a result"),
        ([finished(number, 0.5, results={"acc": 0.7}) for number in range(14)], "all ended runs have the same acc"),
        ([run._replace(labels={"total_steps": "900"}) for run in fleet(14)], "no ended run has a result"),
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
    np.testing.assert_array_equal(found.of_metric.results, [run.results["test_accuracy"] for run in runs[8:]])


def test_the_length_of_runs_is_known_where_all_are_of_one(fit: ForecastFit) -> None:
    assert fit.steps == STEPS
    assert length_of([100, 109]) == 104
    assert length_of([100, 200]) is None
    assert length_of([]) is None


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
    results = 0.1 * np.arange(8)
    quarter, half = score_made(runs, "acc", 4, results), score_made(runs, "acc", 8, results)
    assert (quarter.runs, quarter.error, quarter.coverage) == (8, pytest.approx(0.2), 0.25)
    assert (half.runs, half.error, half.coverage) == (8, pytest.approx(0.02), 1.0)
    assert half.r2 > 0.99 > quarter.r2
    assert score_made(runs, "acc", 3, results).runs == 0


def test_runs_that_were_stopped_early_teach_nothing() -> None:
    """What they ended with is not what they would have, at their full length."""
    short = [finished(100 + number, 0.1 * number)._replace(labels={"total_steps": "1280"}) for number in range(9)]
    found = fit_forecasts([*fleet(14), *short])
    assert len(found.of_metric.results) == 14
    assert found.steps == STEPS
    assert "9 that took far fewer steps" in fit_forecasts([*fleet(11), *short]).reason


def test_results_that_have_nothing_to_do_with_what_runs_are_like_are_not_forecast() -> None:
    rng = np.random.default_rng(1)
    found = fit_forecasts([run._replace(results={"acc": float(rng.random())}) for run in fleet(24)])
    assert found.metric == "acc"
    assert all(held.learned is None for held in found.of_metric.levels)
    told = said_of(found, milestone(STEPS - 1, 0.5, rng), LEVELS)
    assert told["reason"].startswith("ended runs tell too little about runs that were not learned from (R²")


def test_one_run_that_diverged_does_not_drown_the_others() -> None:
    lost = [run._replace(results={"val_loss": 1 - run.results["test_accuracy"]}) for run in fleet(24)]
    lost[3] = lost[3]._replace(results={"val_loss": 1e6})
    found = fit_forecasts([*lost[:5], lost[5]._replace(results={"val_loss": 1e200}), *lost[6:]])
    assert len(found.of_metric.results) == 23
    assert found.of_metric.results.max() < 10
    assert not found.higher_is_better
    told = said_of(found, milestone(STEPS - 1, 0.7, np.random.default_rng(1)), LEVELS)
    assert told["abstained"] or abs(told["value"] - 0.28) < 0.2


def test_what_is_no_finite_number_is_not_told(fit: ForecastFit) -> None:
    wild = milestone(STEPS - 1, 0.5, np.random.default_rng(1))
    wild.features[:] = 1e300
    assert said_of(fit, wild, LEVELS)["abstained"]


def test_a_sibling_with_another_number_of_probes_is_left_out_of_the_consensus() -> None:
    runs = fleet(14)
    cut = [each._replace(predicted=each.predicted[:7], confidence=each.confidence[:7]) for each in runs[0].milestones]
    found = fit_forecasts([runs[0]._replace(milestones=cut), *runs[1:]])
    assert len(found.siblings.runs) == 13
