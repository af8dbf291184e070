"""The gradient hardly reaches some layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.layers import blame, lasting, on_layers

if TYPE_CHECKING:
    from topowatch_monitor.detect.layers import LayerHistory


@dataclass(frozen=True)
class VanishingGradientThresholds:
    """When a gradient counts as vanished. Its size is its norm over that of the layer's weights.

    Attributes:
        share: of the size in the layer where it is largest. In networks that learn, layers lie within 1e-4 of each
            other; the share does not change as the loss goes to zero, where a bound on the gradient itself would fire.
        persist: samples in a row, so that one batch without a gradient does not count.
        release: share above which a layer is let go.
    """

    share: float = 1e-6
    persist: int = 3
    release: float = 1e-5


@on_layers
def detect(layers: LayerHistory, active: bool, thresholds: VanishingGradientThresholds) -> str | None:
    """Name the layers that get no gradient, or hardly any; None while all do. Frozen layers do not count."""
    gradient, weight = layers.measured("gradient_norm", "weight_norm", last=thresholds.persist)
    size = np.full(gradient.shape, np.nan)
    np.divide(gradient, weight, out=size, where=np.isfinite(gradient) & (weight > 0) & np.isfinite(weight))
    largest = np.fmax.reduce(size, axis=1, initial=np.nan, keepdims=True)
    share = np.full(size.shape, np.nan)
    np.divide(size, largest, out=share, where=largest > 0)
    found = lasting(share < (thresholds.release if active else thresholds.share), thresholds.persist)
    if not found.any():
        return None
    worst, named = blame(layers, found, -share[-1])
    return f"the gradient of {named} is {share[-1, worst]:.1g} of the largest, each beside its layer's weights"
