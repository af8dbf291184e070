"""Weights that have a gradient do not change, while others do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.layers import blame, lasting, on_layers

if TYPE_CHECKING:
    from topowatch_monitor.detect.layers import LayerHistory


@dataclass(frozen=True)
class UnchangedTensorThresholds:
    """When weights count as unchanged.

    Attributes:
        persist: samples in a row with an update of exactly zero and a gradient that is not: a layer that the optimiser
            was not given, or whose updates are lost in the rounding of bfloat16. SageMaker Debugger takes 3 as well.
    """

    persist: int = 3


@on_layers
def detect(layers: LayerHistory, _active: bool, thresholds: UnchangedTensorThresholds) -> str | None:
    """Name the layers that stay as they are although they get a gradient; None while there are none.

    Frozen layers get none and do not count; nor does a step at which nothing changes, as at a learning rate of zero.
    Releases at the first change.
    """
    update, gradient, weight = layers.measured("update_norm", "gradient_norm", "weight_norm")
    moving = (update > 0).any(axis=1)
    found = lasting(((update == 0) & (gradient > 0) & (weight > 0))[moving], thresholds.persist)
    if not found.any():
        return None
    _, named = blame(layers, found, np.where(np.isnan(gradient[-1]), 0.0, gradient[-1]))
    return f"weights of {named} do not change, although they have a gradient: is the optimiser given them?"
