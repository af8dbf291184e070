"""The first updates of a training change a large share of its weights, or its loss rises at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.graded import Measure

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class ViolentStartThresholds:
    """When a start counts as violent.

    Attributes:
        ratio: size of an update by that of the weights. With warm-up the first updates are a thousandth, and up to a
            fourteenth without; what rewrites more undoes the initialisation.
        rise: of the loss above that of a model that knows nothing, where that is known, by that: only a model that was
            thrown far off does much worse than chance.
        values: newest ones that must all be that large.
        steps: from the run's first on; later ones are judged by the run's own past.
        release: share of the alarm below which it lets go.
    """

    ratio: float = 0.15
    rise: float = 0.25
    values: int = 2
    steps: int = 32
    release: float = 0.25


def measure(history: History, thresholds: ViolentStartThresholds) -> Measure | None:
    """Return how large the newest updates or losses are; None after the start, and in a run begun at a checkpoint."""
    updates, losses = history["pulse_update_ratio"], history["loss"]
    newest = max((series.steps[-1] for series in (updates, losses) if len(series)), default=thresholds.steps)
    if history.resumed or newest >= thresholds.steps:
        return None
    found = []
    if len(updates) >= thresholds.values:
        smallest = float(np.min(updates.values[-thresholds.values :]))
        reason = f"the first updates change {smallest:.0%} of the weights in one step"
        found.append(Measure(smallest / thresholds.ratio, reason))
    if len(losses) >= thresholds.values and history.chance_loss:
        lowest = float(np.min(losses.values[-thresholds.values :]))
        reason = f"the loss is {lowest:.3g} and more, and {history.chance_loss:.3g} would be chance"
        found.append(Measure(max(0.0, lowest / history.chance_loss - 1) / thresholds.rise, reason))
    return max(found, key=lambda each: each.level, default=None)
