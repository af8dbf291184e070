"""Gradients have grown beyond all that the run has been through lately."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.detect.graded import Measure
from topowatch_monitor.detect.tested import at_comparable_rates, beyond_tested

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class GradientGrowthThresholds:
    """When gradients count as grown.

    Attributes:
        factor: times the largest of the recent past.
        window: steps at comparable learning rates that the past reaches back.
        minimum: of these that must be known.
        release: share of the alarm below which it lets go.
    """

    factor: float = 2.0
    window: int = 256
    minimum: int = 32
    release: float = 0.25


def measure(history: History, thresholds: GradientGrowthThresholds) -> Measure | None:
    """Return how far the norm of the gradient stands above all recent ones; None where too little is known."""
    norms = at_comparable_rates(history, "pulse_gradient_norm")
    beyond = beyond_tested(norms, window=thresholds.window, minimum=thresholds.minimum)
    if beyond is None:
        return None
    times = math.exp(min(beyond, 50.0))
    reason = f"gradients are {times:.2g} times the largest of the last {thresholds.window} steps"
    return Measure(max(0.0, beyond) / math.log(thresholds.factor), reason)
