"""The loss has not come down since the run began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.detect.series import HEAD

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History


@dataclass(frozen=True)
class LossNotDecreasingThresholds:
    """When a loss counts as not decreasing.

    Attributes:
        patience: steps since the first loss; a learning-rate warm-up of a few hundred steps may hold a loss up.
        minimum_values: values of the loss, so that levels can be compared.
        share: of the initial loss, 0 to 1; a fall of 2 % in all that time is none.
        noise: standard deviations of single values by which the lowest level has to be under the initial one: by chance
            alone, the lowest of many levels is about one below it.
        significant: standard errors; a fall from the first 32 values to the later half by more is one, however small.
        chance_share: of the loss of a model that knows nothing, 0 to 1. Under 80 % of it the run has learned something,
            if not here, and a flat loss means that it has converged.
        floor: nats. Where chance is not known, a run that began under it began converged.
    """

    patience: int = 400
    minimum_values: int = 64
    share: float = 0.02
    noise: float = 1.5
    significant: float = 4.0
    chance_share: float = 0.8
    floor: float = 0.5


def detect(history: History, active: bool, thresholds: LossNotDecreasingThresholds) -> str | None:
    """Say where the loss has stayed; None once it has fallen, and for runs that began converged.

    Once active, it takes twice the fall to release.
    """
    curve = history.curve
    initial, head, lowest = curve.initial, curve.head, curve.lowest
    if initial is None or head is None or lowest is None or curve.count < thresholds.minimum_values:
        return None
    waited = int(curve.steps[-1]) - int(history.loss.head_steps[0])
    if waited < thresholds.patience or _began_converged(history, initial, thresholds):
        return None
    needed = max(thresholds.share * abs(initial), thresholds.noise * lowest.noise) * (2 if active else 1)
    if lowest.level < initial - needed:
        return None
    later = curve.values[len(curve.values) // 2 :]
    level = float(later.mean())
    error = lowest.noise * (1 / HEAD + 1 / len(later)) ** 0.5
    if not active and head - level > thresholds.significant * error + 0.25 * thresholds.share * abs(initial):
        return None
    return f"loss {level:.4g} after {waited} steps, it began at {head:.4g}"


def _began_converged(history: History, initial: float, thresholds: LossNotDecreasingThresholds) -> bool:
    if history.chance_loss is not None:
        probe = history["probe_loss"]
        level = float(probe.values[-1]) if len(probe) else initial
        return level < thresholds.chance_share * history.chance_loss
    return history.resumed or initial < thresholds.floor
