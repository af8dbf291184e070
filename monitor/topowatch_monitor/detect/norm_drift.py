"""The statistics of batch norm run away from where they were."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.detect.graded import Measure
from topowatch_monitor.detect.tested import at_comparable_rates, beyond_past, check_past

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class NormDriftThresholds:
    """When running variances count as running away. Their drift is how far they stand from their recent mean, in nats.

    Attributes:
        factor: times the largest drift of the recent past.
        floor: nats that are added to every drift: three tenths come after restarts, and do no harm.
        window: values (one in four steps) at comparable learning rates that the past reaches back.
        minimum: of these that must be known.
        width: neighbouring values whose median is a level: one odd batch moves none.
        lag: newest values that are too new to have proved harmless.
        comparable: share of the newest learning rate, 0 to 1, that another has at least to be comparable.
        release: share of the alarm, 0 to 1, below which it lets go.
    """

    factor: float = 1.8
    floor: float = 0.3
    window: int = 48
    minimum: int = 16
    width: int = 3
    lag: int = 12
    comparable: float = 0.6
    release: float = 0.25

    def __post_init__(self) -> None:
        check_past(self)


def measure(history: History, thresholds: NormDriftThresholds) -> Measure | None:
    """Return how far the drift stands above all recent ones; None without batch norm, or where too little is known."""
    drifts = at_comparable_rates(history, "norm_drift", thresholds.comparable, thresholds.window)
    if not drifts[-thresholds.width :].any():
        return Measure(0.0, "no running variance of batch norm moves")
    drifts = drifts[drifts != 0]  # while it was frozen, batch norm told nothing of how it moves
    beyond = beyond_past(drifts + thresholds.floor, thresholds)
    if beyond is None or not len(drifts):
        return None
    reason = f"a running variance of batch norm stands {drifts[-1]:.2g} nats from its recent mean"
    return Measure(max(0.0, beyond) / math.log(thresholds.factor), reason)
