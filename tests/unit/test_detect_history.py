"""Series and History: bounded, truncated by rewinds, exact where they say so."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.detect import History
from topowatch_monitor.detect.history import KNOWN_NAMES
from topowatch_monitor.detect.series import MAX_MEANS, Series


def test_recent_values_are_exact_and_older_ones_are_means_of_all_of_them():
    series = Series(capacity=256)
    values = np.random.default_rng(0).standard_normal(100_000)
    for start in range(0, 100_000, 50):
        series.extend(np.arange(start, start + 50), values[start : start + 50])
    assert 128 <= len(series) <= 256
    np.testing.assert_array_equal(series.values, values[-len(series) :])
    np.testing.assert_array_equal(series.head, values[:32])
    assert len(series.old) <= MAX_MEANS
    assert series.old_count == 100_000 - len(series)
    assert series.old_steps[-1] == series.steps[0] - 1
    # Every mean is that of the values between two of its neighbours' last steps.
    bounds = np.concatenate([[0], series.old_steps + 1])
    means = [values[a:b].mean() for a, b in itertools.pairwise(bounds)]
    np.testing.assert_allclose(series.old, means, atol=1e-12)


def test_a_series_that_comes_in_one_long_piece_leaves_no_more_behind_than_one_that_comes_bit_by_bit():
    series = Series(capacity=256)
    values = np.random.default_rng(0).standard_normal(100_000)
    series.extend(np.arange(100_000), values)
    assert 128 <= len(series) <= 256
    assert series.values.base.nbytes <= 8 * 4 * 256
    assert len(series.old) <= MAX_MEANS
    assert series.old_count == 100_000 - len(series)
    np.testing.assert_array_equal(series.values, values[-len(series) :])
    np.testing.assert_array_equal(series.head, values[:32])


def test_means_leave_values_out_that_are_not_finite():
    series = Series(capacity=64)
    series.extend(np.arange(96), np.tile([1.0, np.nan, 3.0, np.inf], 24))
    assert series.old.tolist() == [2.0] * len(series.old)
    series.extend(np.arange(96, 300), np.full(204, np.nan))
    assert np.isnan(series.old[-1])


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=8, unique=True).map(sorted), max_size=12),
    cut=st.integers(0, 60),
    stop=st.none() | st.integers(0, 60),
)
def test_late_batches_and_discards_leave_what_a_dict_would(batches, cut, stop):
    series, kept = Series(), {}
    for number, steps in enumerate(batches):
        series.extend(steps, [float(number)] * len(steps))
        kept = {step: float(number) for step in steps} | kept
    series.discard(cut, stop)
    kept = {step: value for step, value in kept.items() if step < cut or (stop is not None and step >= stop)}
    assert series.steps.tolist() == sorted(kept)
    assert series.values.tolist() == [kept[step] for step in sorted(kept)]


def test_discarding_reaches_into_old_means_and_the_head():
    series = Series(capacity=64)
    series.extend(np.arange(500), np.arange(500.0))
    series.discard(100)
    assert len(series) == 0
    assert series.old_steps.max() < 100
    series.discard(10)
    assert series.head.tolist() == list(range(10))
    series.extend([10, 11], [1.0, 2.0])
    assert series.steps.tolist() == [10, 11]


def test_a_history_is_bounded_in_names_but_always_takes_those_that_detectors_read():
    history = History(names=len(KNOWN_NAMES) + 3)
    for number in range(100):
        history.extend(f"user/{number}", [1], [1.0])
    history.extend("loss", [1], [0.5])
    assert len(history.latest) == 4
    assert history.latest["loss"] == 0.5


def test_loss_falls_back_to_the_probes_and_the_curve_follows_every_change():
    history = History()
    history.extend("probe_loss", range(40), np.full(40, 2.0))
    assert history.loss.values[0] == 2.0
    assert history.curve.lowest.level == 2.0
    history.extend("loss", range(40), np.full(40, 1.0))
    assert history.curve.lowest.level == 1.0
    history.discard(20)
    assert history.curve.lowest is None
    history.forget("loss")
    assert history.loss.values[0] == 2.0


def test_what_came_since_detectors_last_looked_is_fresh_wherever_it_belongs():
    history = History()
    history.extend("loss", range(10), np.ones(10))
    assert history.fresh("loss").tolist() == list(range(10))
    history.looked()
    assert not len(history.fresh("loss"))
    assert not len(history.fresh("probe_loss"))
    history.extend("loss", [12, 13], [1.0, 1.0])
    history.extend("loss", [11], [1.0])
    assert history.fresh("loss").tolist() == [10, 11, 12]
    history.looked()
    history.extend("loss", [10], [1.0])
    assert history.loss.steps[history.fresh("loss")].tolist() == [10]
    assert History.from_state(history.state_dict()).fresh("loss").tolist() == history.fresh("loss").tolist()


@given(st.lists(st.floats(-5, 5), min_size=100, max_size=600), st.integers(0, 600))
def test_the_highest_of_what_has_become_a_mean_is_kept_over_rewinds(values, start):
    series = Series(capacity=64)
    for step, value in enumerate(values):
        series.extend([step], [value])
    assert series.old_highest == max(values[: len(values) - len(series)])
    series.discard(start)
    kept = int(series.old_steps[-1]) + 1 if len(series.old_steps) else 0
    assert series.old_highest == max(values[:kept], default=-math.inf)


@pytest.mark.parametrize("length", [100, 200, 5000])
def test_a_long_series_can_be_forgotten_from_its_first_step_on(length):
    series = Series(capacity=64)
    for start in range(0, length, 20):
        series.extend(np.arange(start, start + 20), np.ones(20))
    series.discard(0, 10)
    series.discard(0)
    assert not len(series)
    assert not len(series.old)
    assert not len(series.head)
    assert series.old_highest == -math.inf


def test_means_of_a_long_run_stay_as_fine_as_there_is_room_for():
    series = Series(capacity=64)
    values = np.arange(100_000.0)
    for start in range(0, len(values), 1000):
        series.extend(np.arange(start, start + 1000), values[start : start + 1000])
    widths = np.diff(series.old_steps, prepend=-1)
    assert widths.max() <= 512
    assert series.old_highest == values[len(values) - len(series) - 1]


def test_a_restored_history_goes_on_as_the_original():
    first = History(capacity=64)
    first.chance_loss, first.resumed = 2.3, True
    values = np.random.default_rng(1).standard_normal(700)
    first.extend("loss", range(500), values[:500])
    second = History.from_state(first.state_dict())
    for history in (first, second):
        history.extend("loss", range(500, 700), values[500:])
    assert repr(first.state_dict()) == repr(second.state_dict())


pieces = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 40), st.sampled_from([4.0, 2.0, math.nan])),
        st.tuples(st.just("discard"), st.integers(0, 300), st.integers(1, 100)),
        st.tuples(st.just("chance"), st.just(0), st.sampled_from([None, 3.0, 7.0])),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(pieces, st.sampled_from([64, 512]))
def test_what_is_kept_to_spare_work_says_what_a_restored_history_finds_anew(done, capacity):
    """The curve and the step from which on something was learned, whatever came, was taken back, or is no number."""
    lived, step = History(capacity), 0
    for what, number, value in done:
        if what == "add":
            lived.extend("loss", np.arange(step, step + number), value * (1 - 1e-3 * np.arange(number)))
            step += number
        elif what == "discard":
            lived.discard(number, number + value)
        else:
            lived.chance_loss = value
        anew = History.from_state(lived.state_dict())
        for share in (0.8, 0.6):
            assert lived.learned(share) == anew.learned(share)
        for name in ("initial", "head", "lowest", "count", "settled", "begun"):
            assert getattr(lived.curve, name) == getattr(anew.curve, name), name
