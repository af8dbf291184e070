"""Updates have grown beyond all that the run has been through, at the same learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.detect.graded import Measure
from topowatch_monitor.detect.tested import at_comparable_rates, beyond_tested

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class UpdateGrowthThresholds:
    """When updates count as grown. They are taken per unit of learning rate, so that no schedule shows in them.

    Attributes:
        factor: times the largest of the recent past: the size of an update by its weights and by the learning rate.
        window: steps at comparable learning rates that the past reaches back: gradients shrink over a training, and
            what was usual at its start would hide everything.
        minimum: of these that must be known.
        release: share of the alarm below which it lets go.
    """

    factor: float = 2.5
    window: int = 256
    minimum: int = 32
    release: float = 0.25


def measure(history: History, thresholds: UpdateGrowthThresholds) -> Measure | None:
    """Return how far updates stand above all recent ones; None where too little is known."""
    sizes = at_comparable_rates(history, "pulse_update_ratio", relative=True)
    beyond = beyond_tested(sizes, window=thresholds.window, minimum=thresholds.minimum)
    if beyond is None:
        return None
    reason = f"updates are {math.exp(min(beyond, 50.0)):.2g} times the largest of the last {thresholds.window} steps"
    return Measure(max(0.0, beyond) / math.log(thresholds.factor), reason + ", measured by the learning rate")
