"""Detectors of what lies around the path: a learning rate above the critical one, a shallow basin."""

from __future__ import annotations

import numpy as np

from topowatch_monitor.detect import DETECTORS, History
from topowatch_monitor.detect.critical_learning_rate import CriticalLearningRateThresholds
from topowatch_monitor.detect.critical_learning_rate import detect as too_high
from topowatch_monitor.detect.shallow_basin import ShallowBasinThresholds
from topowatch_monitor.detect.shallow_basin import detect as shallow


def flags(ratios: np.ndarray) -> list[bool]:
    """Whether the flag is on after each search."""
    history, on = History(), []
    for step, ratio in enumerate(ratios):
        history.extend("critical_lr_ratio", [step], [ratio])
        on.append(too_high(history, bool(on and on[-1]), CriticalLearningRateThresholds()) is not None)
    return on


def test_hovering_at_the_edge_of_stability_is_silent() -> None:
    """Ratios of which 45 % stand above 1, as those of healthy runs did, however far they are spread."""
    fired = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        spread = rng.uniform(0.1, 1.2)
        fired += np.diff(flags(np.exp(spread * (rng.standard_normal(500) - 0.126))), prepend=0).clip(0).sum()
    assert fired <= 1  # of 20,000


def test_a_steady_high_ratio_is_the_run_s_own_and_silent() -> None:
    rng = np.random.default_rng(0)
    assert not any(flags(3 * np.exp(0.3 * rng.standard_normal(400))))


def test_a_ratio_that_climbs_over_its_past_and_stays_fires_and_lets_go_when_it_is_back() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        level = np.concatenate([np.full(60, 0.9), np.full(20, 6.0), np.full(20, 0.9)])
        on = flags(level * np.exp(0.4 * rng.standard_normal(100)))
        assert not any(on[:60])
        assert all(on[70:80])
        assert not any(on[90:])


def test_searches_that_ended_without_an_answer_count_for_nothing() -> None:
    """Between others, or in place of them."""
    rng = np.random.default_rng(0)
    level = np.concatenate([np.full(60, 0.2), np.full(20, 3.0)]) * np.exp(0.3 * rng.standard_normal(80))
    among = np.stack([level, np.full(80, 64.0), np.full(80, 1 / 64)], axis=1).ravel()
    assert flags(among)[::3] == flags(level)
    assert any(flags(level))
    assert not any(flags(np.concatenate([np.full(40, 0.2), np.full(40, 64.0)])))


def test_a_rise_below_one_is_silent() -> None:
    assert not any(flags(np.concatenate([np.full(40, 0.05), np.full(20, 0.8)])))


def descended(depth: float, at: int = 3000) -> History:
    history = History()
    steps = np.arange(3000)
    loss = 0.2 + 2.1 * np.exp(-steps / 200) + 0.01 * np.random.default_rng(0).standard_normal(3000)
    history.extend("loss", steps, loss)
    history.extend("basin_depth", [at], [depth])
    return history


def test_a_basin_that_holds_a_twentieth_of_the_descent_or_less_is_shallow() -> None:
    thresholds = ShallowBasinThresholds()
    assert "0.05 deep" in (shallow(descended(0.05), False, thresholds) or "")
    assert shallow(descended(0.15), False, thresholds) is None
    assert shallow(descended(0.15), True, thresholds) is not None
    assert shallow(descended(0.5), True, thresholds) is None


def test_a_slice_says_nothing_of_a_run_long_after_it_or_of_one_that_has_learned_nothing() -> None:
    old = descended(0.05)
    old.extend("loss", [20_000], [0.2])
    assert shallow(old, True, ShallowBasinThresholds()) is None
    flat = History()
    flat.extend("loss", np.arange(300), np.full(300, 2.3))
    flat.extend("basin_depth", [299], [0.0])
    assert shallow(flat, False, ShallowBasinThresholds()) is None


def test_both_are_warnings() -> None:
    severities = {detector.name: detector.severity for detector in DETECTORS}
    assert severities["critical_learning_rate"] == severities["shallow_basin"] == "warning"
