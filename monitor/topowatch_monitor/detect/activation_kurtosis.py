"""A few outputs of a layer have suddenly become far larger than the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.layers import blame, lasting, on_layers

if TYPE_CHECKING:
    from topowatch_monitor.detect.layers import LayerHistory


@dataclass(frozen=True)
class ActivationKurtosisThresholds:
    """When kurtosis has jumped. It is 3 for a Gaussian and, of sparse outputs, about one over the share that is not 0.

    Attributes:
        minimum_samples: samples of the run's own past to compare with.
        jump: times the largest of that past. A level would fire on healthy runs: kurtosis differs between layers by
            orders of magnitude, and drifts as features become sparse.
        floor: below which it does not matter how it got there.
        persist: samples in a row.
        release: share of the threshold under which a layer is let go.
    """

    minimum_samples: int = 12
    jump: float = 5.0
    floor: float = 100.0
    persist: int = 3
    release: float = 0.5


@on_layers
def detect(layers: LayerHistory, active: bool, thresholds: ActivationKurtosisThresholds) -> str | None:
    """Name the layers whose kurtosis has jumped over all of their own past; None while there are none.

    Layers that were constant in that past (kurtosis 0) or not always seen have nothing to compare with.
    """
    [kurtosis] = layers.measured("activation_kurtosis")
    before = kurtosis[: -thresholds.persist]
    if len(before) < thresholds.minimum_samples:
        return None
    # What has stayed high while it is on is not a past to compare with: of half of the window, the older one counts.
    past = before[: max(thresholds.minimum_samples, len(before) // 2)] if active else before
    known = np.isfinite(past).all(axis=0) & (past > 0).all(axis=0)
    highest = np.where(known, past.max(axis=0), np.inf)
    limit = np.maximum(thresholds.jump * highest, thresholds.floor) * (thresholds.release if active else 1.0)
    found = lasting(kurtosis > limit, thresholds.persist)
    if not found.any():
        return None
    worst, named = blame(layers, found, kurtosis[-1] / limit)
    return f"kurtosis of the outputs of {named} is {kurtosis[-1, worst]:.3g}, it was {highest[worst]:.2g} at most"
