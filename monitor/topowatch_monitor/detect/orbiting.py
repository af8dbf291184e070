"""The path of the weights goes round in loops instead of getting anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.graded import Measure

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class OrbitingThresholds:
    """When a loop counts.

    Attributes:
        ratio: death over birth of the most persistent H₁ bar of the recent window. Random walks and straight paths in
            many dimensions stay below 1.5; a ring of k evenly spaced points has √3 / (2 sin(π/k)), 2 at 11 points.
        diagrams: newest ones that all have to show it.
        release: share of the alarm, 0 to 1, below which it lets go.
    """

    ratio: float = 2.0
    diagrams: int = 2
    release: float = 0.75


def measure(history: History, thresholds: OrbitingThresholds) -> Measure | None:
    """Return how persistent the loop of the recent window is; None before there are diagrams enough."""
    loops = history["path_loop"].values
    if len(loops) < thresholds.diagrams:
        return None
    loop = float(np.min(loops[-thresholds.diagrams :]))
    reason = f"the weights go round in a loop that is {loop:.2g} times as wide as their steps are long"
    return Measure(max(0.0, (loop - 1) / (thresholds.ratio - 1)), reason)
