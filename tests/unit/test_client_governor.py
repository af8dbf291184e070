"""The governor keeps the cost under the cap, in powers of two, with times that the test makes up."""

from __future__ import annotations

import pytest

from topowatch_client.governor import Budget, Governor, power_of_two_above


def drive(governor: Governor, steps: int, *, step: float, sample: float, probe: float = 0.0) -> float:
    """Run a job with given costs in seconds; return the share of time that watching took in the second half."""
    own_total = wall_total = 0.0
    for number in range(steps):
        own = 0.0
        if governor.samples_at(number):
            own += sample / 2
            if governor.probes_at(number):
                own += probe
        if governor.prepares_at(number):
            own += sample / 2
        governor.on_step(step + own, own)
        if governor.samples_at(number):
            if governor.probes_at(number):
                governor.on_probe(probe)
            governor.on_sample(sample)
        if number >= steps // 2:
            own_total, wall_total = own_total + own, wall_total + step + own
    return own_total / wall_total


@pytest.mark.parametrize("step", [1e-3, 1e-2, 0.1, 1.0])
@pytest.mark.parametrize("sample", [1e-4, 1e-3, 2e-2])
@pytest.mark.parametrize("probe", [0.0, 5e-3, 5e-2])
def test_the_measured_cost_stays_under_the_cap(step: float, sample: float, probe: float) -> None:
    governor = Governor(Budget(cap=0.005, probes=probe > 0))
    share = drive(governor, 40_000, step=step, sample=sample, probe=probe)
    assert share <= 0.005
    assert governor.interval.bit_count() == governor.probe_interval.bit_count() == 1
    assert governor.probe_interval >= governor.interval


def test_the_cap_is_used_and_not_left_lying() -> None:
    """Looking less often than needed wastes what may be seen: at most a factor of four is left, for powers of two."""
    governor = Governor(Budget(cap=0.005))
    assert drive(governor, 40_000, step=0.05, sample=2e-3) >= 0.005 / 4


def test_cheap_samples_of_slow_steps_are_taken_at_every_step() -> None:
    governor = Governor(Budget(cap=0.005))
    drive(governor, 200, step=1.0, sample=1e-3)
    assert governor.interval == 1


def test_follows_a_job_that_becomes_slower_and_faster() -> None:
    governor = Governor(Budget(cap=0.005))
    drive(governor, 5000, step=0.01, sample=2e-3)
    fast = governor.interval
    drive(governor, 5000, step=0.1, sample=2e-3)
    slow = governor.interval
    drive(governor, 5000, step=0.01, sample=2e-3)
    assert slow < fast == governor.interval


def test_one_slow_sample_does_not_change_the_interval() -> None:
    governor = Governor(Budget(cap=0.005))
    drive(governor, 5000, step=0.01, sample=1e-3)
    before = governor.interval
    governor.on_sample(10.0)
    assert governor.interval == before


@pytest.mark.parametrize(("wanted", "given"), [(1, 1), (2, 2), (3, 4), (50, 64), (64, 64)])
def test_a_fixed_interval_is_rounded_up_and_kept(wanted: int, given: int) -> None:
    governor = Governor(Budget(interval=wanted, probes=True))
    assert governor.interval == given == power_of_two_above(wanted)
    drive(governor, 2000, step=1e-3, sample=1.0, probe=1.0)
    assert (governor.interval, governor.probe_interval) == (given, 4 * given)


def test_probes_are_off_without_a_probe_set_and_fall_on_samples() -> None:
    assert not Governor(Budget()).probes_at(0)
    governor = Governor(Budget(interval=4, probe_interval=2, probes=True))
    assert governor.probe_interval == 4
    assert all(governor.samples_at(step) for step in range(100) if governor.probes_at(step))


def test_the_step_before_a_sample_is_prepared() -> None:
    governor = Governor(Budget(interval=8))
    assert [step for step in range(20) if governor.prepares_at(step)] == [7, 15]
    assert [step for step in range(20) if governor.samples_at(step)] == [0, 8, 16]


def test_the_ratio_is_that_of_lately() -> None:
    """One burst does not make it, and an old one is forgotten."""
    governor = Governor(Budget())
    assert governor.take_ratio() == 0.0
    governor.on_step(1.0, 0.1)
    governor.on_step(1.0, 0.0)
    assert governor.take_ratio() == pytest.approx(0.05)
    governor.on_step(1.0, 0.0)
    assert 0.03 < governor.take_ratio() < 0.05
    assert governor.total_ratio == pytest.approx(0.1 / 3)
    for _ in range(300):
        governor.on_step(1.0, 0.01)
        ratio = governor.take_ratio()
    assert ratio == pytest.approx(0.01, rel=1e-3)
