"""Attention looks at one position only, as before transformers diverge (Zhai et al. 2023, arXiv 2303.06296)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.layers import blame, lasting, on_layers

if TYPE_CHECKING:
    from topowatch_monitor.detect.layers import LayerHistory


@dataclass(frozen=True)
class AttentionCollapseThresholds:
    """When attention counts as collapsed, by the mean entropy of its rows over the logarithm of their length.

    Attributes:
        entropy: share of that of uniform rows, 0 to 1. Heads that look for one position are usual, modules all of whose
            heads do so are not; at 0.05 a row of 1,000 positions has 0.35 nats: 0.7 of it at least is on a single one.
        fall: times what it is now it was before, at its highest of the samples kept: attention may be sharp by design.
        persist: samples in a row, so that one odd batch does not count.
        release: times the entropy at which a layer is let go.
    """

    entropy: float = 0.05
    fall: float = 2.0
    persist: int = 3
    release: float = 2.0


@on_layers
def detect(layers: LayerHistory, active: bool, thresholds: AttentionCollapseThresholds) -> str | None:
    """Name the layers whose attention has collapsed; None while there are none, and where attention is not visible."""
    [entropy] = layers.measured("attention_entropy")
    before = entropy[: -thresholds.persist]
    if not len(before):
        return None
    highest = np.fmax.reduce(before, axis=0)
    limit = np.full(len(highest), thresholds.entropy * (thresholds.release if active else 1.0))
    if not active:
        limit = np.minimum(limit, highest / thresholds.fall)
    found = lasting(entropy < limit, thresholds.persist)
    if not found.any():
        return None
    worst, named = blame(layers, found, -entropy[-1])
    return (
        f"attention of {named} has {entropy[-1, worst]:.2g} of the entropy of uniform rows, it had {highest[worst]:.2g}"
    )
