"""Outputs of a layer are NaN or infinite, or have grown out of all proportion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.layers import blame, lasting, medians, on_layers

if TYPE_CHECKING:
    from topowatch_monitor.detect.layers import LayerHistory


@dataclass(frozen=True)
class ExplodingTensorThresholds:
    """When outputs count as exploding. Their size is the root of their mean square.

    Attributes:
        minimum_samples: samples of the run's own past to compare with.
        jump: times the median of that past. Logits of a model that learns grow tenfold and more, but from below 1.
        floor: size below which growth does no harm; residual streams of large models reach some hundreds, and
            float16 ends at 65,504.
        persist: samples in a row over the threshold; NaN and infinities fire at once.
        release: share of the threshold under which a layer is let go.
    """

    minimum_samples: int = 8
    jump: float = 100.0
    floor: float = 1000.0
    persist: int = 3
    release: float = 0.5


@on_layers
def detect(layers: LayerHistory, active: bool, thresholds: ExplodingTensorThresholds) -> str | None:
    """Name the layers whose outputs are not finite any more, or far larger than they were; None while there are none.

    A layer that was never seen finite, such as one that masks with −∞, does not count.
    """
    mean, deviation, zeros = layers.measured("activation_mean", "activation_deviation", "zero_fraction")
    if not len(zeros):
        return None
    seen = np.isfinite(zeros)
    size = np.hypot(mean, deviation)
    sound = seen & np.isfinite(size) & ~np.isnan(mean) & ~np.isnan(deviation)
    once_sound = ~np.isnan(layers.ever("activation_mean")[0]) & ~np.isnan(layers.ever("activation_deviation")[0])
    broken = (seen & ~sound)[-1] & once_sound
    if broken.any():
        return f"outputs of {blame(layers, broken, np.zeros(len(broken)))[1]} are NaN or infinite"
    if len(size) < thresholds.minimum_samples + thresholds.persist:
        return None
    usual = medians(np.where(sound, size, np.nan)[: -thresholds.persist])
    limit = np.fmax(thresholds.jump * usual, thresholds.floor) * (thresholds.release if active else 1.0)
    found = lasting(sound & (size > limit) & ~np.isnan(usual), thresholds.persist)
    if not found.any():
        return None
    worst, named = blame(layers, found, size[-1] / limit)
    return f"outputs of {named} are {size[-1, worst]:.3g} in size, they were {usual[worst]:.2g}"
