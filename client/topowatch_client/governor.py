"""Keeps what watching costs under its cap by choosing how often to look. Pure logic; times are handed in.

Intervals are powers of two and samples fall on multiples of them, so that ranks that choose differently still meet: the
steps of the slower one are a subset of those of the faster one.

Two things are bounded: the share of all time, by the cap, and how many steps are slower than the rest. What takes more
than a two-hundredth of a step is done at one step in 64 at most. What takes more than a twenty-fifth, and more than
one step in ten differs from the usual anyway, is done at one in 256, so that the slowest hundredth of all steps stays
what it was.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FIRST_INTERVAL = 16
_FIRST_PROBES = 256
_FIRST_SEARCHES = 16  # probe passes
_LONGEST = 1 << 20
_LOOK_BACK = 8  # costs that a choice rests on
_STEPS_BACK = 64  # steps that tell what a step takes
_FEW_STEPS = 4  # the first of them that are enough to choose
_CHOOSE_EVERY = 16  # steps: choosing costs something itself
_HEADROOM = 0.8  # of the cap: the rest is for what no clock of ours sees, such as caches that are cold afterwards
_LEAST = 0.25  # of that, kept for looking where hooks and the forwarder use up the rest
_PROBE_SHARE = 0.5  # of what is left for looking, where probes run
_PULSE_SHARE = 0.15  # of the cap, for the pulse
_EXCURSION_SHARE = 0.15  # of what is left for looking, for losses at weights that the model does not have
_GRADIENT_SHARE = 0.05  # the same for sketches of the gradient
_SEARCH_PASSES = 10  # what a search for the critical step is taken to cost before the first
_RATIO_DECAY = 0.96  # a sample: halves in 17, as costs come in bursts (a probe pass with every fourth sample or rarer)
_HYSTERESIS = 0.75  # an interval shortens only if the shorter one stays well below the cap

_COLD = 8.0  # times what later samples take: the first one also builds tables and loads code
_LOOKS = 3.0  # that take as long as a sample: with what else it reads, and with putting it away
_PASSED_ONCE = 1024  # steps at most to the second probe pass on an accelerator
_UNSEEN = 0.005  # of a step: what takes no more may be done at any step
_WITHIN_NOISE = 0.04  # up to this, or to what steps differ by anyway, one step in 64 may be slower
_UPPER = 0.9  # of all steps: the slower ones tell what steps differ by
_SELDOM = 64
_RARE = 256  # with the step before and the one after, which puts the sample away, about one step in a hundred


class Spent(NamedTuple):
    """Seconds used up."""

    wall: float = 0.0  # on an accelerator the time that it was kept busy, where that is longer
    cpu: float = 0.0  # of all threads

    def plus(self, other: Spent) -> Spent:
        """Return the sum."""
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def minus(self, other: Spent) -> Spent:
        """Return the difference, not below zero."""
        return Spent(max(self.wall - other.wall, 0.0), max(self.cpu - other.cpu, 0.0))

    def times(self, factor: float) -> Spent:
        """Return `factor` times as much."""
        return Spent(self.wall * factor, self.cpu * factor)

    def share_of(self, whole: Spent) -> float:
        """Return the larger of the two shares; 0 of nothing."""
        return max((part / of for part, of in zip(self, whole, strict=True) if of > 0), default=0.0)


def power_of_two_above(number: float) -> int:
    """Return the smallest power of two that is ≥ `number` (1 for anything up to 1)."""
    power = 1
    while power < number and power < _LONGEST:
        power *= 2
    return power


@dataclass(frozen=True)
class Budget:
    """What the governor may use."""

    cap: float = 0.005  # share of time
    interval: int | None = None  # fixed steps between samples, rounded up to a power of two
    probe_interval: int | None = None  # the same between probe passes; None: four samples where `interval` is fixed
    pulse_interval: int | None = None  # the same between beats of the pulse
    critical_interval: int | None = None  # the same between searches for the critical step
    probes: bool = False
    excursions: bool = False  # searches for the critical step, loss slices, sketches of the gradient


class Governor:
    """Chooses the intervals between samples, updates (samples with a look one step before), probe passes and more.

    The others are multiples of the first. Searches for the critical step are rarer than probe passes.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.interval = power_of_two_above(budget.interval or _FIRST_INTERVAL)
        self.update_interval = self.interval
        wanted = budget.probe_interval or (self.interval * 4 if budget.interval else _FIRST_PROBES)
        self._probes_wanted = power_of_two_above(wanted)
        self._probes_fixed = budget.probe_interval is not None or budget.interval is not None
        self.pulse_interval = power_of_two_above(budget.pulse_interval or 1)
        self._searches_wanted = power_of_two_above(budget.critical_interval or _FIRST_SEARCHES * self.probe_interval)
        self.point_interval = self.gradient_interval = self.interval
        self._warm: Spent | None = None  # a look, just after the first one
        self._looks: deque[Spent] = deque(maxlen=_LOOK_BACK)
        self._samples: deque[Spent] = deque(maxlen=_LOOK_BACK)
        self._probes: deque[Spent] = deque(maxlen=_LOOK_BACK)
        self._beats: deque[Spent] = deque(maxlen=_LOOK_BACK)
        self._searches: deque[Spent] = deque(maxlen=_LOOK_BACK)
        self._points: deque[Spent] = deque(maxlen=_LOOK_BACK)
        self._steps: deque[Spent] = deque(maxlen=_STEPS_BACK)
        self._plain: deque[Spent] = deque(maxlen=_STEPS_BACK)  # our share of steps without a look
        self._news: list[tuple[Spent, Spent, bool]] = []  # steps that are not yet accounted for: it costs less at once
        self._unchosen = 0  # steps since intervals were chosen
        self._own, self._whole = Spent(), Spent()  # since the start
        self._window_own, self._window_whole = Spent(), Spent()  # lately
        self._window_forwarder = Spent()

    @property
    def probe_interval(self) -> int:
        """Steps between probe passes; a sample goes with each."""
        return max(self._probes_wanted, self.interval)

    @property
    def critical_interval(self) -> int:
        """Steps between searches for the critical step; a sample is to go with each."""
        return max(self._searches_wanted, self.interval)

    @property
    def account(self) -> tuple[Spent, Spent]:
        """(our time, all time) since the start."""
        self._fold()
        return self._own, self._whole

    @property
    def total_ratio(self) -> float:
        """Our time over all time since the start, by the clock that shows more; 0 before the first step."""
        own, whole = self.account
        return own.share_of(whole)

    @property
    def typical_probe_cost(self) -> float | None:
        """Seconds of a probe pass by the wall clock; None before the first."""
        return _median(spent.wall for spent in self._probes) if self._probes else None

    @property
    def typical_sample_cost(self) -> float | None:
        """Seconds of a sample by the wall clock; None before the first."""
        return _median(spent.wall for spent in self._samples) if self._samples else None

    def without_probes(self) -> None:
        """Leave all of the budget to samples."""
        self._budget = replace(self._budget, probes=False)

    def samples_at(self, step: int) -> bool:
        """Whether a sample is due at the end of `step`."""
        return step % self.interval == 0

    def prepares_at(self, step: int) -> bool:
        """Whether the next step is a sample with an update, for which the weights are needed as they are now."""
        return (step + 1) % self.update_interval == 0

    def probes_at(self, step: int) -> bool:
        """Whether a probe pass is due at the end of `step`; always at a sample."""
        return self._budget.probes and step % self.probe_interval == 0

    def beats_at(self, step: int) -> bool:
        """Whether the pulse is felt at the end of `step`."""
        return step % self.pulse_interval == 0

    def searches_at(self, step: int) -> bool:
        """Whether the critical step is to be searched for at the end of `step`; always at a sample."""
        return self._budget.excursions and step > 0 and step % self.critical_interval == 0

    def points_at(self, step: int) -> bool:
        """Whether a point of a loss slice, where one is wanted, may be taken at the end of `step`."""
        return self._budget.excursions and step % self.point_interval == 0

    def gradients_at(self, step: int) -> bool:
        """Whether the gradient is to be sketched at the end of `step`, where the update is known."""
        return self._budget.excursions and step % self.gradient_interval == 0

    def on_step(self, whole: Spent, own: Spent, *, plain: bool = True) -> None:
        """Take in one step.

        Args:
            whole: Time since the end of the step before.
            own: What of it was ours.
            plain: Nothing was looked at or put into the spool.
        """
        self._news.append((whole, own, plain))
        self._unchosen += 1
        # From the fourth step on the first interval, chosen blindly, can be corrected.
        if self._unchosen >= _STEPS_BACK or (len(self._steps) < _FEW_STEPS <= len(self._steps) + len(self._news)):
            self._choose()

    def on_forwarder(self, cpu_seconds: float) -> None:
        """Take in what the forwarder used since this was called last."""
        used = Spent(cpu=cpu_seconds)
        self._window_forwarder = self._window_forwarder.plus(used)
        self._window_own = self._window_own.plus(used)
        self._own = self._own.plus(used)

    def on_look(self, spent: Spent) -> None:
        """Take in the cost of a look on the step before a sample."""
        self._looks.append(spent)

    def on_warm(self, spent: Spent) -> None:
        """Take in what a second look took just after the first one, before the cost of that sample.

        Told on accelerators only: there the first look may take hundreds of times what others do, as it loads kernels.
        """
        self._warm = spent

    def on_sample(self, spent: Spent) -> None:
        """Take in the cost of one sample, without the look before it and the probe pass, and choose anew."""
        self._samples.append(spent)
        if len(self._samples) < _LOOK_BACK or self._unchosen >= _CHOOSE_EVERY:
            self._choose()

    def on_probe(self, spent: Spent) -> None:
        """Take in the cost of one probe pass and choose anew."""
        self._probes.append(spent)
        self._choose()

    def on_beat(self, spent: Spent) -> None:
        """Take in the cost of one beat of the pulse."""
        self._beats.append(spent)

    def on_search(self, spent: Spent) -> None:
        """Take in the cost of one search for the critical step and choose anew."""
        self._searches.append(spent)
        self._choose()

    def on_point(self, spent: Spent) -> None:
        """Take in the cost of one point of a loss slice and choose anew."""
        self._points.append(spent)
        self._choose()

    def take_ratio(self) -> float:
        """Return our time over all time lately: each call keeps most of what the calls before saw."""
        self._fold()
        ratio = self._window_own.share_of(self._window_whole)
        self._window_own = self._window_own.times(_RATIO_DECAY)
        self._window_whole = self._window_whole.times(_RATIO_DECAY)
        self._window_forwarder = self._window_forwarder.times(_RATIO_DECAY)
        return ratio

    def _fold(self) -> None:
        """Account for the steps since the last time."""
        if not self._news:
            return
        whole, own = (
            Spent(*map(math.fsum, zip(*spent, strict=True))) for spent in list(zip(*self._news, strict=True))[:2]
        )
        self._own, self._whole = self._own.plus(own), self._whole.plus(whole)
        self._window_own, self._window_whole = self._window_own.plus(own), self._window_whole.plus(whole)
        self._steps.extend(whole.minus(own) for whole, own, _ in self._news)
        self._plain.extend(own for _, own, plain in self._news if plain)
        self._news.clear()

    def _choose(self) -> None:
        self._fold()
        self._unchosen = 0
        if len(self._steps) < _FEW_STEPS:
            return
        step = Spent(*(max(_median(times), 1e-9) for times in zip(*self._steps, strict=True)))
        noise = max(_upper([wall for wall, _ in self._steps]) / step.wall - 1, _WITHIN_NOISE)
        whole = allowed = self._allowed(step)
        slows = 0.0
        if self._samples and self._budget.interval is None:
            sample = _typical(self._samples)
            if len(self._samples) == 1 and self._warm is not None:
                sample = Spent(*map(min, sample, self._warm.times(_LOOKS)))
            slows = sample.share_of(step)
            both = sample.plus(_typical(self._looks) if self._looks else sample).share_of(step)
            part = 1 - _PROBE_SHARE if self._budget.probes else 1 - self._reserved
            self.interval = _settle(self.interval, both / (allowed * part), slows, noise)
            # One sample in 64 and the step before each would be three slower steps in a hundred.
            self.update_interval = self.interval if slows <= _UNSEEN else max(self.interval, _RARE)
            allowed = max(allowed - both / self.interval, allowed * _PROBE_SHARE)
        allowed -= whole * self._reserved
        if self._probes and not self._probes_fixed:
            share = _typical(self._probes).share_of(step)
            slowed = share + slows  # as a sample goes with it
            self._probes_wanted = _settle(self.probe_interval, share / allowed, slowed, noise, seldom=_RARE)
            if len(self._probes) == 1 and self._warm is not None:
                self._probes_wanted = min(self._probes_wanted, _PASSED_ONCE)
        if self._budget.excursions:
            self._choose_excursions(step, whole, noise)
        if self._beats and self._budget.pulse_interval is None:
            share = _typical(self._beats).share_of(step)
            self.pulse_interval = _settle(self.pulse_interval, share / (self._budget.cap * _PULSE_SHARE), 0.0, noise)

    @property
    def _reserved(self) -> float:
        """The share of what is left for looking that goes to excursions."""
        return _EXCURSION_SHARE + _GRADIENT_SHARE if self._budget.excursions else 0.0

    def _choose_excursions(self, step: Spent, whole: float, noise: float) -> None:
        """Choose the intervals of what is dear and rare; while a slice is taken nothing is searched for."""
        # Without a probe set what counts as passes are hooks on the job's own, which cost next to nothing.
        passes = self._probes if self._budget.probes else deque[Spent]()
        search, point = _usual(self._searches, passes, _SEARCH_PASSES), _usual(self._points, passes, 1)
        if search is not None and self._budget.critical_interval is None:
            share = search.share_of(step)
            needed = share / (whole * _EXCURSION_SHARE)
            wanted = _settle(self._searches_wanted, needed, share, noise, seldom=_RARE)
            self._searches_wanted = max(wanted, 2 * self.probe_interval)
        if point is not None:
            share = point.share_of(step)
            self.point_interval = _settle(self.point_interval, share / (whole * _EXCURSION_SHARE), share, noise)
        alike = self._looks or self._samples
        if alike and self._budget.interval is None:
            share = _typical(alike).share_of(step)
            self.gradient_interval = _settle(self.gradient_interval, share / (whole * _GRADIENT_SHARE), share, noise)
        self.gradient_interval = max(self.gradient_interval, self.update_interval)

    def _allowed(self, step: Spent) -> float:
        """Return the share of a step that all looking together may take."""
        whole = self._budget.cap * _HEADROOM
        fixed = self._window_forwarder.share_of(self._window_whole)
        if self._plain:
            fixed += Spent(*map(_median, zip(*self._plain, strict=True))).share_of(step)
        return max(whole - fixed, whole * _LEAST)


def _median(values: Iterable[float]) -> float:
    """Return the median, of two the lower; importing `statistics` takes a tenth of what `attach` may."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def _upper(values: Sequence[float]) -> float:
    return sorted(values)[int(_UPPER * len(values))]


def _typical(costs: deque[Spent]) -> Spent:
    """Return the median, of two the lower; of a single one what is left once everything is warm."""
    if len(costs) == 1:
        return costs[0].times(1 / _COLD)
    return Spent(*(_median(times) for times in zip(*costs, strict=True)))


def _usual(costs: deque[Spent], alike: deque[Spent], times: int) -> Spent | None:
    """Return the median of `costs`; before the first, `times` what is `alike`, if that is known."""
    if costs:
        return Spent(*(_median(each) for each in zip(*costs, strict=True)))
    return _typical(alike).times(times) if alike else None


def _shortest(share: float, noise: float, seldom: int) -> int:
    """Return the shortest interval between steps that are slowed by `share`, and vary by `noise` anyway."""
    if share <= _UNSEEN:
        return 1
    return seldom if share <= noise else _RARE


def _settle(now: int, needed: float, share: float, noise: float, seldom: int = _SELDOM) -> int:
    """Return the power of two that covers `needed` steps; a shorter one than `now` only with room to spare."""

    def wanted(room: float) -> int:
        return max(power_of_two_above(needed / room), _shortest(share / room, noise, seldom))

    longer = wanted(1.0)
    return longer if longer > now else min(now, wanted(_HYSTERESIS))
