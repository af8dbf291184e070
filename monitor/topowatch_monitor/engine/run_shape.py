"""What is drawn of one run: the barcodes of its paths, its curves, the forecasts that were made of it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from topowatch_monitor.engine.features import curves_of, whole
from topowatch_monitor.engine.results import GAP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from topowatch_monitor.engine.path_state import PathState
    from topowatch_monitor.engine.told import Told

MOST_BARS = 64  # of each dimension, the longest
MOST_CURVES = 8
BUCKETS = 160  # of a curve
LOSSES = ("loss", "probe_loss")


class Barcode(TypedDict):
    """The persistent homology of a path's window, lengths in the unit of the sketched quantity.

    Attributes:
        h0: lifetimes of its components, the longest first, MOST_BARS at most; all are born at 0.
        h0_bars: how many there are.
        h1: birth and death of its loops, the longest first, MOST_BARS at most.
        h1_bars: how many there are.
        points: in the window.
        resolution: cover radius of the landmarks that the loops are of.
    """

    h0: list[float]
    h0_bars: int
    h1: list[list[float]]
    h1_bars: int
    points: int
    resolution: float


class CurveView(TypedDict):
    """A scalar over the steps, in stretches of equal length; NaN where nothing finite was seen.

    Attributes:
        steps: in the middle of the values of each stretch.
        means: of the values that are finite, first and recent ones exactly, between them the means that are kept.
        least: of those.
        most: of those.
    """

    steps: list[float]
    means: list[float]
    least: list[float]
    most: list[float]


class MadeView(TypedDict):
    """A forecast as it was made at the end of `step`; see `MadeForecast`."""

    step: int
    metric: str
    value: float
    lower: float
    upper: float


class RunShape(TypedDict):
    """What is drawn of a run.

    Attributes:
        weights: of the path of the weights; None before its first point.
        predictions: of the path of the predictions on the probes.
        curves: by name: the losses, and what is measured on held-out data or bears the name of a result.
        forecasts: of the metric that were made, ascending in step.
    """

    weights: Barcode | None
    predictions: Barcode | None
    curves: dict[str, CurveView]
    forecasts: list[MadeView]


def run_shape(told: Told) -> RunShape:
    """Draw a run."""
    made = [each for each in told.forecasts.made if each.metric != GAP]
    forecast = {each.metric for each in made}
    held_out = curves_of(told.history, {*(told.results or {}), *forecast})
    losses = {name: whole(told.history[name]) for name in LOSSES if len(told.history[name])}
    curves = losses | {name: held_out[name] for name in sorted(held_out, key=lambda name: name not in forecast)}
    return {
        "weights": barcode(told.path),
        "predictions": barcode(told.probed.predictions),
        "curves": {name: curve_of(*curve) for name, curve in list(curves.items())[:MOST_CURVES]},
        "forecasts": [
            {"step": each.step, "metric": each.metric, "value": each.value, "lower": each.lower, "upper": each.upper}
            for each in made
        ],
    }


def barcode(path: PathState) -> Barcode | None:
    """Return the bars of a path's window as it is now; None while it is empty."""
    if not path.points:
        return None
    lifetimes = path.h0_lengths[::-1]
    loops, resolution = path.loops()
    longest = np.argsort(loops[:, 0] - loops[:, 1], kind="stable")[:MOST_BARS]
    return {
        "h0": _short(lifetimes[:MOST_BARS]),
        "h0_bars": len(lifetimes),
        "h1": [_short(loops[place]) for place in longest],
        "h1_bars": len(loops),
        "points": path.points,
        "resolution": float(f"{resolution:.5g}"),
    }


def curve_of(steps: NDArray[np.int64], values: NDArray[np.float64], buckets: int = BUCKETS) -> CurveView:
    """Return a curve in a few stretches.

    Args:
        steps: k of them, ascending.
        values: k numbers.
        buckets: stretches of equal numbers of steps, at most; those without a value are left out.
    """
    if len(steps) <= buckets:
        places = np.arange(len(steps))
    else:
        share = (steps - steps[0]) / (steps[-1] - steps[0] + 1)
        places = np.unique((share * buckets).astype(np.int64), return_inverse=True)[1]
    count = int(places.max(initial=-1)) + 1
    finite = np.isfinite(values)
    seen = np.bincount(places[finite], minlength=count)
    least, most = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(least, places[finite], values[finite])
    np.maximum.at(most, places[finite], values[finite])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(places[finite], weights=values[finite], minlength=count) / seen
        middles = np.bincount(places, weights=steps, minlength=count) / np.bincount(places, minlength=count)
    least[seen == 0] = most[seen == 0] = np.nan
    return {"steps": _short(middles, 8), "means": _short(means), "least": _short(least), "most": _short(most)}


def _short(values: NDArray[np.float64], digits: int = 5) -> list[float]:
    """So many digits of each number: more than a drawing shows."""
    return [float(f"{value:.{digits}g}") for value in values.tolist()]
