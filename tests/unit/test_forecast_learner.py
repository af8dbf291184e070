"""Of several ways to learn, the one that errs least on runs that are left out; what moves a forecast is told."""

from __future__ import annotations

import numpy as np
import pytest

from topowatch_monitor.forecast import UnusableError, learn
from topowatch_monitor.forecast.scores import score
from topowatch_monitor.forecast.table import FEATURES, NAMES, TOPOLOGICAL

RUNS = 40
CURVE = [feature.family == "curve" for feature in FEATURES]


def features(seed: int) -> np.ndarray:
    """Features that say nothing, and no curve."""
    rng = np.random.default_rng(seed)
    raw = np.exp(0.3 * rng.standard_normal((RUNS, len(NAMES))))
    raw[:, CURVE] = np.nan
    return raw


def column(name: str) -> int:
    return NAMES.index(name)


def test_topology_is_used_where_it_helps_and_else_left_alone() -> None:
    raw = features(0)
    noise = 0.01 * np.random.default_rng(1).standard_normal(RUNS)
    told = learn(raw, 2 * raw[:, column("dimension")] + noise)
    assert "dimension" in told.table.names
    untold = learn(raw, 2 * raw[:, column("confidence")] + noise)
    assert TOPOLOGICAL.isdisjoint(untold.table.names)


def test_without_is_without() -> None:
    found = learn(features(0), np.arange(RUNS, dtype=float), TOPOLOGICAL | {"loss"})
    assert TOPOLOGICAL.isdisjoint(found.table.names)
    assert "loss" not in found.table.names


@pytest.mark.parametrize("offset", ["curve_level", "curve_drawn"])
def test_a_metric_that_is_logged_is_learned_as_the_rest_of_its_curve(offset: str) -> None:
    raw, rng = features(2), np.random.default_rng(3)
    raw[:, CURVE] = rng.random((RUNS, sum(CURVE)))
    results = raw[:, column(offset)] + 1e-3 * rng.standard_normal(RUNS) + 0.01 * raw[:, column("loss")]
    found = learn(raw, results)
    assert found.offset == offset
    high = raw[0].copy()
    high[column(offset)] += 5.0
    assert found.drivers(high)["curve"] == pytest.approx(5.0 + raw[0, column(offset)] - found.usual, abs=0.1)
    assert score(results, found.left_out).r2 > 0.999
    told = found.predict(raw[0])
    assert told.lower < results[0] < told.upper
    assert told.value == pytest.approx(results[0], abs=5e-3)
    silent = raw[0].copy()
    silent[CURVE] = np.nan
    with pytest.raises(UnusableError, match="has not logged the metric"):
        found.predict(silent)


def test_effects_are_those_of_taking_a_family_to_what_is_usual() -> None:
    raw = features(4)
    targets = 3 * np.log(raw[:, column("weight_norm")]) + 0.01 * np.random.default_rng(5).standard_normal(RUNS)
    found = learn(raw, targets)
    strong = raw[0].copy()
    strong[column("weight_norm")] = 2.0
    effects = found.drivers(strong)
    assert next(iter(effects)) == "weights"
    assert effects["weights"] == pytest.approx(3 * (np.log(2) - np.log(raw[:, column("weight_norm")]).mean()), abs=0.3)
    assert all(abs(effect) < 0.3 for family, effect in effects.items() if family != "weights")


def test_what_is_known_of_nobody_cannot_be_learned_from() -> None:
    with pytest.raises(UnusableError, match="no feature is known"):
        learn(np.full((RUNS, len(NAMES)), np.nan), np.arange(RUNS, dtype=float))


def test_runs_of_which_too_little_is_known_are_not_learned_from() -> None:
    raw = features(6)
    targets = np.log(raw[:, column("loss")])
    raw[3] = np.nan
    found = learn(raw, targets)
    assert np.isnan(found.left_out[3])
    assert np.isfinite(np.delete(found.left_out, 3)).all()
