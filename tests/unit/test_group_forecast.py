"""What is learned from ended runs, and when nothing is: constant results, too few, NaN, renamed, too strange."""

from __future__ import annotations

import math

import numpy as np
import pytest

from topowatch_monitor.engine.forecasting import STRANGE, forecast
from topowatch_monitor.engine.group_forecast import (
    LEVELS,
    Finished,
    ForecastFit,
    at_level,
    fit_forecasts,
    higher_is_better,
    level_of,
)
from topowatch_monitor.engine.milestones import Milestone
from topowatch_monitor.forecast.table import NAMES, TOPOLOGICAL

STEPS, PROBES, CLASSES = 320, 64, 5
TRUTH = np.random.default_rng(99).integers(0, CLASSES, PROBES)


def milestone(step: int, skill: float, rng: np.random.Generator) -> Milestone:
    """Of a run whose skill shows in some features, the more the farther it has come, and in what it predicts."""
    features = np.exp(0.3 * rng.standard_normal(len(NAMES)))
    features[[NAMES.index(name) for name in ("agreement", "agreement_mean", "agreement_sure")]] = np.nan
    progress = (step + 1) / STEPS
    features[NAMES.index("loss")] = math.exp(-2 * skill * progress + 0.05 * rng.standard_normal())
    features[NAMES.index("dimension")] = 1 + skill * progress + 0.05 * rng.standard_normal()
    right = rng.random(PROBES) < 0.2 + 0.7 * skill * progress
    predicted = np.where(right, TRUTH, rng.integers(0, CLASSES, PROBES)).astype(np.uint32)
    return Milestone(step, features, predicted, np.full(PROBES, 0.5, dtype=np.float16))


def finished(number: int, skill: float, *, steps: int = STEPS, results: dict[str, float] | None = None) -> Finished:
    rng = np.random.default_rng(number)
    milestones = [milestone(step, skill, rng) for step in [*range(0, steps - 1, 10), steps - 1]]
    known = {"test_accuracy": 0.3 + 0.6 * skill + 0.01 * rng.standard_normal()} if results is None else results
    at = np.arange(0, steps, 20)
    curve = known.get("test_accuracy", 0.5) - 0.5 * (at + 1.0) ** -0.5
    return Finished(f"r{number:03d}", 32, "aa", CLASSES, known, steps, milestones, {"test_accuracy": (at, curve)})


def fleet(count: int = 24) -> list[Finished]:
    skills = np.random.default_rng(0).random(count)
    return [finished(number, float(skill)) for number, skill in enumerate(skills)]


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
    assert at_level(run.milestones, STEPS, 8).step == 160
    assert at_level(run.milestones[:3], STEPS, 8) is None
    assert at_level([], STEPS, 8) is None


def test_losses_are_better_when_low() -> None:
    assert higher_is_better("test_accuracy")
    assert not higher_is_better("val_loss")
    assert not higher_is_better("Perplexity")
