"""What is drawn of one run: the barcodes of its paths, its curves, the forecasts that were made of it. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from topowatch_monitor.engine.features import curves_of, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from topowatch_monitor.engine.path_state import PathState
    from topowatch_monitor.engine.told import Told

MOST_BARS = 64  # of each dimension, the longest
MOST_CURVES = 8
BUCKETS = 128  # of a curve; each gives its least and its largest value
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
    """A scalar over the steps: first values, means of old ones, recent values, thinned to a few hundred."""

    steps: list[int]
    values: list[float]


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
        forecasts: that were made, ascending in step.
    """

    weights: Barcode | None
    predictions: Barcode | None
    curves: dict[str, CurveView]
    forecasts: list[MadeView]


def run_shape(told: Told) -> RunShape:
    """Draw a run."""
    made = told.forecasts.made
    held_out = curves_of(told.history, {*(told.results or {}), *(each.metric for each in made)})
    curves = {name: whole(told.history[name]) for name in LOSSES if len(told.history[name])} | held_out
    return {
        "weights": barcode(told.path),
        "predictions": barcode(told.probed.predictions),
        "curves": {name: _curve(*curve) for name, curve in list(curves.items())[:MOST_CURVES]},
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


def thinned(values: NDArray[np.float64], buckets: int = BUCKETS) -> NDArray[np.intp]:
    """Positions that show a curve of many values in a few: of each bucket the least and the largest, first and last.

    Args:
        values: k numbers; those that are not finite are passed over, except at the ends.
        buckets: of equal numbers of values.

    Returns:
        At most 2 × buckets + 2 positions, ascending; all where there are no more.
    """
    if len(values) <= 2 * buckets:
        return np.arange(len(values), dtype=np.intp)
    edges = np.linspace(0, len(values), buckets + 1).astype(np.intp)
    chosen = {0, len(values) - 1}
    for start, stop in pairwise(edges.tolist()):
        finite = start + np.flatnonzero(np.isfinite(values[start:stop]))
        if len(finite):
            chosen |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
    return np.array(sorted(chosen), dtype=np.intp)


def _curve(steps: NDArray[np.int64], values: NDArray[np.float64]) -> CurveView:
    shown = thinned(values)
    return {"steps": steps[shown].tolist(), "values": _short(values[shown])}


def _short(values: NDArray[np.float64]) -> list[float]:
    """Five digits of each number: more than a drawing shows."""
    return [float(f"{value:.5g}") for value in values.tolist()]
