"""Scores of a detector against marked runs: what counts, and how sure the figures are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, poisson

from topowatch_monitor.detect.scoring import MERGED, RunFlags, median, rate, score, share


def healthy(*flags: tuple[int, int | None], stop: int = 1000) -> RunFlags:
    return RunFlags(0, stop, flags)


def wrong(*flags: tuple[int, int | None], onset: int = 500, departure: int | None = 600, stop: int = 1000) -> RunFlags:
    return RunFlags(0, stop, flags, onset, departure)


@st.composite
def runs(draw: st.DrawFn) -> tuple[RunFlags, list[bool]]:
    """A run, and whether the flag was on at each of its steps."""
    start = draw(st.integers(0, 10**6))
    lengths = draw(st.lists(st.integers(1, 120), min_size=1, max_size=12))
    first = draw(st.booleans())
    on = [(number % 2 == 0) == first for number, length in enumerate(lengths) for _ in range(length)]
    edges = np.cumsum([0, *lengths]).tolist()
    flags = [
        (start + edges[number], start + edges[number + 1] if number + 1 < len(lengths) else None)
        for number in range(len(lengths))
        if (number % 2 == 0) == first
    ]
    onset = draw(st.none() | st.integers(0, len(on) - 1))
    departure = None if onset is None else draw(st.none() | st.integers(onset, len(on) + 100))
    shifted = [None if step is None else start + step for step in (onset, departure)]
    return RunFlags(start, start + len(on), flags, *shifted), on


several = st.lists(runs().map(lambda drawn: drawn[0]), max_size=6)


# What counts


@pytest.mark.parametrize(
    ("run", "found", "false_alarms", "leads"),
    [
        (wrong(), 0, 0, ()),
        (wrong((500, None)), 1, 0, (100,)),
        (wrong((560, 570)), 1, 0, (40,)),
        (wrong((560, 570), (900, None)), 1, 0, (40,)),
        (wrong((700, None)), 1, 0, (-100,)),
        (wrong((700, None), departure=None), 1, 0, ()),
        (wrong((499, None)), 0, 1, ()),
        (wrong((400, 505), (520, None)), 1, 1, (80,)),
        (wrong((100, 110), (560, None)), 1, 1, (40,)),
        (healthy(), 0, 0, ()),
        (healthy((10, 20)), 0, 1, ()),
        (healthy((10, 20), (20 + MERGED, 90)), 0, 1, ()),
        (healthy((10, 20), (21 + MERGED, 90)), 0, 2, ()),
        (healthy((10, 20), (60, 70), (110, 120), (160, None)), 0, 1, ()),
    ],
)
def test_what_is_found_early_and_what_is_a_false_alarm(
    run: RunFlags, found: int, false_alarms: int, leads: tuple[int, ...]
):
    scored = score([run])
    assert (scored.found, scored.false_alarms, scored.leads) == (found, false_alarms, leads)
    assert scored.events == (run.onset is not None)
    assert scored.healthy_steps == (1000 if run.onset is None else 500)


@settings(deadline=None)
@given(drawn=runs())
def test_a_look_at_every_step_finds_the_same(drawn: tuple[RunFlags, list[bool]]):
    run, on = drawn
    rises = [at for at, now in enumerate(on) if now and not (at and on[at - 1])]
    until = len(on) if run.onset is None else run.onset - run.start
    alarms = [at for at in rises if at < until and not any(on[max(0, at - MERGED - 1) : at])]
    found = [at for at in rises if at >= until]
    scored = score([run])
    assert scored.false_alarms == len(alarms)
    assert scored.healthy_steps == until
    assert scored.found == (bool(found) and run.onset is not None)
    if found:
        assert scored.delays == (found[0] - until,)


@settings(deadline=None)
@given(flagged=several, seed=st.randoms(use_true_random=False), shift=st.integers(0, 1000))
def test_neither_the_order_of_runs_nor_the_number_of_their_first_step_matters(flagged, seed, shift):
    def moved(run: RunFlags) -> RunFlags:
        flags = [(on + shift, None if off is None else off + shift) for on, off in run.flags]
        onset, departure = (None if step is None else step + shift for step in (run.onset, run.departure))
        return RunFlags(run.start + shift, run.stop + shift, flags, onset, departure)

    shuffled = [moved(run) for run in flagged]
    seed.shuffle(shuffled)
    assert score(shuffled) == score(flagged)


@settings(deadline=None)
@given(first=several, second=several)
def test_counts_of_two_sets_of_runs_add_up(first: list[RunFlags], second: list[RunFlags]):
    one, two, both = score(first), score(second), score([*first, *second])
    for name in ("events", "found", "false_alarms", "healthy_steps"):
        assert getattr(both, name) == getattr(one, name) + getattr(two, name)
    assert both.leads == tuple(sorted((*one.leads, *two.leads)))
    assert both.worst_lead == min((*one.leads, *two.leads), default=None)


@settings(deadline=None)
@given(flagged=several, more=runs())
def test_a_silent_healthy_run_takes_nothing_away_and_makes_false_alarms_rarer(flagged, more):
    silent = replace(more[0], flags=(), onset=None, departure=None)
    before, after = score(flagged), score([*flagged, silent])
    assert (after.precision, after.recall, after.leads) == (before.precision, before.recall, before.leads)
    if before.false_alarm_rate.value:
        assert after.false_alarm_rate.value < before.false_alarm_rate.value


@settings(deadline=None)
@given(flagged=several)
def test_every_figure_lies_within_its_bounds(flagged: list[RunFlags]):
    scored = score(flagged)
    for bounds in (scored.precision, scored.recall, scored.false_alarm_rate, scored.median_lead):
        assert (bounds.value is None) <= (bounds.lower is None)
        if bounds.lower is not None:
            assert bounds.lower <= bounds.value <= bounds.upper
    assert 0 <= scored.found <= scored.events
    assert len(scored.delays) == scored.found >= len(scored.leads)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((10, 5, ()), "from step 10 on, but until before step 5"),
        ((0, 100, (), 100), "onset 100 is not among the steps observed, 0 to 99"),
        ((5, 100, (), 4), "onset 4"),
        ((0, 100, (), 50, 49), "departure 49 is before the onset, 50"),
        ((0, 100, (), None, 49), "departure 49 is before the onset, None"),
        ((0, 100, ((10, 5),)), "not ascending"),
        ((0, 100, ((10, 20), (15, 30))), "not ascending"),
        ((0, 100, ((10, None), (15, 30))), "not ascending"),
    ],
)
def test_steps_that_contradict_each_other_are_refused(arguments: tuple, words: str):
    with pytest.raises(ValueError, match=words):
        RunFlags(*arguments)


# How sure the figures are


@settings(deadline=None)
@given(of=st.integers(1, 400), data=st.data())
def test_a_share_has_the_exact_binomial_interval(of: int, data: st.DataObject):
    count = data.draw(st.integers(0, of))
    expected = binomtest(count, of).proportion_ci(0.95, method="exact")
    assert share(count, of) == pytest.approx((count / of, expected.low, expected.high), rel=1e-6, abs=1e-9)


@settings(deadline=None)
@given(count=st.integers(0, 300), steps=st.integers(1, 10**7))
def test_a_rate_has_the_interval_whose_ends_make_what_was_seen_a_rare_thing(count: int, steps: int):
    value, lower, upper = rate(count, steps)
    assert value == pytest.approx(count * 10_000 / steps)
    assert poisson.cdf(count, upper * steps / 10_000) == pytest.approx(0.025, rel=1e-6)
    if count:
        assert poisson.sf(count - 1, lower * steps / 10_000) == pytest.approx(0.025, rel=1e-6)
    else:
        assert lower == 0


@settings(deadline=None)
@given(values=st.lists(st.integers(-1000, 1000), min_size=1, max_size=200))
def test_a_median_has_the_tightest_pair_of_order_statistics_that_covers_it_often_enough(values: list[int]):
    ordered, n = sorted(values), len(values)
    value, lower, upper = median(values)
    assert value == np.median(values)
    covering = [k for k in range(1, n // 2 + 1) if 1 - 2 * binom.cdf(k - 1, n, 0.5) >= 0.95]
    assert (lower, upper) == ((ordered[covering[-1] - 1], ordered[n - covering[-1]]) if covering else (None, None))


def test_nothing_seen_tells_nothing():
    nothing = score([])
    assert {*nothing.precision, *nothing.recall, *nothing.false_alarm_rate, *nothing.median_lead} == {None}
    assert nothing.worst_lead is None
    # No false alarm in 10,000 steps: the rule of three, with a two-sided level.
    assert score([healthy(stop=10_000)]).false_alarm_rate.upper == pytest.approx(-math.log(0.025))
