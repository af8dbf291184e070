"""The weights that training began with blow signals up, let them die out, or make wild guesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from topowatch_monitor.detect.history import History
    from topowatch_monitor.detect.layers import LayerHistory


@dataclass(frozen=True)
class PoorInitialisationThresholds:
    """When a start counts as poor.

    Attributes:
        steps: from the start, in which it is judged; later on training has made the weights what they are.
        spread: largest over smallest standard deviation of outputs among layers with weights. Usual ones keep it within
            a few hundred (embeddings of 0.02 beside normalised features); constant layers, which begin at zero by
            design, do not count.
        chance: times the loss of a model that knows nothing. At first a model should know that it knows nothing; a
            first step that is too large may double its loss.
        release: share of these under which it is let go.
    """

    steps: int = 50
    spread: float = 1e4
    chance: float = 4.0
    release: float = 0.5


def detect(history: History, active: bool, thresholds: PoorInitialisationThresholds) -> str | None:
    """Say what is wrong with the start; None where nothing is. Runs that go on from a checkpoint are not judged.

    Once on, it stays so until the newest values are usual.
    """
    if history.resumed or not (active or _begins(history, thresholds.steps)):
        return None
    ease = thresholds.release if active else 1.0
    return _wild(history, active, thresholds) or _uneven(history.layers, thresholds.spread * ease)


def _begins(history: History, steps: int) -> bool:
    newest = [int(series.steps[-1]) for series in (history.loss, history["probe_loss"]) if len(series)]
    return max([*newest, *history.layers.steps[-1:]], default=steps) < steps


def _wild(history: History, active: bool, thresholds: PoorInitialisationThresholds) -> str | None:
    """Whether every loss that is known stands far above chance: a logged one may have other terms in it."""
    known = [series for series in (history["loss"], history["probe_loss"]) if len(series)]
    if history.chance_loss is None or not len(history["probe_loss"]):
        return None
    limit = thresholds.chance * history.chance_loss
    first = min(float(series.head[0]) if len(series.head) else 0.0 for series in known)
    newest = min(float(series.values[-1]) for series in known)
    if not (newest > thresholds.release * limit and (active or first > limit)):
        return None
    return f"the loss began at {first:.3g}, a model that knows nothing has {history.chance_loss:.3g}"


def _uneven(layers: LayerHistory, limit: float) -> str | None:
    deviation, weight = layers.measured("activation_deviation", "weight_norm")
    if not len(deviation):
        return None
    known = np.flatnonzero(np.isfinite(deviation[-1]) & (deviation[-1] > 0) & ~np.isnan(weight[-1]))
    if len(known) < 2:
        return None
    least, most = known[np.argmin(deviation[-1, known])], known[np.argmax(deviation[-1, known])]
    low, high = deviation[-1, least], deviation[-1, most]
    if high <= limit * low:
        return None
    return (
        f"outputs of layer {layers.names[least]!r} vary by {low:.1g} and those of layer"
        f" {layers.names[most]!r} by {high:.1g}: signals {'grow' if most > least else 'die out'} on their way"
    )
