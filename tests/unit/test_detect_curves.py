"""Every detector on synthetic runs: it fires on planted failures, stays silent on healthy runs, and lets go."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from topowatch_monitor.detect import DETECTORS, History, Thresholds, detect_all
from topowatch_monitor.detect.level import LowLossThresholds, was_low

SEEDS = range(12)


def drive(loss=None, every=16, **others):
    """Feed curves step by step as a run would; return (step, detector, reason or None) whenever a flag changes."""
    history, on, changes = History(), {}, []
    history.chance_loss, history.resumed = others.pop("chance", None), others.pop("resumed", False)
    curves = others if loss is None else {"loss": loss, **others}
    for end in range(every, len(next(iter(curves.values()))) + 1, every):
        steps = np.arange(end - every, end)
        for name, values in curves.items():
            shown = steps if name == "loss" else steps[-1:]
            history.extend(name, shown, np.asarray(values)[shown])
        found = detect_all(history, on, Thresholds()).reasons
        history.looked()
        changes += [(end - 1, name, reason) for name, reason in found.items() if name not in on]
        changes += [(end - 1, name, None) for name in on if name not in found]
        on = found
    return changes, history


def descent(rng, steps=3000, *, chance=2.3, floor=0.2, rate=200.0, noise=0.15):
    curve = floor + (chance - floor) * np.exp(-np.arange(steps) / rate)
    return curve * (1 + noise * rng.standard_normal(steps))


def after(onset, steps):
    return np.clip(np.arange(steps) - onset, 0, None)


def healthy_gauss(rng, steps):
    return descent(rng, steps, rate=rng.uniform(50, 800), noise=0.3)


def healthy_heavy_tails(rng, steps):
    return descent(rng, steps, rate=rng.uniform(50, 800), noise=0) * rng.exponential(1, steps)


def healthy_lognormal_to_zero(rng, steps):
    return descent(rng, steps, floor=1e-4, noise=0) * np.exp(0.8 * rng.standard_normal(steps))


def healthy_correlated(rng, steps):
    return descent(rng, steps, noise=0) * (1 + 0.1 * lfilter([0.6], [1, -0.8], rng.standard_normal(steps)))


def healthy_warm_up(rng, steps):
    progress = np.cumsum(np.minimum(np.arange(steps) / 500, 1)) / 400
    return (0.1 + 2.2 * np.exp(-progress)) * (1 + 0.1 * rng.standard_normal(steps))


def healthy_rate_drop(rng, steps):
    level = np.where(np.arange(steps) < steps // 2, 0.4, 0.2) + 1.9 * np.exp(-np.arange(steps) / 150)
    return level * (1 + 0.2 * rng.standard_normal(steps))


def healthy_power_law(rng, steps):
    return 10.8 * (1 + np.arange(steps) / 20) ** -0.3 * (1 + 0.05 * rng.standard_normal(steps))


def healthy_brief_spikes(rng, steps):
    curve = descent(rng, steps, noise=0.1)
    for start in rng.integers(200, steps - 3, 8):
        curve[start : start + 3] += rng.uniform(0.5, 3)
    return curve


def healthy_converged_from_the_start(rng, steps):
    return 0.05 * np.exp(0.7 * rng.standard_normal(steps))


def healthy_constant(rng, steps):
    return np.full(steps, 0.3)


HEALTHY = [value for name, value in list(globals().items()) if name.startswith("healthy_")]


@pytest.mark.parametrize("make", HEALTHY, ids=lambda make: make.__name__)
@pytest.mark.parametrize("seed", SEEDS)
def test_healthy_runs_raise_no_flag(make, seed):
    changes, _ = drive(make(np.random.default_rng(seed), 3000))
    if make is healthy_brief_spikes:  # three steps are enough to be told, as what stays begins no other way
        changes = [change for change in changes if change[1] != "loss_jump"]
    assert changes == []


@pytest.mark.parametrize("seed", SEEDS)
def test_healthy_probe_losses_alone_raise_no_flag(seed):
    rng = np.random.default_rng(seed)
    changes, _ = drive(probe_loss=descent(rng, 4000, rate=600.0, noise=0.02), every=8)
    assert changes == []


@pytest.mark.parametrize("seed", SEEDS)
def test_healthy_resumed_and_fine_tuned_runs_may_stay_level(seed):
    level = 2.6 * (1 + 0.05 * np.random.default_rng(seed).standard_normal(3000))
    assert drive(level, resumed=True)[0] == []
    assert drive(level, chance=10.8)[0] == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("rise", "onset", "within"),
    [
        (lambda t: 2.0 * (t > 0), 2000, 20),
        (lambda t: 0.3 * (t > 0), 2000, 60),
        (lambda t: 0.01 * t, 2000, 80),
        (lambda t: 0.01 * t, 400, 120),
        (lambda t: 0.001 * t, 2000, 400),
        (lambda t: 0.01 * t, 6000, 80),
    ],
    ids=["jump", "small jump", "ramp", "early ramp", "slow ramp", "ramp after the window has moved on"],
)
def test_a_sustained_rise_fires_and_not_before_its_onset(seed, rise, onset, within):
    steps = onset + 600
    loss = descent(np.random.default_rng(seed), steps) + np.minimum(rise(after(onset, steps)), 3)
    changes, history = drive(loss, every=8)
    step, reason = next((step, reason) for step, name, reason in changes if name == "loss_rise")
    assert onset <= changes[0][0] <= step <= onset + within
    assert "above its lowest level" in reason
    assert was_low(history.curve, history.chance_loss, LowLossThresholds())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rise_lets_go_once_the_loss_is_back_and_does_not_flicker(seed):
    steps = np.arange(4000)
    hill = 1.5 * ((steps > 2000) & (steps < 2400))
    changes, _ = drive(descent(np.random.default_rng(seed), 4000) + hill)
    changes = [change for change in changes if change[1] != "loss_jump"]
    assert [name for _, name, _ in changes] == ["loss_rise", "loss_rise"]
    assert changes[1][2] is None
    assert 2400 <= changes[1][0] <= 2480


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("noise", "by"), [(0.02, 500), (0.05, 800)])
def test_a_loss_that_stays_where_it_began_fires(seed, noise, by):
    stuck = 2.3 * (1 + noise * np.random.default_rng(seed).standard_normal(1500))
    changes, history = drive(stuck, chance=2.303)
    assert [name for _, name, _ in changes] == ["loss_not_decreasing"]
    assert 400 <= changes[0][0] <= by
    assert not was_low(history.curve, history.chance_loss, LowLossThresholds())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_late_descent_releases_loss_not_decreasing(seed):
    rng = np.random.default_rng(seed)
    loss = np.concatenate([2.3 * (1 + 0.02 * rng.standard_normal(800)), descent(rng, 800, noise=0.02)])
    changes, _ = drive(loss)
    assert [(name, reason is None) for _, name, reason in changes] == [
        ("loss_not_decreasing", False),
        ("loss_not_decreasing", True),
    ]
    assert changes[1][0] >= 800


def test_one_nan_fires_even_between_two_samples_and_twenty_finite_values_release():
    loss = np.full(200, 0.5)
    loss[85] = np.nan
    changes, _ = drive(loss, every=16)
    assert [(step, name) for step, name, _ in changes] == [(95, "non_finite_loss"), (111, "non_finite_loss")]
    assert changes[0][2] == "loss is nan at step 85"
    assert changes[1][2] is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_stays_non_finite_stays_flagged(value):
    loss = np.full(400, 0.5)
    loss[200:] = value
    changes, _ = drive(loss)
    assert [(step, name) for step, name, _ in changes] == [(207, "non_finite_loss")]


def test_non_finite_weights_and_probe_losses_fire():
    weights = np.zeros(64)
    weights[31:] = 3
    assert drive(nonfinite_weights=weights, every=8)[0] == [
        (31, "non_finite_loss", "3 weights are NaN or infinite at step 31")
    ]
    probe = np.ones(64)
    probe[39] = np.inf
    assert drive(probe_loss=probe, every=8)[0][0] == (39, "non_finite_loss", "probe loss is inf at step 39")


def healthy_ratios(kind, rng, count):
    t = np.arange(count)
    rate = {
        "constant": np.ones(count),
        "warm-up": np.minimum((t + 1) / 200, 1),
        "exponential warm-up": np.minimum(1e-3 * 1.035**t, 1),
        "step drops": 0.1 ** (t // (count // 3)),
        "cosine restarts": 0.01 + 0.99 * (1 + np.cos(np.pi * (t % 150) / 150)) / 2,
        "layer that began at zero": 1000 / (t + 1),
        "adam": 1 + 30 * np.exp(-t / 3),
    }[kind]
    return 1e-3 * rate * np.exp(0.4 * rng.standard_normal(count))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "kind",
    ["constant", "warm-up", "exponential warm-up", "step drops", "cosine restarts", "layer that began at zero", "adam"],
)
def test_updates_of_healthy_schedules_raise_no_flag(kind, seed):
    ratios = healthy_ratios(kind, np.random.default_rng(seed), 600)
    assert drive(update_ratio_max=ratios, every=1)[0] == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("growth", [1.5, 100.0])
def test_updates_that_explode_fire_and_calm_ones_release(seed, growth):
    ratios = healthy_ratios("constant", np.random.default_rng(seed), 400)
    ratios[300:340] = np.minimum(1e-3 * growth ** np.arange(1, 41), 1e3)
    changes, _ = drive(update_ratio_max=ratios, every=1)
    assert [name for _, name, _ in changes] == ["exploding_update"] * 2
    assert 301 <= changes[0][0] <= 318
    assert changes[1][2] is None
    assert changes[1][0] == 344


def test_one_odd_update_is_no_explosion_but_a_non_finite_one_is():
    ratios = np.full(100, 1e-3)
    ratios[50] = 5.0
    assert drive(update_ratio_max=ratios, every=1)[0] == []
    ratios[70] = np.nan
    assert drive(update_ratio_max=ratios, every=1)[0][0] == (70, "exploding_update", "the last update is not finite")


def test_without_layer_ratios_the_norms_of_update_and_weights_are_compared():
    update = np.full(60, 0.01)
    update[40:] = 5.0
    changes, _ = drive(update_norm=update, weight_norm=np.full(60, 10.0), every=1)
    assert [(step, name) for step, name, _ in changes] == [(41, "exploding_update")]


def test_updates_of_half_the_weights_from_the_start_fire_without_a_past_to_compare():
    changes, _ = drive(update_ratio_max=np.full(20, 0.9), every=1)
    assert [(step, name) for step, name, _ in changes] == [(7, "exploding_update")]


@pytest.mark.parametrize("size", [1e308, -1e308])
@pytest.mark.parametrize("capacity", [64, 2048])
def test_losses_at_the_end_of_the_range_of_floats_overflow_nothing(size, capacity):
    """No warning, let alone an exception; and a loss that jumps there fires as any other rise does."""
    history = History(capacity)
    active: dict[str, str] = {}
    for step in range(500):
        history.extend("loss", [step], [2.0 + 0.1 * (-1) ** step if step < 300 else size])
        history.extend("update_ratio_max", [step], [0.01 if step < 300 else abs(size)])
        active = detect_all(history, active, Thresholds()).reasons
    assert ("loss_rise" in active) == (size > 0)
    assert "exploding_update" in active
    history = History()
    for name, value in (("update_norm", abs(size)), ("weight_norm", 1e-308)):
        history.extend(name, range(20), [value] * 20)
    assert detect_all(history, {}, Thresholds()).reasons["exploding_update"] == "the last update is not finite"


def test_a_run_without_any_scalar_raises_nothing():
    assert detect_all(History(), {}, Thresholds()).reasons == {}


def test_the_catalogue_names_every_detector_once_and_has_thresholds_for_each():
    names = [detector.name for detector in DETECTORS]
    assert len(set(names)) == len(names) == 32
    assert vars(Thresholds()).keys() == set(names) - {"analysis_failed"} | {"low_loss"}
    assert all(detector.meaning.endswith(".") for detector in DETECTORS)


@pytest.mark.parametrize("field", vars(Thresholds()).keys())
def test_every_threshold_says_its_reason(field):
    thresholds = getattr(Thresholds(), field)
    described = type(thresholds).__doc__ or ""
    assert all(f"{name}: " in described for name in vars(thresholds))
