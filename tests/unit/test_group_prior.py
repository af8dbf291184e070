"""What other groups teach about a new one, and when they teach nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from finished_runs import STEPS, finished, milestone
from topowatch_monitor.engine.finished import LEVELS, Finished, features_at
from topowatch_monitor.engine.forecasting import forecast
from topowatch_monitor.engine.group_prior import fit_prior
from topowatch_monitor.forecast.table import FEATURES

if TYPE_CHECKING:
    from topowatch_monitor.engine.group_forecast import ForecastFit

AGREEMENT = {feature.name for feature in FEATURES if feature.family == "siblings"}


def groups(count: int = 4, *, shift: float = 0.0) -> list[Finished]:
    """Groups whose results follow from what runs are like, the same in each but for a shift of its own."""
    found = []
    for number in range(count):
        for place, skill in enumerate(np.random.default_rng(number).random(14)):
            results = {"test_accuracy": 0.3 + 0.6 * float(skill) + shift * number}
            found.append(finished(100 * number + place, float(skill), results=results, group=f"old-{number}"))
    return found


@pytest.fixture(scope="module")
def prior() -> ForecastFit:
    runs = groups()
    return fit_prior(runs[::2], runs[1::2])


def test_a_new_group_is_forecast_from_others(prior: ForecastFit) -> None:
    assert prior.metric == "test_accuracy"
    assert prior.others == ("old-0", "old-1", "old-2", "old-3")
    assert prior.steps is None
    rng = np.random.default_rng(5)
    errors = []
    for skill in np.linspace(0.1, 0.9, 9):
        raw = features_at(milestone(STEPS - 1, skill, rng), prior.siblings, digest="cc", curve=None, steps=STEPS)
        told = forecast(prior, raw, digest="", step=STEPS - 1, level=LEVELS)
        if not told["abstained"]:
            assert told["others"] == 4
            errors.append(abs(told["value"] - 0.3 - 0.6 * skill))
    assert len(errors) >= 7
    assert np.mean(errors) < 0.1


def test_nothing_is_learned_of_agreement_and_nothing_scored_that_was_told_of_others(prior: ForecastFit) -> None:
    held = prior.of_metric.levels[LEVELS - 1]
    assert AGREEMENT.isdisjoint(held.learned.table.names)
    assert held.made.runs == 0
    assert set(held.baselines) == {"loss only", "weight norm and path length"}


def test_to_tell_groups_apart_is_not_enough() -> None:
    """Where each group lies elsewhere, what is forecast of one that was left out whole is worse than its mean."""
    found = fit_prior(groups(shift=2.0))
    assert all(held.learned is None for held in found.of_metric.levels)
    assert "other groups tell too little" in found.of_metric.levels[3].reason
    raw = np.ones(len(FEATURES))
    assert forecast(found, raw, digest="", step=STEPS - 1, level=LEVELS)["abstained"]


def test_results_that_have_nothing_to_do_with_runs_are_not_forecast() -> None:
    rng = np.random.default_rng(99)
    found = fit_prior([run._replace(results={"test_accuracy": float(rng.random())}) for run in groups()])
    assert all(held.learned is None for held in found.of_metric.levels)


def test_groups_that_tell_another_metric_are_left_out() -> None:
    runs = groups(5)
    odd = [run._replace(results={"bleu": 0.4}) if run.group == "old-4" else run for run in runs]
    assert fit_prior(odd).others == ("old-0", "old-1", "old-2", "old-3")


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([], "0 other groups have 12 ended runs that tell a result"),
        (groups(2), "2 other groups have 12 ended runs that tell test_accuracy"),
        ([run._replace(results={"acc": 0.5}) for run in groups()], "all runs of other groups have the same acc"),
    ],
)
def test_where_others_cannot_help_the_reason_is_given(others: list[Finished], words: str) -> None:
    found = fit_prior(others)
    assert found.metric is None
    assert words in found.reason
