"""The learning rate has left the range in which the run was stable, and goes on rising."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.detect.graded import Measure
from topowatch_monitor.detect.tested import beyond_tested

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class UntestedRateThresholds:
    """When a learning rate counts as untested.

    Attributes:
        factor: times the highest rate that the run has held for long, from its beginning on. Restarts come back to what
            was there before, and a linear warm-up, however long, adds at most a third in the last quarter of its steps.
        lag: newest values of the rate that are too new to have proved harmless, or a quarter of all where that is less:
            an unstable rate shows within 128 steps.
        minimum: values that must have been seen before these: within a short warm-up every rate is new.
        release: share of the alarm, 0 to 1, below which it lets go.
    """

    factor: float = 1.4
    lag: int = 128
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
    reason = f"the learning rate {rates[-1]:.2g} is {math.exp(min(beyond, 50.0)):.2g} times the highest that has held"
    return Measure(max(0.0, beyond) / math.log(thresholds.factor), reason)
