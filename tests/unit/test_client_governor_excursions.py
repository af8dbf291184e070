"""What excursions from the weights cost stays under the same cap as all else, with times that the test makes up."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_client.governor import Budget, Governor, Spent

CAP = 0.005
STEPS = 1 << 14


def run(
    governor: Governor, step: float, probe: float, *, slices: bool = False, start: int = 0, sample: float = 0.02
) -> tuple[float, int, int]:
    """Train for `STEPS`; return the share of looking, searches, and points of a slice that never ends.

    Costs are in seconds, but for that of a sample, which is in steps.
    """
    sample, total, own_total, searches, points = sample * step, 0.0, 0.0, 0, 0
    for number in range(start, start + STEPS):
        own = 0.0
        if slices and governor.points_at(number):
            own += 1.2 * probe
            points += 1
            governor.on_point(Spent(1.2 * probe, 1.2 * probe))
        elif not slices and governor.searches_at(number):
            own += 11 * probe
            searches += 1
            governor.on_search(Spent(11 * probe, 11 * probe))
        if governor.samples_at(number):
            own += sample * (1 + governor.gradients_at(number))
            if governor.probes_at(number):
                own += probe
                governor.on_probe(Spent(probe, probe))
            governor.on_sample(Spent(sample, sample))
        elif governor.prepares_at(number):
            own += sample
            governor.on_look(Spent(sample, sample))
        own_total, total = own_total + own, total + step + own
        governor.on_step(Spent(step + own, step + own), Spent(own, own), plain=not own)
    return own_total / total, searches, points


@settings(max_examples=12, deadline=None)
@given(st.floats(1e-4, 1.0), st.floats(0.01, 2.0), st.booleans())
def test_all_looking_together_stays_under_the_cap(step: float, probe: float, slices: bool) -> None:
    """Costs are drawn as shares of a step; the first half is there to settle."""
    governor = Governor(Budget(cap=CAP, probes=True, excursions=True))
    run(governor, step, probe * step, slices=slices)
    share, _, _ = run(governor, step, probe * step, slices=slices, start=STEPS)
    assert share <= CAP
    assert governor.critical_interval >= 2 * governor.probe_interval
    for interval in (governor.critical_interval, governor.point_interval, governor.gradient_interval):
        assert interval.bit_count() == 1
    assert governor.critical_interval % governor.probe_interval == 0  # a search has a sample to go with


def test_what_is_reserved_for_them_is_used() -> None:
    governor = Governor(Budget(cap=CAP, probes=True, excursions=True))
    run(governor, 0.1, 0.01, slices=False)
    assert run(governor, 0.1, 0.01, slices=False, start=STEPS)[1] >= 4
    assert run(governor, 0.1, 0.01, slices=True, start=2 * STEPS)[2] >= 50


def test_the_first_search_waits_until_its_cost_can_be_told_from_probe_passes() -> None:
    """A blind one after 4,096 steps would be dear where a pass takes as long as a step."""
    governor = Governor(Budget(cap=CAP, probes=True, excursions=True))
    run(governor, 0.1, 0.1, slices=False)
    assert governor.critical_interval >= STEPS


@pytest.mark.parametrize(("wanted", "chosen"), [(1, 16), (100, 128), (1024, 1024)])
def test_a_fixed_interval_is_rounded_up_and_kept(wanted: int, chosen: int) -> None:
    governor = Governor(Budget(cap=CAP, interval=16, probe_interval=32, critical_interval=wanted, excursions=True))
    run(governor, 0.1, 0.1, slices=False)
    assert governor.critical_interval == chosen


def test_a_fixed_interval_comes_back_once_samples_are_as_frequent_again() -> None:
    governor = Governor(Budget(cap=CAP, critical_interval=4, excursions=True))
    assert governor.critical_interval == governor.interval == 16  # a search has a sample to go with from the start
    run(governor, 0.1, 0.1, sample=2.0)
    assert governor.critical_interval == governor.interval > 16
    run(governor, 0.1, 0.1, sample=1e-5)
    assert governor.critical_interval == max(governor.interval, 4) <= 16


def test_what_hooks_on_the_jobs_own_passes_cost_does_not_tell_what_a_search_would() -> None:
    """Without a probe set these are all that is known before the first."""
    governor = Governor(Budget(cap=CAP, excursions=True))
    first = governor.critical_interval, governor.point_interval
    for number in range(STEPS // 4):
        if number % governor.probe_interval == 0:
            governor.on_probe(Spent(1e-6, 1e-6))
        if governor.samples_at(number):
            governor.on_sample(Spent(1e-3, 1e-3))
        governor.on_step(Spent(0.1, 0.1), Spent(), plain=True)
    assert (governor.critical_interval, governor.point_interval) == first


@pytest.mark.parametrize("probe", [0.075, 0.15])
def test_without_excursions_nothing_is_kept_back_for_them(probe: float) -> None:
    """The intervals that these passes ask for lie just below a power of two."""
    without, along = (Governor(Budget(cap=CAP, probes=True, excursions=each)) for each in (False, True))
    assert not along.searches_at(0)  # no update has been seen
    for governor in (without, along):
        run(governor, 0.1, probe)
    assert without.probe_interval < along.probe_interval
    assert not any(without.searches_at(step) or without.points_at(step) for step in range(STEPS))
