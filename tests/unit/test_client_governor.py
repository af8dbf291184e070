"""The governor keeps the cost under the cap, in powers of two, with times that the test makes up."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from topowatch_client.governor import Budget, Governor, Spent, power_of_two_above

CAP = 0.005
WINDOW = 1 << 12
SECONDS = st.floats(1e-5, 1.0)


def spent(seconds: float) -> Spent:
    return Spent(seconds, 2 * seconds)


@dataclass
class Job:
    """A job with given costs in seconds; each step that is slowed is noted with what it is slowed by."""

    step: float
    sample: float
    look: float = 0.0
    probe: float = 0.0
    plain: float = 0.0
    cold: float = 1.0  # times what the first sample and pass cost
    accelerator: bool = False  # which tells what a second look costs just after the first
    jitter: float = 0.0  # by which every fifth step is longer
    number: int = 0
    slowed: list[tuple[int, float]] = field(default_factory=list)

    def run(self, governor: Governor, steps: int) -> float:
        """Return the share of the time that looking took."""
        own_total = wall_total = 0.0
        for _ in range(steps):
            own, step = 0.0, self.step * (1 + self.jitter * (self.number % 5 == 3))
            warm = 1.0 if self.number else self.cold
            sampled, prepared = governor.samples_at(self.number), governor.prepares_at(self.number)
            if sampled:
                own += self.sample * warm
                if governor.probes_at(self.number):
                    own += self.probe * warm
                    governor.on_probe(spent(self.probe * warm))
                if self.accelerator and not self.number:
                    governor.on_warm(spent(self.look))
                governor.on_sample(spent(self.sample * warm))
            elif prepared:
                own += self.look
                governor.on_look(spent(self.look))
            if own:
                self.slowed.append((self.number, own / self.step))
            own_total, wall_total = own_total + own, wall_total + step + own + self.plain
            governor.on_step(spent(step + own + self.plain), spent(own + self.plain), plain=not (sampled or prepared))
            self.number += 1
        return own_total / wall_total


def settled(job: Job, budget: Budget | None = None, steps: int = WINDOW) -> tuple[Governor, float]:
    """Return the governor and the share of looking in the second half."""
    governor = Governor(budget or Budget(cap=CAP, probes=job.probe > 0))
    job.run(governor, steps)
    job.slowed.clear()
    return governor, job.run(governor, steps)


@settings(max_examples=15, deadline=None)
@given(step=SECONDS, sample=st.floats(1e-4, 0.5), looks=st.floats(0.3, 1.0), probe=st.floats(0.0, 1.0))
def test_the_cost_of_looking_stays_under_the_cap(step: float, sample: float, looks: float, probe: float) -> None:
    """Costs are drawn as shares of a step."""
    job = Job(step, step * sample, step * sample * looks, step * probe)
    governor, share = settled(job)
    assert share <= CAP
    assert governor.probe_interval >= governor.interval
    for interval in (governor.interval, governor.update_interval, governor.probe_interval):
        assert interval.bit_count() == 1


@settings(max_examples=15, deadline=None)
@given(step=SECONDS, sample=st.floats(1e-4, 0.5), looks=st.floats(0.3, 1.0), probe=st.floats(0.0, 1.0))
@example(step=1.0, sample=0.00390625, looks=1.0, probe=0.00390625)  # together more than either
def test_few_steps_are_slower_than_the_rest(step: float, sample: float, looks: float, probe: float) -> None:
    """At most one step in a hundred by more than a twenty-fifth, at most one in fifty by more than a two-hundredth."""
    job = Job(step, step * sample, step * sample * looks, step * probe)
    settled(job)
    assert sum(slowed > 0.041 for _, slowed in job.slowed) <= WINDOW / 100
    assert sum(slowed > 0.0051 for _, slowed in job.slowed) <= WINDOW / 50


@given(step=SECONDS, one=SECONDS, other=SECONDS, length=st.integers(100, 3000))
@settings(max_examples=30, deadline=None)
def test_samples_of_the_slower_rank_are_a_subset(step: float, one: float, other: float, length: int) -> None:
    """Ranks that choose differently still meet, without having talked to each other."""
    governors = [Governor(Budget(cap=CAP)) for _ in range(2)]
    for governor, cost in zip(governors, (one, other), strict=True):
        Job(step, cost, cost).run(governor, length)
    frequent, seldom = sorted(governors, key=lambda governor: governor.interval)
    assert all(frequent.samples_at(at) for at in range(0, 1 << 16, 64) if seldom.samples_at(at))


@given(step=SECONDS, sample=SECONDS, plain=st.floats(0.0, 1e-3), length=st.integers(1, 500))
@settings(max_examples=30, deadline=None)
def test_its_own_figure_is_the_share_that_was_spent(step: float, sample: float, plain: float, length: int) -> None:
    job = Job(step, sample, sample, plain=plain)
    governor = Governor(Budget(cap=CAP))
    share = job.run(governor, length)
    own, whole = governor.account
    assert whole.wall * 2 == pytest.approx(whole.cpu)
    assert governor.total_ratio == pytest.approx(own.wall / whole.wall)
    assert governor.total_ratio == pytest.approx(share + length * plain / whole.wall)


def test_the_cap_is_used_and_not_left_lying() -> None:
    """Looking less often than needed wastes what may be seen: at most a factor of four is left, for powers of two."""
    assert settled(Job(step=0.4, sample=2e-3, look=2e-3))[1] >= CAP / 4


@pytest.mark.parametrize("cost", [6e-3, 3.9e-2])
def test_one_sample_in_64_where_it_lies_within_the_noise_of_a_step(cost: float) -> None:
    """Its update, which takes a second look, comes with every fourth of them."""
    governor, _ = settled(Job(step=1.0, sample=cost, look=0.6 * cost))
    assert (governor.interval, governor.update_interval) == (64, 256)


def test_dear_samples_are_rare_and_have_their_updates() -> None:
    governor, _ = settled(Job(step=1.0, sample=0.06, look=0.05))
    assert (governor.interval, governor.update_interval) == (256, 256)


@pytest.mark.parametrize(("jitter", "interval"), [(0.03, 256), (0.05, 256), (0.2, 64)])
def test_what_is_dear_depends_on_what_steps_differ_by_anyway(jitter: float, interval: int) -> None:
    governor, _ = settled(Job(step=1.0, sample=0.06, look=0.05, jitter=jitter))
    assert (governor.interval, governor.update_interval) == (interval, 256)


def test_cheap_samples_of_slow_steps_are_taken_at_every_step() -> None:
    governor, _ = settled(Job(step=1.0, sample=1e-3, look=1e-3), steps=200)
    assert governor.interval == governor.update_interval == 1


def test_a_first_sample_that_is_dear_is_not_repeated_soon() -> None:
    """Nothing is known before the fourth step; from then on no second sample comes that the cap does not pay for."""
    job = Job(step=0.01, sample=0.5, look=0.5)
    governor = Governor(Budget(cap=CAP))
    job.run(governor, 1000)
    assert [number for number, _ in job.slowed] == [0]
    assert governor.interval >= 1024


def test_a_first_sample_that_was_only_cold_is_forgiven() -> None:
    job = Job(step=0.1, sample=2e-3, look=1e-3, cold=10.0)
    governor = Governor(Budget(cap=CAP))
    job.run(governor, 300)
    assert governor.interval == 64
    assert [number for number, _ in job.slowed if number <= 128] == [0, 64, 128]


def test_on_an_accelerator_a_first_sample_may_take_a_thousand_times_what_others_do() -> None:
    """As kernels are loaded, and libraries begin: seen on an NVIDIA GPU, where no second sample came."""
    job = Job(step=0.1, sample=2e-3, look=1e-3, probe=0.02, cold=1000.0, accelerator=True)
    governor = Governor(Budget(cap=CAP, probes=True))
    job.run(governor, 2100)
    assert governor.interval == 64
    assert [number for number, _ in job.slowed if number <= 128 and number % 64 == 0] == [0, 64, 128]
    assert governor.probe_interval <= 1024


def test_items_that_travel_between_samples_do_not_keep_intervals_as_they_are() -> None:
    """Each asks for the ratio, which accounts for the steps so far."""
    governor = Governor(Budget(cap=CAP))
    Job(step=2e-4, sample=1e-3, look=1e-3).run(governor, 8)
    assert governor.interval >= 512
    slow = Job(step=0.1, sample=1e-3, number=8)
    for _ in range(24):
        slow.run(governor, 8)
        governor.take_ratio()
    assert governor.interval == 64


def test_on_an_accelerator_dear_looks_are_still_rare() -> None:
    job = Job(step=0.01, sample=0.5, look=0.5, probe=0.01, accelerator=True)
    governor = Governor(Budget(cap=CAP, probes=True))
    job.run(governor, 1000)
    assert [number for number, _ in job.slowed] == [0]


def test_follows_a_job_that_becomes_slower_and_faster() -> None:
    governor = Governor(Budget(cap=CAP))
    intervals = []
    number = 0
    for step in (0.01, 0.5, 0.01):
        job = Job(step, sample=2e-3, look=2e-3, number=number)
        job.run(governor, 4096)
        number = job.number
        intervals.append(governor.interval)
    assert intervals[1] < intervals[0] == intervals[2]


def test_one_slow_sample_does_not_change_the_interval() -> None:
    governor, _ = settled(Job(step=0.01, sample=1e-3, look=1e-3))
    before = governor.interval
    governor.on_sample(spent(10.0))
    assert governor.interval == before


def test_the_clock_that_shows_more_counts() -> None:
    """A disk that stalls takes wall time alone, a forwarder on another core processor time alone."""
    assert Spent(1.0, 1.0).share_of(Spent(10.0, 20.0)) == pytest.approx(0.1)
    assert Spent(0.1, 4.0).share_of(Spent(10.0, 20.0)) == pytest.approx(0.2)
    assert Spent(1.0, 1.0).share_of(Spent(10.0, 0.0)) == pytest.approx(0.1)
    assert Spent().share_of(Spent()) == 0.0


def test_the_forwarder_and_plain_steps_leave_less_for_looking() -> None:
    alone, _ = settled(Job(step=1.0, sample=4e-3, look=4e-3))
    paying, _ = settled(Job(step=1.0, sample=4e-3, look=4e-3, plain=2.4e-3))
    assert paying.interval > alone.interval
    governor = Governor(Budget(cap=CAP))
    job = Job(step=1.0, sample=4e-3, look=4e-3)
    for _ in range(100):
        job.run(governor, 16)
        governor.on_forwarder(16 * 2 * 2.4e-3)
    assert governor.interval == paying.interval
    assert governor.total_ratio > governor.account[0].wall / governor.account[1].wall


@pytest.mark.parametrize(("wanted", "chosen"), [(1, 1), (2, 2), (3, 4), (50, 64), (64, 64)])
def test_a_fixed_interval_is_rounded_up_and_kept(wanted: int, chosen: int) -> None:
    governor = Governor(Budget(interval=wanted, probes=True))
    assert governor.interval == chosen == power_of_two_above(wanted)
    Job(step=1e-3, sample=1.0, look=1.0, probe=1.0).run(governor, 2000)
    assert (governor.interval, governor.update_interval, governor.probe_interval) == (chosen, chosen, 4 * chosen)


def test_a_fixed_probe_interval_comes_back_once_samples_are_as_frequent_again() -> None:
    governor = Governor(Budget(probe_interval=32, probes=True))
    Job(step=0.1, sample=2.0, look=2.0, probe=0.1).run(governor, 4000)
    assert governor.probe_interval == governor.interval > 32
    Job(step=0.1, sample=1e-5, look=1e-5, probe=0.1).run(governor, 40_000)
    assert governor.interval <= governor.probe_interval == 32


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
    governor.on_step(spent(1.0), spent(0.1))
    governor.on_step(spent(1.0), spent(0.0))
    assert governor.take_ratio() == pytest.approx(0.05)
    governor.on_step(spent(1.0), spent(0.0))
    assert 0.03 < governor.take_ratio() < 0.05
    assert governor.total_ratio == pytest.approx(0.1 / 3)
    for _ in range(300):
        governor.on_step(spent(1.0), spent(0.01))
        ratio = governor.take_ratio()
    assert ratio == pytest.approx(0.01, rel=1e-3)
