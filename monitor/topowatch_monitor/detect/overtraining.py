"""The loss on the probes has long been lower than it is, and training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class OvertrainingThresholds:
    """When further training counts as in vain. Levels are medians of 5 probe losses.

    A loss that merely rests is none: near its end, a healthy run improves by luck or not at all.

    Attributes:
        delta: share of the lowest level; improvements under 1 % are none, as in SageMaker Debugger.
        passes: probe passes without an improvement; fewer may be a plateau.
        steps: steps without one.
        share: of the steps from the start to the last improvement, without one since. Where learning rates drop in
            stages, the loss may rest for half of what has gone before.
        worse: share of the way down from where the probe loss began, by which the latest levels are all above the
            lowest.
        noise: standard deviations of single probe losses, if that is more.
        stays: how many latest levels.
        release: share of `worse` and `noise` under which it lets go.
        learned: share of where the probe loss began (or of chance) under which it has come; a run that has learned
            nothing yet may still begin to.
    """

    delta: float = 0.01
    passes: int = 24
    steps: int = 1000
    share: float = 1.0
    worse: float = 0.02
    noise: float = 3.0
    stays: int = 8
    release: float = 0.5
    learned: float = 0.8


def detect(history: History, active: bool, thresholds: OvertrainingThresholds) -> str | None:
    """Say since when the probe loss has not improved; None while it does, or rests."""
    probe = history["probe_loss"]
    curve = history.probe_curve
    if curve is None or not len(probe.head):
        return None
    began = max(float(probe.head[0]), history.chance_loss or 0.0)
    lowest = float(curve.levels[curve.lowest])
    if not lowest < thresholds.learned * began:
        return None
    needed = max(thresholds.worse * (began - lowest), thresholds.noise * curve.noise)
    if curve.levels[-thresholds.stays :].min() - lowest <= needed * (thresholds.release if active else 1.0):
        return None
    best = int(np.argmax(curve.levels <= lowest + thresholds.delta * abs(lowest)))
    since, now = int(curve.steps[best]), int(probe.steps[-1]) if len(probe) else int(curve.steps[-1])
    waited = now - since
    patience = max(thresholds.steps, thresholds.share * (since - int(probe.head_steps[0])))
    if waited < patience or len(curve.levels) - 1 - best < thresholds.passes:
        return None
    share = f"{thresholds.delta:.0%}"
    return f"probe loss has not improved by {share} in {waited} steps; it was {lowest:.4g} at step {since}"
