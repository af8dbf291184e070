"""The loss has not come down since the run began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.detect.level import WIDTH, noise_of_levels

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class LossNotDecreasingThresholds:
    """When a loss counts as not decreasing.

    Attributes:
        patience: steps since the first loss; a learning-rate warm-up of a few hundred steps may hold a loss up.
        minimum_values: values of the loss, so that its two halves can be compared.
        share: of the initial loss, 0 to 1. A fall that is surely smaller (by `sure` standard errors) is none; a noisy
            loss has to go on for longer before that is sure.
        sure: standard errors.
        noise: standard deviations of levels (means of 32 values) by which the lowest has to be under the first values,
            if that is more: by chance alone it is 3 below, and they are up to 5 above.
        chance_share: of the loss of a model that knows nothing, 0 to 1. Under 80 % of it the run has learned something,
            if not here, and a flat loss means that it has converged.
        floor: nats. Where chance is not known, a run that began under it began converged.
    """

    patience: int = 400
    minimum_values: int = 96
    share: float = 0.03
    sure: float = 4.0
    noise: float = 9.0
    chance_share: float = 0.8
    floor: float = 0.5


def detect(history: History, active: bool, thresholds: LossNotDecreasingThresholds) -> str | None:
    """Say where the loss has stayed; None once it has fallen, and for runs that began converged.

    Fires when the second half of the values is surely not lower than the first, and nothing before was lower either.
    Releases at a fall of half as much again.
    """
    curve = history.curve
    initial, head, lowest = curve.initial, curve.head, curve.lowest
    if initial is None or head is None or lowest is None or curve.count < thresholds.minimum_values:
        return None
    waited = int(curve.steps[-1]) - int(history.loss.head_steps[0])
    if waited < thresholds.patience or _began_converged(history, initial, thresholds):
        return None
    needed = thresholds.share * abs(initial)
    if lowest.level < initial - max(4 * needed, thresholds.noise * lowest.level_noise):
        return None
    noise = noise_of_levels(curve.values)
    if lowest.level < initial - max(needed, thresholds.noise * noise) * (1.5 if active else 1.0):
        return None
    half = len(curve.values) // 2
    level = float(curve.values[half:].mean())
    fall = float(curve.values[:half].mean()) - level
    error = noise * (2 * WIDTH / half) ** 0.5
    if fall + (0.0 if active else thresholds.sure * error) >= needed * (1.5 if active else 1.0):
        return None
    return f"loss {level:.4g} after {waited} steps, it began at {head:.4g}"


def _began_converged(history: History, initial: float, thresholds: LossNotDecreasingThresholds) -> bool:
    if history.chance_loss is not None:
        probe = history["probe_loss"]
        level = float(probe.values[-1]) if len(probe) else initial
        return level < thresholds.chance_share * history.chance_loss
    return history.resumed or initial < thresholds.floor
