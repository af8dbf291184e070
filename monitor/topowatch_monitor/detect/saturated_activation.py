"""A bounded activation sits at its bounds, where it passes no gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.detect.layers import blame, lasting, on_layers

if TYPE_CHECKING:
    from topowatch_monitor.detect.layers import LayerHistory


@dataclass(frozen=True)
class SaturatedActivationThresholds:
    """When an activation counts as saturated.

    Attributes:
        fraction: of its outputs that lie within a hundredth of its range from one of its bounds, 0 to 1. Gates may
            well be open or closed for most inputs; with 95 % of them stuck a layer has stopped learning.
        persist: samples in a row, so that one odd batch does not count.
        release: fraction under which a layer is let go.
    """

    fraction: float = 0.95
    persist: int = 3
    release: float = 0.9


@on_layers
def detect(layers: LayerHistory, active: bool, thresholds: SaturatedActivationThresholds) -> str | None:
    """Name the layers that are saturated; None while there are none. What the model returns may be, and is not seen."""
    [saturated] = layers.measured("saturated_fraction", last=thresholds.persist)
    limit = thresholds.release if active else thresholds.fraction
    found = lasting(saturated >= limit, thresholds.persist)
    if not found.any():
        return None
    worst, named = blame(layers, found, saturated[-1])
    return f"{100 * saturated[-1, worst]:.3g} % of the outputs of {named} are at their bounds"
