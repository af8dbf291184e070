"""The newest slice of the loss shows a basin that holds little of what the run has gained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class ShallowBasinThresholds:
    """When a basin counts as shallow.

    Attributes:
        share: of the descent of the loss so far, 0 to 1, that the basin's depth has to be under: what a random plane
            as wide as the weights themselves does not bring back, a minimum does not guard.
        descended: share of where the loss began (or of chance, where that is known), 0 to 1, that it has to have come
            down by before there is a minimum to speak of.
        release: of the same as `share`, above which a newer slice lets go.
        lasts: steps for which a slice says something of the run; it is taken on demand only.
    """

    share: float = 0.05
    descended: float = 0.25
    release: float = 0.1
    lasts: int = 10_000


def detect(history: History, active: bool, thresholds: ShallowBasinThresholds) -> str | None:
    """Say how deep the basin is; None while it is deep enough, not known, or there is no minimum to lose."""
    depths, curve = history["basin_depth"], history.curve
    if not len(depths) or curve.lowest is None or curve.initial is None or not len(curve.steps):
        return None
    depth, descent = float(depths.values[-1]), curve.initial - curve.lowest.level
    began = max(curve.initial, history.chance_loss or curve.initial)
    if began - curve.lowest.level < thresholds.descended * began:
        return None
    if curve.steps[-1] - depths.steps[-1] > thresholds.lasts:
        return None
    if depth >= (thresholds.release if active else thresholds.share) * descent:
        return None
    return f"the basin is {depth:.3g} deep, the loss has come down by {descent:.3g}"
