"""The learning rate has left the range in which the run was stable, and goes on rising."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.graded import Measure
from topowatch_monitor.detect.tested import beyond_tested

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History

_ROUNDING = 1e-6  # of a rate: what comes back to where it was may come back a little higher


@dataclass(frozen=True)
class UntestedRateThresholds:
    """When a learning rate counts as untested.

    Attributes:
        factor: times the highest rate that the run has held for long, from its beginning on. Restarts come back to what
            was there before, and a linear warm-up, however long, adds at most a third in the last quarter of its steps.
        lag: newest values of the rate that are too new to have proved harmless, or a quarter of all where that is less:
            an unstable rate shows within 128 steps.
        settled: values in a row, before it rises, that brought no rate above all before: while a run warms up, by
            whatever curve, each does.
        risings: new highest rates among the newest `lag`: a schedule that steps up from epoch to epoch has one.
        leap: times the highest rate from one value to the next, which need not go on rising: once the run had learned
            something, no schedule takes such a step.
        learned: share of where the loss began (or of chance) that it has to come down to before.
        minimum: values that must have been seen before these: within a short warm-up every rate is new.
        release: share of the alarm, 0 to 1, below which it lets go.
    """

    factor: float = 1.4
    lag: int = 128
    settled: int = 64
    risings: int = 6
    leap: float = 4.0
    learned: float = 0.8
    minimum: int = 96
    release: float = 0.25


def measure(history: History, thresholds: UntestedRateThresholds) -> Measure | None:
    """Return how far the rate stands above all earlier ones; None where too little is known."""
    series = history["learning_rate"]
    rates = series.values
    lag = min(len(rates) // 4, thresholds.lag)
    beyond = beyond_tested(rates, window=len(rates), minimum=thresholds.minimum, width=1, lag=lag)
    if beyond is None:
        return None
    if series.old_highest > 0 and rates[-1] > 0:
        beyond = min(beyond, math.log(rates[-1] / series.old_highest))
    if 0 < beyond < math.inf and not _counts(history, lag, thresholds):
        beyond = 0.0
    reason = f"the learning rate {rates[-1]:.2g} is {math.exp(min(beyond, 50.0)):.2g} times the highest that has held"
    return Measure(max(0.0, beyond) / math.log(thresholds.factor), reason)


def _counts(history: History, lag: int, thresholds: UntestedRateThresholds) -> bool:
    """Say whether rates rise value by value again after they had settled, or have leapt in a run that had learned."""
    series = history["learning_rate"]
    rates = np.where(np.isfinite(series.values), series.values, 0.0)
    highest = np.maximum.accumulate(np.concatenate([[max(series.old_highest, 0.0)], rates[:-1]]))
    new = np.flatnonzero(rates > highest * (1 + _ROUNDING))
    newest = new[new >= len(rates) - lag]
    if not len(newest):
        return False
    leap = newest[rates[newest] >= thresholds.leap * highest[newest]]
    start = history.learned(thresholds.learned) if history.curve.count else None
    leaps = len(leap) and start is not None and start <= series.steps[leap[-1]]
    rises = len(newest) >= min(thresholds.risings, lag) and np.diff(new, prepend=0).max() >= thresholds.settled
    return bool(leaps or rises)
