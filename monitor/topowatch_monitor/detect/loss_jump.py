"""The loss has jumped, from one step to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.graded import Measure
from topowatch_monitor.detect.level import noise_of
from topowatch_monitor.detect.series import median

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class LossJumpThresholds:
    """When a rise counts as a jump.

    Attributes:
        recent: newest values, two neighbours among which have to stand that high: no single batch decides, and what
            comes back at once is seen.
        window: values before these, whose median is the usual loss; their noise and the highest of them count as well.
        minimum: values of the past that must be known.
        noise: standard deviations of single values above the usual loss.
        highest: times what the highest of the past stands above the usual loss: where some batches are much harder than
            others, two of these come together now and then.
        share: of the way down from where the loss began, above the usual loss.
        still: share of the usual loss: where all of these are less, as at a rate of 0, nothing moves, and the floor is
            what counts.
        floor: share of the usual loss itself, above it.
        release: share of the alarm, 0 to 1, below which it lets go.
    """

    recent: int = 8
    window: int = 64
    minimum: int = 16
    noise: float = 10.0
    highest: float = 1.5
    share: float = 0.3
    still: float = 1e-4
    floor: float = 0.05
    release: float = 0.5


def measure(history: History, thresholds: LossJumpThresholds) -> Measure | None:
    """Return how high the newest losses stand above the usual; None where too little is known."""
    curve = history.curve
    past = curve.values[-thresholds.window - thresholds.recent : -thresholds.recent]
    if len(past) < thresholds.minimum or curve.initial is None:
        return None
    newest = curve.values[-thresholds.recent :]
    usual, highest, both = float(median(past)), float(past.max()), float(np.minimum(newest[1:], newest[:-1]).max())
    noise, descent = thresholds.noise * noise_of(past), thresholds.share * (curve.initial - usual)
    unit = max(noise, descent, thresholds.highest * (highest - usual), float(np.finfo(np.float64).tiny))
    if unit < thresholds.still * abs(usual):
        unit = thresholds.floor * abs(usual)
    return Measure(max(0.0, both - usual) / unit, f"the loss jumped from about {usual:.3g} to {both:.3g}")
