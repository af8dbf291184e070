"""What other groups teach about a new one, and when they teach nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from finished_runs import STEPS, finished, fleet, milestone
from topowatch_monitor.engine.finished import LEVELS, Finished, features_at
from topowatch_monitor.engine.forecasting import forecast
from topowatch_monitor.engine.group_prior import fit_prior
from topowatch_monitor.forecast.scores import score
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
    return fit_prior("new", [], groups())


def test_a_new_group_is_forecast_from_others(prior: ForecastFit) -> None:
    assert prior.metric == "test_accuracy"
    assert prior.others == ("old-0", "old-1", "old-2", "old-3")
    assert prior.steps is None
    rng = np.random.default_rng(5)
    errors = []
    for skill in np.linspace(0.1, 0.9, 9):
        raw = features_at(milestone(STEPS - 1, skill, rng), prior.siblings, digest="cc", curve=None, steps=STEPS)
        told = forecast(prior, raw, step=STEPS - 1, level=LEVELS)
        assert told["others"] == 4
        if not told["abstained"]:
            errors.append(abs(told["value"] - 0.3 - 0.6 * skill))
    assert len(errors) >= 7
    assert np.mean(errors) < 0.1


def test_it_is_scored_on_groups_that_were_left_out_whole() -> None:
    """Where each group lies elsewhere, runs that were left out alone would be forecast well, and groups are not."""
    shifted = fit_prior("new", [], groups(shift=0.5))
    held = shifted.of_metric.levels[LEVELS - 1]
    plain = fit_prior("new", [], groups()).of_metric
    honest = score(plain.results, plain.levels[LEVELS - 1].learned.left_out).r2
    assert honest > 0.6
    assert held.learned is None or score(shifted.of_metric.results, held.learned.left_out).r2 < honest - 0.2


def test_what_does_not_carry_over_is_not_told() -> None:
    """Results that have nothing to do with what runs are like."""
    rng = np.random.default_rng(0)
    noise = [run._replace(results={"test_accuracy": float(rng.random())}) for run in groups()]
    found = fit_prior("new", noise)
    assert all(held.learned is None for held in found.of_metric.levels)
    assert "does not carry over" in found.of_metric.levels[3].reason
    raw = features_at(milestone(STEPS - 1, 0.5, rng), found.siblings, digest="", curve=None, steps=STEPS)
    assert forecast(found, raw, step=STEPS - 1, level=LEVELS)["abstained"]


def test_agreement_counts_once_the_group_has_ended_runs_to_agree_with(prior: ForecastFit) -> None:
    assert AGREEMENT.isdisjoint(prior.of_metric.levels[15].learned.table.names)
    own = [run._replace(group="new", steps=STEPS) for run in fleet(4)]
    found = fit_prior("new", own[:2], groups(), own[2:])
    assert found.steps == STEPS
    assert found.siblings.consensus is not None
    assert not AGREEMENT.isdisjoint(found.of_metric.levels[15].learned.table.names)


@pytest.mark.parametrize(
    ("own", "others", "words"),
    [
        ([], [], "0 of its runs have ended with a result: forecasts need at least 12"),
        ([], groups(2), "or 3 other groups with as many that tell test_accuracy"),
        ([run._replace(group="new", results={"bleu": 0.4}) for run in fleet(3)], groups(), "that tell bleu"),
        ([], [run._replace(results={"acc": 0.5}) for run in groups()], "all runs of other groups have the same acc"),
    ],
)
def test_where_others_cannot_help_the_reason_is_given(own: list[Finished], others: list[Finished], words: str) -> None:
    found = fit_prior("new", own, others)
    assert found.metric is None
    assert words in found.reason
