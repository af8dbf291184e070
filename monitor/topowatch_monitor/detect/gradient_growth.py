"""Gradients have grown beyond all that the run has been through lately."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.detect.graded import Measure
from topowatch_monitor.detect.tested import at_comparable_rates, beyond_past, check_past

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class GradientGrowthThresholds:
    """When gradients count as grown.

    Attributes:
        factor: times the largest of the recent past.
        window: values at comparable learning rates that the past reaches back.
        minimum: of these that must be known.
        width: neighbouring values whose median is a level: one odd batch moves none.
        lag: newest values that are too new to have proved harmless.
        comparable: share of the newest learning rate, 0 to 1, that another has at least to be comparable.
        learned: share of where the loss began (or of chance) from which on values count: on the plateau that comes
            before they are small, and grow tenfold as learning sets in.
        young: values after which a run that has learned nothing, or whose loss is told too seldom to say so, is judged
            all the same.
        release: share of the alarm, 0 to 1, below which it lets go.
    """

    factor: float = 2.0
    window: int = 256
    minimum: int = 32
    width: int = 8
    lag: int = 48
    comparable: float = 0.6
    learned: float = 0.8
    young: int = 512
    release: float = 0.25

    def __post_init__(self) -> None:
        check_past(self)


def measure(history: History, thresholds: GradientGrowthThresholds) -> Measure | None:
    """Return how far the norm of the gradient stands above all recent ones; None where too little is known."""
    start = history.judged_from("pulse_gradient_norm", thresholds.learned, thresholds.young)
    if start is None:
        return None
    norms = at_comparable_rates(history, "pulse_gradient_norm", thresholds.comparable, thresholds.window, since=start)
    beyond = beyond_past(norms, thresholds)
    if beyond is None:
        return None
    reason = f"gradients are {math.exp(min(beyond, 50.0)):.2g} times the largest of late, at comparable learning rates"
    return Measure(max(0.0, beyond) / math.log(thresholds.factor), reason)
