"""The features of a run at this moment, by the names of `forecast.FEATURES`: what is computed already, read in O(1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from topowatch_monitor.detect.level import WIDTH
from topowatch_monitor.engine.results import is_held_out, root

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from topowatch_monitor.detect import History
    from topowatch_monitor.detect.series import Series
    from topowatch_monitor.engine.path_state import PathState
    from topowatch_monitor.engine.probed import Probed
    from topowatch_monitor.engine.terrain import Terrain

Curve = tuple["NDArray[np.int64]", "NDArray[np.float64]"]  # steps, ascending, and values

_OF_PATH = {
    "length": "path_length",
    "h0_total_persistence": "h0_total_persistence",
    "dimension": "dimension",
    "magnitude": "magnitude",
}
_OF_REPRESENTATION = {
    "length": "representation_length",
    "h0_total_persistence": "representation_h0",
    "dimension": "representation_dimension",
    "magnitude": "representation_magnitude",
}
_LEAST_CONFIDENCE = 1e-4  # a probability in half precision may be 0
_AS_THEY_ARE = ("representation_rank", "weight_norm", "update_ratio_max", "gradient_norm")


def features_of(history: History, path: PathState, probed: Probed, terrain: Terrain) -> dict[str, float]:
    """All that is known of a run now; what is not, or is no finite number, is missing."""
    found = {
        **loss_features(history),
        **path_features(path, probed.predictions),
        **terrain_features(terrain, history),
        **probe_features(*probed.said),
        **scalar_features(history),
    }
    doubt, loss = found.get("confidence_loss", 0.0), found.get("loss", 0.0)
    if doubt > 0 and loss > 0:
        found["doubt_over_loss"] = math.log(doubt / loss)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def curves_of(history: History, results: Iterable[str]) -> dict[str, Curve]:
    """What was logged on the way of what is measured on held-out data, or bears the name of a result.

    Returns:
        steps and values of each, old ones as means.
    """
    names = [name for name in history.latest if is_held_out(name) or name in results]
    return {name: whole(history[name]) for name in sorted(names)}


def curve_for(curves: Mapping[str, Curve], metric: str) -> Curve | None:
    """The curve that leads to a metric: that of its own name, else one that measures the same on held-out data."""
    if metric in curves:
        return curves[metric]
    alike = (name for name in sorted(curves) if is_held_out(name) and root(name) == root(metric))
    return next((curves[name] for name in alike), None)


def whole(series: Series) -> Curve:
    """Return all that is left of a series: first values, means of old ones, recent values."""
    first = series.head_steps[-1] if len(series.head_steps) else -1
    between, recent = series.old_steps > first, series.steps > first
    steps = np.concatenate([series.head_steps, series.old_steps[between], series.steps[recent]])
    return steps, np.concatenate([series.head, series.old[between], series.values[recent]])


def loss_features(history: History) -> dict[str, float]:
    """How the training loss has come down."""
    curve, series = history.curve, history.loss
    if len(curve.values) < 4 or curve.initial is None:
        return {}
    recent = curve.values[-WIDTH:]
    now = float(recent.mean())
    half = np.searchsorted(curve.steps, curve.steps[-1] // 2)
    if half >= 4:
        earlier = float(curve.values[max(0, half - WIDTH) : half].mean())
    else:
        old = series.old[: np.searchsorted(series.old_steps, curve.steps[-1] // 2) + 1]
        earlier = float(old[-1]) if len(old) and np.isfinite(old[-1]) else math.nan
    found = {"loss": now, "loss_noise": float(recent.std()) / max(abs(now), 1e-12)}
    if curve.lowest is not None:
        found["loss_lowest"] = curve.lowest.level
    if now > 0 and curve.initial > 0:
        found["loss_fall"] = math.log(curve.initial / now)
    if now > 0 and earlier > 0:
        found["loss_slope"] = math.log(earlier / now)
    return found


def path_features(path: PathState, representation: PathState) -> dict[str, float]:
    """How long and of what shape the path is, that of the weights and that of the predictions."""
    found: dict[str, float] = {}
    for state, names, loops in (
        (path, _OF_PATH, "h1_total_persistence"),
        (representation, _OF_REPRESENTATION, "representation_h1"),
    ):
        view: dict[str, Any] = dict(state.view())
        found |= {name: view[key] for key, name in names.items() if view[key] is not None}
        if state is path and view["e_alpha"] is not None:
            found |= {"e_alpha_half": view["e_alpha"]["0.5"], "e_alpha_two": view["e_alpha"]["2"]}
        h0, h1 = view["h0_total_persistence"], view["h1_total_persistence"]
        if h0 and h1 is not None:
            found[loops] = h1 / h0
    return found


def terrain_features(terrain: Terrain, history: History) -> dict[str, float]:
    """What was seen of the loss around the path."""
    view = terrain.view(history.latest)
    land: dict[str, Any] = dict(view["landscape"] or {})
    found: dict[str, Any] = {
        "critical_lr_ratio": view["critical_lr_ratio"],
        "gradient_flow_consistency": view["gradient_flow_consistency"],
        "landscape_total_persistence": land.get("total_persistence"),
        "basin_depth": land.get("basin_depth"),
    }
    return {name: value for name, value in found.items() if value is not None}


def probe_features(predicted: NDArray[np.uint32], confidence: NDArray[np.float16]) -> dict[str, float]:
    """How sure the predictions on the probes are, and how many classes they use."""
    if not len(predicted) or len(confidence) != len(predicted):
        return {}
    sure = confidence.astype(np.float64)
    _, counts = np.unique(predicted, return_counts=True)
    share = counts / len(predicted)
    return {
        "confidence": float(sure.mean()),
        "confidence_low": float(np.quantile(sure, 0.1)),
        "confidence_spread": float(sure.std()),
        "confidence_loss": float(-np.log(np.maximum(sure, _LEAST_CONFIDENCE)).mean()),
        "class_entropy": float(-(share * np.log(share)).sum() / math.log(max(2, len(predicted)))),
    }


def scalar_features(history: History) -> dict[str, float]:
    """Newest values that are features as they are."""
    latest = history.latest
    return {name: latest[name] for name in _AS_THEY_ARE if name in latest}
