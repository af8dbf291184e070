"""Rules on the curves of probe loss, gradient norm, rank and swings: they fire on planted failures and let go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.signal import detrend, lfilter

from topowatch_monitor.detect import DETECTORS, History, Thresholds
from topowatch_monitor.detect.effective_rank import effective_rank
from topowatch_monitor.detect.probe_curve import probe_curve
from topowatch_monitor.detect.series import Series
from topowatch_monitor.detect.variance_growth import swings

SEEDS = range(8)
HALVES = st.floats(-6e4, 6e4, width=16)
DETECT = {detector.name: detector.detect for detector in DETECTORS}


def drive(name, every=16, chance=None, **curves):
    """Feed curves in pieces; return (step, reason or None) whenever the flag of a rule changes."""
    history, reason, changes = History(), None, []
    history.chance_loss = chance
    for end in range(every, len(next(iter(curves.values()))) + 1, every):
        steps = np.arange(end - every, end)
        for curve, values in curves.items():
            shown = steps if curve == "loss" else steps[-1:]
            history.extend(curve, shown, np.asarray(values)[shown])
        before, reason = reason, DETECT[name](history, reason is not None, getattr(Thresholds(), name))
        if (before is None) != (reason is None):
            changes.append((end - 1, reason))
    return changes


def descent(rng, steps=3000, *, floor=0.2, rate=400.0, noise=0.1):
    return (floor + (2.3 - floor) * np.exp(-np.arange(steps) / rate)) * (1 + noise * rng.standard_normal(steps))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_probe_loss_that_rises_while_the_training_loss_falls_is_overfit(seed):
    rng = np.random.default_rng(seed)
    rise = np.clip(np.arange(3000) - 1200, 0, None) * 5e-4
    curves = {"loss": descent(rng, floor=0.001), "probe_loss": descent(rng, noise=0.02) + rise}
    [(step, reason)] = drive("overfit", **curves)
    assert 1300 <= step <= 2000
    assert "training loss fell" in reason
    stopped = {**curves, "loss": np.where(np.arange(3000) > 900, 0.5, curves["loss"])}
    assert drive("overfit", **stopped) == []
    assert drive("overfit", probe_loss=curves["probe_loss"]) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_probe_loss_that_only_stays_above_the_training_loss_is_not_overfit(seed):
    rng = np.random.default_rng(seed)
    for level in (0.2, 1e-3):
        probe = descent(rng, floor=level, noise=0.1)
        assert drive("overfit", loss=descent(rng, floor=1e-4), probe_loss=probe) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_overfit_lets_go_once_the_probe_loss_is_back(seed):
    rng = np.random.default_rng(seed)
    hill = 0.5 * ((np.arange(3600) > 1500) & (np.arange(3600) < 2400))
    curves = {"loss": descent(rng, 3600, floor=1e-3), "probe_loss": descent(rng, 3600, noise=0.02) + hill}
    assert [reason is None for _, reason in drive("overfit", **curves)] == [False, True]


@pytest.mark.parametrize("seed", SEEDS)
def test_training_on_for_as_long_as_it_took_without_an_improvement_is_overtraining(seed):
    worse = np.clip(np.arange(6000) - 1500, 0, None) * 1e-4
    probe = descent(np.random.default_rng(seed), 6000, rate=250.0, noise=0.02) + worse
    [(step, reason)] = drive("overtraining", probe_loss=probe)
    assert 1600 <= step <= 5600
    assert "has not improved by 1% in" in reason
    better = np.where(np.arange(8000) < 6000, np.resize(probe, 8000), 0.1)
    assert [reason is None for _, reason in drive("overtraining", probe_loss=better)] == [False, True]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_that_creeps_down_or_rests_or_never_left_chance_is_not_overtraining(seed):
    rng = np.random.default_rng(seed)
    assert drive("overtraining", probe_loss=descent(rng, 6000, rate=250.0, noise=0.2)) == []
    creeping = 2.3 * (1 + np.arange(6000) / 50) ** -0.5 * (1 + 0.01 * rng.standard_normal(6000))
    assert drive("overtraining", probe_loss=creeping) == []
    assert drive("overtraining", probe_loss=2.3 * (1 + 0.01 * rng.standard_normal(6000))) == []


@given(st.lists(st.floats(0, 1e300) | st.sampled_from([np.nan, np.inf]), max_size=40))
@settings(max_examples=100, deadline=None)
def test_levels_of_the_probe_loss_are_medians_of_five_finite_neighbours(values):
    series = Series()
    series.extend(np.arange(len(values)) * 8, values)
    known = [min(value, 1e150) for value in values if np.isfinite(value)]
    curve = probe_curve(series)
    if len(known) < 5:
        assert curve is None
        return
    expected = [sorted(known[place : place + 5])[2] for place in range(len(known) - 4)]
    assert curve is not None
    assert curve.levels.tolist() == expected
    assert curve.lowest == expected.index(min(expected))


def gradients(kind, rng, count=400):
    t = np.arange(count)
    level = {
        "constant": np.ones(count),
        "falls to zero": np.exp(-t / 20),
        "rises as the rate falls": np.exp(t / 150),
        "restarts": 1 + 3 * ((t % 100) < 10),
        "warm-up": 5 * np.exp(-t / 30) + 1,
    }[kind]
    return level * np.exp(0.5 * rng.standard_normal(count)) * np.where(rng.random(count) < 0.02, 30, 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["constant", "falls to zero", "rises as the rate falls", "restarts", "warm-up"])
def test_gradients_of_healthy_runs_with_heavy_tails_raise_nothing(kind, seed):
    assert drive("gradient_norm", every=1, gradient_norm=gradients(kind, np.random.default_rng(seed))) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_that_grow_as_learning_sets_in_raise_nothing(seed):
    rng = np.random.default_rng(seed)
    steps = np.arange(600)
    loss = np.where(steps < 300, 2.3, 0.3 + 2 * np.exp(-(steps - 300) / 20)) * (1 + 0.02 * rng.standard_normal(600))
    norms = np.where(steps < 300, 0.3, 5) * np.exp(0.3 * rng.standard_normal(600))
    assert drive("gradient_norm", every=4, loss=loss, gradient_norm=norms) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gradient_that_has_become_far_larger_fires_and_lets_go(seed):
    norms = np.exp(0.3 * np.random.default_rng(seed).standard_normal(400))
    norms[300:320] *= 50
    changes = drive("gradient_norm", every=1, gradient_norm=norms)
    assert [(step, reason is None) for step, reason in changes] == [(303, False), (320, True)]


def noise_of_memory(rng, memory):
    """Noise whose memory and width change from value to value: x ← memory·x + noise."""
    found, now = np.empty(len(memory)), 0.0
    for place, (keeps, kick) in enumerate(zip(memory, rng.standard_normal(len(memory)), strict=True)):
        now = found[place] = keeps * now + kick
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_swings_that_grow_wider_and_slower_fire(seed):
    """An Ornstein-Uhlenbeck process whose restoring force goes to zero, as before a fold."""
    memory = np.concatenate([np.full(1500, 0.1), np.linspace(0.1, 0.97, 500), np.full(600, 0.97)])
    loss = 1 + 0.02 * noise_of_memory(np.random.default_rng(seed), memory)
    changes = drive("variance_growth", loss=loss)
    assert changes
    assert changes[0][0] > 1500
    assert "autocorrelation" in changes[0][1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["white", "wider", "slower", "descent", "steps"])
def test_noise_that_is_wider_or_slower_alone_raises_nothing(kind, seed):
    rng = np.random.default_rng(seed)
    white, late = rng.standard_normal(2400), np.arange(2400) > 1500
    slow = lfilter([0.31], [1, -0.95], white)
    loss = {
        "white": 1 + 0.05 * white,
        "wider": 1 + 0.02 * white * np.where(late, 5, 1),
        "slower": 1 + 0.02 * np.where(late, slow, white),
        "descent": descent(rng, 2400),
        "steps": np.where(late, 0.4, 0.8) * (1 + 0.1 * white),
    }[kind]
    assert drive("variance_growth", loss=loss) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_swings_are_those_of_a_detrended_block(seed):
    """Uniform noise has nothing beyond three robust deviations, so nothing is cut."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(-1, 1, (5, 64)) + np.linspace(0, 0.5, 64) + 7
    variance, correlation = swings(blocks)
    rest = detrend(blocks, axis=1)
    np.testing.assert_allclose(variance, rest.var(axis=1), rtol=1e-9)
    expected = [np.correlate(row[1:], row[:-1])[0] / (row @ row) for row in rest]
    np.testing.assert_allclose(correlation, expected, rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(np.float64, (3, 16), elements=st.floats(-1e150, 1e150)),
    st.sampled_from([1e-6, 1.0, 1e3]),
)
def test_swings_scale_with_the_square_and_correlate_within_one(blocks, factor):
    variance, correlation = swings(blocks)
    assert (variance >= 0).all()
    assert (np.abs(correlation) <= 1 + 1e-9).all()
    scaled = swings(blocks * factor)[0]
    expected = variance * factor**2
    usual = (np.abs(blocks).max(axis=1) > 1e-100) & (np.abs(blocks).max(axis=1) < 1e100)
    np.testing.assert_allclose(
        scaled[usual], expected[usual], rtol=1e-6, atol=1e-12 * float(expected.max()) if usual.any() else 0
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 1 << 32), st.floats(1e-3, 1e3))
def test_effective_rank_counts_equal_directions_whatever_their_basis_and_scale(count, seed, scale):
    rng = np.random.default_rng(seed)
    centred = rng.standard_normal((40, count))
    directions = np.linalg.qr(centred - centred.mean(axis=0))[0]
    rotation = np.linalg.qr(rng.standard_normal((12, 12)))[0][:count]
    features = scale * directions @ rotation + rng.standard_normal(12) * scale
    assert effective_rank(features) == pytest.approx(count, rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(np.float16, st.tuples(st.integers(1, 9), st.integers(1, 7)), elements=st.floats(-6e4, 6e4, width=16))
)
def test_effective_rank_lies_between_one_and_the_rank_that_there_can_be(features):
    """And is 0 for rows that are all the same."""
    found = effective_rank(features)
    if (features == features[0]).all():
        assert found == 0
    else:
        assert 1 - 1e-9 <= found <= min(len(features) - 1, features.shape[1]) + 1e-6


def ranks(*values):
    return np.repeat(values, 16)


def test_a_representation_that_falls_into_two_dimensions_fires_and_lets_go():
    fallen = ranks(20, 18, 17, 17, 1.5, 1.4, 1.4, 6, 7, 8)
    changes = drive("rank_collapse", chance=np.log(10), representation_rank=fallen)
    assert [(step // 16, reason is None) for step, reason in changes] == [(5, False), (7, True)]
    assert "1.4 effective dimensions" in changes[0][1]


@pytest.mark.parametrize(
    ("chance", "values"),
    [
        (np.log(10), [20, 18, 15, 12, 10, 9, 9, 9]),  # neural collapse
        (np.log(2), [20, 18, 10, 4, 1.1, 1.0, 1.0]),  # of two classes
        (np.log(10), [2, 2, 1.9, 1.9, 1.9, 1.8, 1.8]),  # narrow by design
        (np.log(10), [20, 18, 17, 17, 1.5, 18, 17]),  # one odd pass
        (None, [20, 18, 10, 4, 1.1, 1.0, 1.0]),
    ],
)
def test_ranks_that_suffice_or_cannot_be_judged_raise_nothing(chance, values):
    assert drive("rank_collapse", chance=chance, representation_rank=ranks(*values)) == []
