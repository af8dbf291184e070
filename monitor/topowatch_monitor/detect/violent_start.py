"""The first updates of a training change a large share of its weights, or its loss rises at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.graded import Measure

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History
    from topowatch_monitor.detect.series import Series


@dataclass(frozen=True)
class ViolentStartThresholds:
    """When a start counts as violent.

    Attributes:
        ratio: size of an update by that of the weights. With warm-up the first updates are a thousandth, and up to a
            fourteenth without; what rewrites more undoes the initialisation.
        rise: of the loss above that of a model that knows nothing, where that is known, and above the run's first, by
            the higher of these: only a model that was thrown far off does much worse, and other terms in a logged loss
            are in the first one as well.
        values: newest ones that must all be that large.
        steps: from the run's first on; later ones are judged by the run's own past.
        release: share of the alarm, 0 to 1, below which it lets go.
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
        smallest = _smallest(updates, thresholds.values)
        reason = f"the first updates change {smallest:.0%} of the weights in one step"
        if smallest == np.inf:
            reason = "one of the first updates is not finite"
        found.append(Measure(smallest / thresholds.ratio, reason))
    first = losses.head[:1]
    if len(losses) > thresholds.values and history.chance_loss and np.isfinite(first).all():
        lowest, began = _smallest(losses, thresholds.values), max(history.chance_loss, float(first[0]))
        reason = (
            f"the loss is {lowest:.3g} and more, it began at {first[0]:.3g}, and {history.chance_loss:.3g} is chance"
        )
        found.append(Measure(max(0.0, lowest / began - 1) / thresholds.rise, reason))
    return max(found, key=lambda each: each.level, default=None)


def _smallest(series: Series, count: int) -> float:
    """The smallest of the newest values; infinity where one of them is not finite."""
    values = series.values[-count:]
    return float(np.min(values)) if np.isfinite(values).all() else np.inf
