"""A rectifier lets nothing through any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.layers import blame, lasting, on_layers

if TYPE_CHECKING:
    from topowatch_monitor.detect.layers import LayerHistory


@dataclass(frozen=True)
class DeadReluThresholds:
    """When a rectifier counts as dead.

    Attributes:
        zeros: fraction of its outputs that are zero, 0 to 1. Healthy rectifiers of large transformers are up to 0.97
            sparse (Li et al. 2023, "The lazy neuron phenomenon"), and one-hot routes among 128 experts have 0.992.
        persist: samples in a row, so that one odd batch does not count.
        release: fraction under which a layer is let go.
    """

    zeros: float = 0.995
    persist: int = 3
    release: float = 0.98


@on_layers
def detect(layers: LayerHistory, active: bool, thresholds: DeadReluThresholds) -> str | None:
    """Name the layers without weights of their own whose outputs are all but zero; None while there are none."""
    [zeros] = layers.measured("zero_fraction", last=thresholds.persist)
    [weight] = layers.measured("weight_norm", last=1)
    limit = thresholds.release if active else thresholds.zeros
    found = lasting(zeros >= limit, thresholds.persist) & np.isnan(weight).all(axis=0)
    if not found.any():
        return None
    worst, named = blame(layers, found, zeros[-1])
    return f"{100 * zeros[-1, worst]:.4g} % of the outputs of {named} are zero"
