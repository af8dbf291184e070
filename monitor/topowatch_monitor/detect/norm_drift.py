"""The statistics of batch norm run away from where they were."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.detect.graded import Measure
from topowatch_monitor.detect.tested import at_comparable_rates, beyond_tested

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History

# There is one value in four steps.
_WIDTH = 3
_LAG = 6


@dataclass(frozen=True)
class NormDriftThresholds:
    """When running variances count as running away. Their drift is how far they stand from their recent mean, in nats.

    Attributes:
        factor: times the largest drift of the recent past.
        floor: nats that are added to every drift: a tenth is what batches differ by.
        window: values at comparable learning rates that the past reaches back.
        minimum: of these that must be known.
        release: share of the alarm below which it lets go.
    """

    factor: float = 3.3
    floor: float = 0.1
    window: int = 32
    minimum: int = 16
    release: float = 0.25


def measure(history: History, thresholds: NormDriftThresholds) -> Measure | None:
    """Return how far the drift stands above all recent ones; None without batch norm, or where too little is known."""
    drifts = at_comparable_rates(history, "norm_drift")
    beyond = beyond_tested(
        drifts + thresholds.floor, window=thresholds.window, minimum=thresholds.minimum, width=_WIDTH, lag=_LAG
    )
    if beyond is None or not len(drifts):
        return None
    reason = f"a running variance of batch norm stands {drifts[-1]:.2g} nats from its recent mean"
    return Measure(max(0.0, beyond) / math.log(thresholds.factor), reason)
