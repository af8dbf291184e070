"""Detectors that measure by what a run has been through: they fire beyond it, and restarts and warm-ups stay within."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from topowatch_monitor.detect import (
    History,
    Thresholds,
    gradient_growth,
    loss_jump,
    norm_drift,
    orbiting,
    untested_rate,
    update_growth,
    violent_start,
)
from topowatch_monitor.detect.instability import instability_score
from topowatch_monitor.detect.tested import at_comparable_rates, beyond_tested

LAG, WIDTH = Thresholds().gradient_growth.lag, Thresholds().gradient_growth.width
POSITIVE = arrays(np.float64, st.integers(0, 400), elements=st.floats(1e-6, 1e6))


def history(**curves):
    found = History()
    for name, values in curves.items():
        found.extend(name, np.arange(len(values)), values)
    return found


def level(module, **curves):
    name = module.__name__.rpartition(".")[2]
    measured = module.measure(history(**curves), getattr(Thresholds(), name))
    return None if measured is None else measured.level


def noisy(values, seed=0, spread=0.2):
    return values * np.exp(spread * np.random.default_rng(seed).standard_normal(len(values)))


# The range that was tested


def slowly(values, window, minimum, width, lag):
    """Say the same as `beyond_tested`, one window at a time."""
    newest, past = values[-width:], values[: max(0, len(values) - lag)][-(window - lag) :]
    if len(newest) < width or len(past) < max(minimum, width):
        return None
    highest = max(sorted(past[start : start + width])[width // 2] for start in range(len(past) - width + 1))
    return math.log(sorted(newest)[width // 2] / highest)


@given(POSITIVE, st.integers(40, 300), st.integers(1, 60), st.integers(1, 9), st.integers(1, 30))
def test_it_is_the_newest_median_over_the_highest_of_the_past(values, window, minimum, width, lag):
    found = beyond_tested(values, window=window, minimum=minimum, width=width, lag=lag)
    assert found == pytest.approx(slowly(values, window, minimum, width, lag))


@given(POSITIVE, st.floats(1e-3, 1e3))
def test_no_unit_changes_it(values, unit):
    found, scaled = (
        beyond_tested(each, window=256, minimum=48, width=WIDTH, lag=LAG) for each in (values, values * unit)
    )
    assert found == pytest.approx(scaled, abs=1e-9) if found is not None else scaled is None


@given(POSITIVE.filter(len), st.sampled_from([math.nan, math.inf]))
def test_one_odd_value_makes_it_neither_infinite_nor_unknown(values, odd):
    spoiled = np.append(values, odd)
    found = beyond_tested(spoiled, window=256, minimum=8, width=WIDTH, lag=LAG)
    assert found is None or math.isfinite(found)


def test_fewer_values_than_the_newest_ones_have_no_past():
    for count in range(WIDTH, LAG + 32):
        assert beyond_tested(np.ones(count), window=256, minimum=32, width=WIDTH, lag=LAG) is None


def test_values_that_are_mostly_not_finite_are_beyond_everything():
    assert (
        beyond_tested(np.append(np.ones(100), [np.nan] * WIDTH), window=256, minimum=48, width=WIDTH, lag=LAG)
        == math.inf
    )


def test_only_steps_at_comparable_rates_are_compared():
    rates = np.repeat([1.0, 0.1, 1.0], 50)
    values = at_comparable_rates(history(learning_rate=rates, norm_drift=np.arange(150.0)), "norm_drift", 0.6, 200)
    assert values.tolist() == [*range(50), *range(100, 150)]


def test_values_without_a_rate_of_their_step_are_left_out_where_there_are_rates():
    found = History()
    found.extend("learning_rate", [0, 2, 4], [1.0, 1.0, 2.0])
    found.extend("norm_drift", [0, 1, 2, 4, 5], [10.0, 11.0, 12.0, 14.0, 15.0])
    assert at_comparable_rates(found, "norm_drift", 0.6, 200).tolist() == [14.0]
    assert at_comparable_rates(found, "norm_drift", 0.6, 200, relative=True).tolist() == [7.0]
    assert at_comparable_rates(history(norm_drift=[1.0, 2.0]), "norm_drift", 0.6, 200).tolist() == [1.0, 2.0]


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.9, 1.0]), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 20),
    st.booleans(),
)
def test_the_newest_are_those_among_all(steps, most, relative):
    """However far back one has to look, rates of some steps missing."""
    found = History()
    for step, (rate, told) in enumerate(steps):
        found.extend("norm_drift", [step], [step + 1.0])
        if told:
            found.extend("learning_rate", [step], [rate])
    everything = at_comparable_rates(found, "norm_drift", 0.6, 100, relative=relative)
    newest = at_comparable_rates(found, "norm_drift", 0.6, most, relative=relative)
    assert newest[-most:].tolist() == everything[-most:].tolist()


# The learning rate


def schedules():
    steps = np.arange(2000)
    cosine = 0.55 + 0.45 * np.cos(np.pi * steps / 2000)
    return {
        "constant": np.ones(2000),
        "cosine": cosine,
        "restarts": 0.55 + 0.45 * np.cos(np.pi * (steps % 500) / 500),
        "one cycle": np.concatenate([np.linspace(0.04, 1, 600), np.linspace(1, 1e-4, 1400)]),
        **{f"one cycle of cosines, {end}": one_cycle(end)[:2000] for end in (1000, 2000, 4000)},
        "exponential warm-up": np.append(1e-3 ** np.linspace(1, 0, 500), np.ones(1500)),
        "five steps up": np.minimum(1 + steps // 100, 5) / 5,
        "from next to nothing, a step up an epoch": np.maximum(np.minimum(steps // 390, 5) / 5, 1e-6),
        "three cycles, ever higher": np.repeat([1.0, 2.0, 3.0], [600, 600, 800]) * cosine,
        "inverse root": np.minimum((steps + 1) / 400, (400 / (steps + 1)) ** 0.5),
        **{f"warm-up of {length}": np.minimum((steps + 1) / length, 1) for length in (10, 50, 100, 150, 500, 1900)},
    }


def one_cycle(steps):
    """Return the rates of torch's OneCycleLR as it comes: a cosine up in three tenths of the steps, and one down."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    rates = []
    for _ in range(steps - 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(rates)


@pytest.mark.parametrize("name", schedules())
def test_no_usual_schedule_is_untested(name):
    rates = schedules()[name]
    assert max(level(untested_rate, learning_rate=rates[:end]) or 0.0 for end in range(4, len(rates) + 1, 4)) < 1


@pytest.mark.parametrize("period", [1000, 3000, 7000])
@pytest.mark.parametrize("shape", ["cosine", "steps"])
def test_a_rate_that_comes_back_after_however_long_is_not_untested(period, shape):
    """What is older than the values that are kept one by one still counts with its highest."""
    phase = np.arange(60_000) % period / period
    rates = 1e-3 * (0.505 + 0.495 * np.cos(np.pi * phase) if shape == "cosine" else np.where(phase < 0.1, 1.0, 0.1))
    run, highest = History(), 0.0
    for end in range(100, len(rates) + 1, 100):
        run.extend("learning_rate", np.arange(end - 100, end), rates[end - 100 : end])
        measured = untested_rate.measure(run, Thresholds().untested_rate)
        highest = max(highest, measured.level if measured is not None else 0.0)
    assert highest < 0.1
    run.extend("learning_rate", np.arange(60_000, 60_100), 1e-3 * 1.005 ** np.arange(1, 101))
    assert untested_rate.measure(run, Thresholds().untested_rate).level >= 1


@pytest.mark.parametrize("growth", [1.005, 1.01, 1.02, 1.1])
def test_a_rate_that_grows_is_untested_before_it_has_doubled(growth):
    rates = np.append(np.ones(400), growth ** np.arange(1, 500))
    first = next(end for end in range(400, 900) if (level(untested_rate, learning_rate=rates[:end]) or 0.0) >= 1)
    assert rates[first - 1] < 2


def test_a_rate_that_leaps_is_untested_once_the_run_has_learned_and_a_first_warm_up_is_not():
    rates = np.append(np.full(400, 1e-3), np.full(40, 3e-2))
    learned = np.append(np.linspace(3, 1, 200), np.ones(240))
    assert level(untested_rate, learning_rate=rates, loss=learned) >= 1
    waiting = np.append(np.full(400, 3.0), np.linspace(3, 1, 40))  # at a rate of next to nothing
    assert level(untested_rate, learning_rate=rates, loss=waiting) == 0


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_one_odd_rate_hides_no_rise_after_it(odd):
    rates = np.append(np.ones(500), 1.02 ** np.arange(1, 60))
    rates[100] = odd
    assert level(untested_rate, learning_rate=rates) >= 1
    assert level(untested_rate, learning_rate=np.append(np.ones(500), math.inf)) == math.inf


# Updates, gradients, batch norm


def test_updates_that_follow_the_rate_are_usual():
    rates = schedules()["restarts"]
    updates = noisy(rates * np.linspace(1, 0.2, 2000))
    assert (
        max(
            level(update_growth, learning_rate=rates[:end], pulse_update_ratio=updates[:end]) or 0.0
            for end in range(100, 2001, 20)
        )
        < 1
    )


def test_a_rate_that_has_come_down_to_zero_makes_no_update_large():
    rates = np.append(np.linspace(1, 0, 500), np.zeros(300))
    curves = {"learning_rate": rates, "pulse_update_ratio": noisy(rates)}
    for end in range(100, 801):
        assert (level(update_growth, **{name: values[:end] for name, values in curves.items()}) or 0.0) < 1


@pytest.mark.parametrize("name", ["pulse_update_ratio", "pulse_gradient_norm"])
def test_growth_at_a_constant_rate_is_seen_before_it_is_fourfold(name):
    module = update_growth if name == "pulse_update_ratio" else gradient_growth
    growth = np.append(np.ones(300), 1.02 ** np.arange(100))
    curves = {"learning_rate": np.ones(400), name: noisy(growth)}
    first = next(
        end for end in range(300, 400) if (level(module, **{key: all_[:end] for key, all_ in curves.items()}) or 0) >= 1
    )
    assert growth[first - 1] < 4


@pytest.mark.parametrize("module", [update_growth, gradient_growth])
def test_growth_as_learning_sets_in_is_no_failure_and_later_growth_is(module):
    """A deep network leaves a plateau on which gradients and updates are small."""
    name = "pulse_update_ratio" if module is update_growth else "pulse_gradient_norm"
    sizes = np.concatenate([np.full(150, 0.1), 0.1 * 1.05 ** np.arange(60), np.full(190, 1.8)])
    loss = np.concatenate([np.full(150, 5.0), np.linspace(5, 0.5, 60), np.full(290, 0.5)])
    grown = np.append(sizes, 1.8 * 1.03 ** np.arange(100))
    found = [
        level(module, learning_rate=np.ones(end), **{name: grown[:end], "loss": loss[:end]})
        for end in range(100, 501, 4)
    ]
    assert max(each or 0.0 for each in found[:75]) < 1
    assert max(each or 0.0 for each in found[75:]) >= 1


@pytest.mark.parametrize("module", [update_growth, gradient_growth])
@pytest.mark.parametrize("every", [1, 500])
def test_growth_is_judged_where_the_loss_has_little_to_fall_or_is_seldom_told(module, every):
    """As in fine-tuning, or where a trainer logs the loss at every 500th step."""
    found = History()
    found.extend("loss", np.arange(0, 2000, every), np.linspace(1.9, 1.7, 2000)[::every])
    grown = np.append(np.ones(1900), 1.03 ** np.arange(100))
    found.extend("pulse_update_ratio" if module is update_growth else "pulse_gradient_norm", np.arange(2000), grown)
    assert module.measure(found, getattr(Thresholds(), module.__name__.rpartition(".")[2])).level >= 1


def test_growth_that_has_lasted_longer_than_the_window_is_tested():
    gradients = np.append(np.ones(300), 3 * np.ones(LAG + WIDTH + 10))
    assert level(gradient_growth, learning_rate=np.ones(len(gradients)), pulse_gradient_norm=gradients) == 0


def test_gradients_that_are_not_finite_are_far_beyond_the_alarm():
    gradients = np.append(np.ones(300), np.full(8, np.inf))
    assert level(gradient_growth, learning_rate=np.ones(308), pulse_gradient_norm=gradients) == math.inf


def test_drift_of_batch_norm_counts_from_a_tenth_on():
    quiet = np.append(np.full(60, 1e-4), np.full(3, 5e-2))
    running = np.append(np.full(60, 0.05), np.full(3, 0.5))
    rates = np.ones(63)
    assert (
        level(norm_drift, learning_rate=rates, norm_drift=quiet)
        < 1
        <= level(norm_drift, learning_rate=rates, norm_drift=running)
    )


def test_batch_norm_that_is_frozen_has_stopped_running_away():
    rising = np.concatenate([np.full(60, 0.05), np.full(3, 0.9)])
    assert level(norm_drift, learning_rate=np.ones(63), norm_drift=rising) >= 1
    frozen = np.append(rising, np.zeros(3))
    assert level(norm_drift, learning_rate=np.ones(66), norm_drift=frozen) == 0


def test_batch_norm_that_was_frozen_is_judged_by_how_it_moves_later():
    thawed = np.append(np.zeros(60), 0.37 * 0.9 ** np.arange(40))
    assert all(
        (level(norm_drift, learning_rate=np.ones(end), norm_drift=thawed[:end]) or 0.0) < 1 for end in range(60, 101)
    )


# Losses


def test_a_start_that_rewrites_the_weights_is_violent_and_a_usual_one_is_not():
    assert level(violent_start, pulse_update_ratio=[1.0, 0.5, 0.3]) >= 1
    assert level(violent_start, pulse_update_ratio=[0.03, 0.07, 0.06]) < 1
    assert level(violent_start, pulse_update_ratio=[0.9, 0.01, 0.01]) < 1


def test_a_loss_far_above_chance_is_a_violent_start():
    for losses, violent in (([4.2, 7.0, 8.3], True), ([4.2, 9.0, 4.1], False), ([6.9, 7.0, 8.3], False)):
        begun = history(loss=losses)
        begun.chance_loss = 4.16
        assert (violent_start.measure(begun, Thresholds().violent_start).level >= 1) == violent
    assert level(violent_start, loss=[4.2, 7.0, 8.3]) is None


def test_updates_that_are_not_finite_are_a_violent_start_and_leave_the_score_a_number():
    for odd in (math.nan, math.inf):
        measured = violent_start.measure(history(pulse_update_ratio=[0.01, odd]), Thresholds().violent_start)
        assert measured.level == math.inf
        assert "not finite" in measured.reason
    assert 0 <= instability_score({"violent_start": math.inf, "untested_rate": math.inf}) <= 1


def test_only_the_start_is_violent():
    assert level(violent_start, pulse_update_ratio=np.ones(40)) is None
    resumed = history(pulse_update_ratio=[1.0, 1.0, 1.0])
    resumed.resumed = True
    assert violent_start.measure(resumed, Thresholds().violent_start) is None


def falling(steps=400, seed=0):
    return noisy(0.2 + 2 * np.exp(-np.arange(steps) / 100), seed, 0.1)


@pytest.mark.parametrize("seed", range(5))
def test_a_jump_is_seen_with_its_second_value(seed):
    curve = np.append(falling(seed=seed), [1.5, 1.4])
    assert level(loss_jump, loss=curve) >= 1
    assert level(loss_jump, loss=curve[:-1]) < 1


def test_where_nothing_moved_the_least_rise_is_no_jump():
    still = np.full(150, 2.302585)
    rising = np.append(still, 2.302585 + 1e-4 * np.arange(1, 7))
    assert max(level(loss_jump, loss=rising[:end]) or 0.0 for end in range(100, 157)) < 1
    assert level(loss_jump, loss=np.append(still, [2.6, 2.6])) >= 1


def test_how_high_a_loss_lies_does_not_matter_where_it_moves():
    curve = np.append(falling(), [1.5, 1.4])
    assert level(loss_jump, loss=curve + 1000) == pytest.approx(level(loss_jump, loss=curve))


def test_a_jump_that_comes_back_is_let_go():
    assert level(loss_jump, loss=np.concatenate([falling(), [1.5, 1.4, 1.3], np.full(8, 0.25)])) < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_comes_down_does_not_jump(seed):
    curve = falling(1500, seed)
    assert max(level(loss_jump, loss=curve[:end]) or 0.0 for end in range(8, 1501, 4)) < 1


# The path


def test_a_loop_has_to_stay():
    assert level(orbiting, path_loop=[1.0, 3.0]) == 0
    assert level(orbiting, path_loop=[1.0, 3.0, 3.0]) >= 1
    assert level(orbiting, path_loop=[2.5]) is None
