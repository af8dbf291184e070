"""How well a detector has done on runs that are marked: what it found, how early, and what it cried for nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import beta, binom, chi2

if TYPE_CHECKING:
    from collections.abc import Sequence

MERGED = 50  # steps within which a flag that comes again is the same alarm: somebody is looking already
PER = 10_000  # healthy steps that false alarms are counted by
LEVEL = 0.95


@dataclass(frozen=True)
class RunFlags:
    """What one detector said of one run, in steps of the samples at whose arrival it said so.

    Attributes:
        start: first step observed.
        stop: one above the last.
        flags: (on, off) of each flag, ascending: on from step `on` until before step `off`; None where it stayed on.
        onset: first step that went wrong; None for a healthy run.
        departure: first step at which the loss was lost; None where it never was, or where that is unknown.

    Raises:
        ValueError: the steps contradict each other.
    """

    start: int
    stop: int
    flags: Sequence[tuple[int, int | None]]
    onset: int | None = None
    departure: int | None = None

    def __post_init__(self) -> None:
        if self.start > self.stop:
            raise ValueError(f"a run is observed from step {self.start} on, but until before step {self.stop}")
        if self.onset is not None and not self.start <= self.onset < self.stop:
            raise ValueError(f"onset {self.onset} is not among the steps observed, {self.start} to {self.stop - 1}")
        if self.departure is not None and (self.onset is None or self.departure < self.onset):
            raise ValueError(f"departure {self.departure} is before the onset, {self.onset}")
        steps = [step for flag in self.flags for step in flag if step is not None]
        if steps != sorted(steps) or any(off is None for _, off in self.flags[:-1]):
            raise ValueError("flags are not ascending (on, off) pairs, of which the last alone may stay on")


class Bounds(NamedTuple):
    """A figure and its 95 % interval; None where there is nothing to tell it from."""

    value: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class Score:
    """How well a detector has done.

    A run that went wrong is found if a flag goes on from its onset to its end, also after the loss was lost. What goes
    on before the onset is a false alarm, even if it stays on beyond it.

    Attributes:
        events: runs that went wrong.
        found: how many of them were found.
        false_alarms: alarms on healthy steps; flags that come again within 50 steps are one.
        healthy_steps: steps before an onset, or of a healthy run.
        precision: share of the alarms that found something: found / (found + false alarms). Clopper–Pearson.
        recall: share of the events that were found. Clopper–Pearson.
        false_alarm_rate: false alarms per 10,000 healthy steps. Exact Poisson (Garwood 1936).
        median_lead: steps from flag to departure, of what was found and departed; interval of order statistics, None
            below 6 of them. Negative: the flag came after.
        worst_lead: the smallest.
        leads: all of them, ascending.
        delays: steps from onset to flag of all that was found, ascending.
    """

    events: int
    found: int
    false_alarms: int
    healthy_steps: int
    precision: Bounds
    recall: Bounds
    false_alarm_rate: Bounds
    median_lead: Bounds
    worst_lead: int | None
    leads: tuple[int, ...]
    delays: tuple[int, ...]


def score(flagged: Sequence[RunFlags]) -> Score:
    """Score one detector over runs."""
    wrong = [run for run in flagged if run.onset is not None]
    delays, leads = [], []
    for run in wrong:
        at = _found_at(run)
        if at is not None and run.onset is not None:
            delays.append(at - run.onset)
            leads += [] if run.departure is None else [run.departure - at]
    false_alarms = sum(map(_false_alarms, flagged))
    healthy = sum(_healthy_until(run) - run.start for run in flagged)
    return Score(
        events=len(wrong),
        found=len(delays),
        false_alarms=false_alarms,
        healthy_steps=healthy,
        precision=share(len(delays), len(delays) + false_alarms),
        recall=share(len(delays), len(wrong)),
        false_alarm_rate=rate(false_alarms, healthy),
        median_lead=median(leads),
        worst_lead=min(leads, default=None),
        leads=tuple(sorted(leads)),
        delays=tuple(sorted(delays)),
    )


def share(count: int, of: int) -> Bounds:
    """Return a share with its exact binomial interval (Clopper & Pearson 1934); unknown of none."""
    if of == 0:
        return Bounds(None, None, None)
    tail = (1 - LEVEL) / 2
    lower = float(beta.ppf(tail, count, of - count + 1)) if count else 0.0
    upper = float(beta.ppf(1 - tail, count + 1, of - count)) if count < of else 1.0
    return Bounds(count / of, lower, upper)


def rate(count: int, steps: int) -> Bounds:
    """Return occurrences per 10,000 steps with their exact Poisson interval (Garwood 1936); unknown of no steps."""
    if steps == 0:
        return Bounds(None, None, None)
    tail = (1 - LEVEL) / 2
    lower = float(chi2.ppf(tail, 2 * count)) / 2 if count else 0.0
    upper = float(chi2.ppf(1 - tail, 2 * count + 2)) / 2
    return Bounds(count * PER / steps, lower * PER / steps, upper * PER / steps)


def median(values: Sequence[int]) -> Bounds:
    """Return the median with the interval between two order statistics that holds it in 95 % of samples, or more."""
    if not values:
        return Bounds(None, None, None)
    ordered = np.sort(values)
    middle = float(np.median(ordered))
    # The k-th smallest is above the median with the chance that fewer than k of n coins show heads.
    k = int(binom.ppf((1 - LEVEL) / 2, len(ordered), 0.5))
    return Bounds(middle, float(ordered[k - 1]), float(ordered[-k])) if k else Bounds(middle, None, None)


def _healthy_until(run: RunFlags) -> int:
    return run.stop if run.onset is None else run.onset


def _found_at(run: RunFlags) -> int | None:
    """The first step from the onset on at which a flag goes on."""
    return next((on for on, _ in run.flags if run.onset is not None and run.onset <= on < run.stop), None)


def _false_alarms(run: RunFlags) -> int:
    """Alarms that begin on healthy steps."""
    count, last_off = 0, None
    for on, off in run.flags:
        if on < _healthy_until(run):
            count += last_off is None or on - last_off > MERGED
            last_off = run.stop if off is None else off
    return count
