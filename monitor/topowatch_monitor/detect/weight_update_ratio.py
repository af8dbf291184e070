"""Some layers do not learn beside the others, or are turned over by every update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.layers import blame, lasting, medians, on_layers

if TYPE_CHECKING:
    from topowatch_monitor.detect.layers import LayerHistory


@dataclass(frozen=True)
class WeightUpdateRatioThresholds:
    """When the ratio of a layer's update to its weights, norm by norm, is out of range. 1e-3 is usual.

    Attributes:
        small: ratio under which nothing is learned in a million steps; under 1e-7, float32 rounds most updates away.
        share: of the median layer's ratio; a learning rate that goes to zero makes all ratios small, not one beside the
            others.
        large: ratio at which a layer loses in 5 steps what it had learned.
        minimum_samples: samples before large ones count: layers that begin at zero, and first steps of adaptive
            optimisers, have large ratios.
        persist: samples in a row.
        release: times `small` and `share`, or a share of 1 / `release` of `large`, at which a layer is let go.
    """

    small: float = 1e-6
    share: float = 1e-3
    large: float = 0.2
    minimum_samples: int = 16
    persist: int = 5
    release: float = 2.0


@on_layers
def detect(layers: LayerHistory, active: bool, thresholds: WeightUpdateRatioThresholds) -> str | None:
    """Name the layers whose updates are too large or too small; None while there are none.

    Layers without a gradient are frozen and do not count; those that do not change at all are `unchanged_tensor`.
    """
    update, weight, gradient = layers.measured(
        "update_norm", "weight_norm", "gradient_norm", last=thresholds.minimum_samples
    )
    learning = np.isfinite(update) & (update > 0) & np.isfinite(weight) & (weight > 0) & (gradient > 0)
    ratio = np.full(update.shape, np.nan)
    np.divide(update, weight, out=ratio, where=learning)
    ease = thresholds.release if active else 1.0
    large = lasting(ratio > thresholds.large / ease, thresholds.persist) & (len(ratio) >= thresholds.minimum_samples)
    if large.any():
        worst, named = blame(layers, large, ratio[-1])
        return f"updates of {named} are {ratio[-1, worst]:.2g} of its weights"
    usual = medians(ratio.T)[:, None]
    small = lasting((ratio < thresholds.small * ease) & (ratio < thresholds.share * ease * usual), thresholds.persist)
    if not small.any():
        return None
    worst, named = blame(layers, small, -ratio[-1])
    return f"updates of {named} are {ratio[-1, worst]:.1g} of its weights, the median layer's {usual[-1, 0]:.1g}"
