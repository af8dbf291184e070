"""Representations have fallen into very few dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.series import median

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class RankCollapseThresholds:
    """When a representation counts as collapsed, by its effective rank on the probe set.

    Attributes:
        rank: effective dimensions. A run that learns ends with one fewer than it has classes (neural collapse; Papyan
            et al. 2020), so a layer under half of that number, and under `rank`, cannot tell them apart.
        fall: times what it is now it was before, in the median: a layer may be narrow by design.
        minimum_samples: ranks of the run's own past.
        persist: ranks in a row; they come with every fourth probe pass.
        release: times the rank at which it lets go.
    """

    rank: float = 2.5
    fall: float = 2.0
    minimum_samples: int = 3
    persist: int = 2
    release: float = 1.25


def detect(history: History, active: bool, thresholds: RankCollapseThresholds) -> str | None:
    """Say how few dimensions are left; None while they suffice, and where it is not known how many are needed."""
    ranks = history["representation_rank"].values
    if history.chance_loss is None or len(ranks) < thresholds.minimum_samples + thresholds.persist:
        return None
    needed = min(thresholds.rank, (np.exp(min(history.chance_loss, 100.0)) - 1) / 2)
    before, recent = ranks[: -thresholds.persist], ranks[-thresholds.persist :]
    if float(recent.max()) >= needed * (thresholds.release if active else 1.0):
        return None
    usual = float(median(before))
    if not active and usual < thresholds.fall * float(recent.max()):
        return None
    return f"the representation has {ranks[-1]:.2g} effective dimensions, it had {usual:.2g}"
