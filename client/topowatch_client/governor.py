"""Keeps what watching costs under its cap by choosing how often to look. Pure logic; times are handed in.

Intervals are powers of two and samples fall on multiples of them, so that ranks that choose differently still meet: the
steps of the slower one are a subset of those of the faster one.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

_FIRST_INTERVAL = 16
_LONGEST = 1 << 20
_LOOK_BACK = 8  # costs and step times that a choice rests on
_HEADROOM = 0.8  # of the cap: the rest is for the forwarder and for what the clock does not see
_PROBE_SHARE = 0.5  # of that, where probes run
_RATIO_DECAY = 0.96  # a sample: halves in 17, as costs come in bursts (a probe pass with every fourth sample or rarer)
_HYSTERESIS = 0.75  # an interval shortens only if the shorter one stays well below the cap


def power_of_two_above(number: float) -> int:
    """Return the smallest power of two that is ≥ `number` (1 for anything up to 1)."""
    power = 1
    while power < number and power < _LONGEST:
        power *= 2
    return power


@dataclass(frozen=True)
class Budget:
    """What the governor may use."""

    cap: float = 0.005  # share of wall time
    interval: int | None = None  # fixed steps between samples, rounded up to a power of two
    probe_interval: int | None = None  # the same between probe passes; None: four samples where `interval` is fixed
    probes: bool = False


class Governor:
    """Chooses the interval between samples and, as a multiple of it, between probe passes."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.interval = power_of_two_above(budget.interval or _FIRST_INTERVAL)
        wanted = budget.probe_interval or self.interval * (4 if budget.interval else 16)
        self.probe_interval = max(power_of_two_above(wanted), self.interval)
        self._probes_fixed = budget.probe_interval is not None or budget.interval is not None
        self._sample_costs: deque[float] = deque(maxlen=_LOOK_BACK)
        self._probe_costs: deque[float] = deque(maxlen=_LOOK_BACK)
        self._step_times: deque[float] = deque(maxlen=64)
        self._window_cost = 0.0
        self._window_wall = 0.0
        self._total_cost = 0.0
        self._total_wall = 0.0

    @property
    def total_ratio(self) -> float:
        """Own time over wall time since the start; 0 before the first step."""
        return self._total_cost / self._total_wall if self._total_wall > 0 else 0.0

    @property
    def typical_probe_cost(self) -> float | None:
        """Seconds of a probe pass; None before the first."""
        return statistics.median(self._probe_costs) if self._probe_costs else None

    @property
    def typical_sample_cost(self) -> float | None:
        """Seconds of a sample; None before the first."""
        return statistics.median(self._sample_costs) if self._sample_costs else None

    def samples_at(self, step: int) -> bool:
        """Whether a sample is due at the end of `step`."""
        return step % self.interval == 0

    def prepares_at(self, step: int) -> bool:
        """Whether the next step is a sample, so that its update needs the weights as they are now."""
        return (step + 1) % self.interval == 0

    def probes_at(self, step: int) -> bool:
        """Whether a probe pass is due at the end of `step`; always at a sample."""
        return self._budget.probes and step % self.probe_interval == 0

    def on_step(self, wall_seconds: float, own_seconds: float) -> None:
        """Take in one step: time since the end of the step before, and what of it was ours."""
        self._window_cost += own_seconds
        self._window_wall += wall_seconds
        self._total_cost += own_seconds
        self._total_wall += wall_seconds
        self._step_times.append(max(wall_seconds - own_seconds, 0.0))

    def on_sample(self, seconds: float) -> None:
        """Take in the cost of one sample (both sketches, without the probe pass) and choose anew."""
        self._sample_costs.append(seconds)
        self._choose()

    def on_probe(self, seconds: float) -> None:
        """Take in the cost of one probe pass and choose anew."""
        self._probe_costs.append(seconds)
        self._choose()

    def take_ratio(self) -> float:
        """Return own time over wall time lately: each call keeps most of what the calls before saw."""
        ratio = self._window_cost / self._window_wall if self._window_wall > 0 else 0.0
        self._window_cost *= _RATIO_DECAY
        self._window_wall *= _RATIO_DECAY
        return ratio

    def _choose(self) -> None:
        if len(self._step_times) < 4:
            return
        step = max(statistics.median(self._step_times), 1e-9)
        allowed = self._budget.cap * _HEADROOM * step  # seconds a step
        share = _PROBE_SHARE if self._budget.probes else 1.0
        if self._budget.interval is None and len(self._sample_costs) >= 2:
            cost = statistics.median_low(self._sample_costs)  # the first one warms up
            self.interval = _settle(self.interval, cost / (allowed * share))
        if self._probe_costs and not self._probes_fixed:
            self.probe_interval = _settle(
                self.probe_interval, statistics.median_low(self._probe_costs) / (allowed * (1 - _PROBE_SHARE))
            )
        self.probe_interval = max(self.probe_interval, self.interval)


def _settle(now: int, needed: float) -> int:
    """Return the power of two that covers `needed` steps; a shorter one than `now` only with room to spare."""
    wanted = power_of_two_above(needed)
    return wanted if wanted > now else min(now, power_of_two_above(needed / _HYSTERESIS))
