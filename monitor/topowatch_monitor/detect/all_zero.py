"""Weights or outputs of a layer are all zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.layers import blame, lasting, on_layers

if TYPE_CHECKING:
    from topowatch_monitor.detect.layers import LayerHistory


@dataclass(frozen=True)
class AllZeroThresholds:
    """When a layer counts as zero.

    Attributes:
        persist: samples in a row. Layers that begin at zero by design leave it with the first steps.
        skip_steps: steps from the start in which it may not fire; a learning rate that warms up moves nothing at first.
    """

    persist: int = 3
    skip_steps: int = 50


@on_layers
def detect(layers: LayerHistory, _active: bool, thresholds: AllZeroThresholds) -> str | None:
    """Name the layers with weights whose weights or outputs are zero throughout; None while there are none.

    A layer counts as long as it gets a gradient or has been other than zero: a frozen one may be zero by design.
    Releases at the first value that is not zero.
    """
    steps = layers.steps
    if not steps or steps[-1] < thresholds.skip_steps:
        return None
    weight, gradient = layers.measured("weight_norm", "gradient_norm")
    taught = (gradient > 0).any(axis=0) | (layers.ever("weight_norm")[1] > 0)
    empty = lasting(weight == 0, thresholds.persist) & taught
    if empty.any():
        return f"weights of {blame(layers, empty, np.zeros(len(empty)))[1]} are all zero"
    zeros, norm = layers.measured("zero_fraction", "weight_norm")
    silent = lasting((zeros == 1) & (norm > 0), thresholds.persist) & (layers.ever("zero_fraction")[0] < 1)
    if not silent.any():
        return None
    return f"outputs of {blame(layers, silent, np.zeros(len(silent)))[1]} are all zero"
