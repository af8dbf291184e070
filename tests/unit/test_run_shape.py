"""What is drawn of a run: bars against a computation of their own, curves that lose neither level nor extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ripser import ripser
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from topowatch_monitor.engine.path_state import PathSettings, PathState
from topowatch_monitor.engine.results import GAP
from topowatch_monitor.engine.run_shape import MOST_BARS, MOST_CURVES, barcode, curve_of, run_shape
from topowatch_monitor.engine.told import RunSettings, Told
from topowatch_protos.v1 import log_pb2, run_pb2

RING = np.stack([np.cos(np.arange(40) / 40 * math.tau), np.sin(np.arange(40) / 40 * math.tau)], axis=1)


def path_of(points: np.ndarray, landmarks: int = 64) -> PathState:
    path = PathState(PathSettings(window=512, h1_landmarks=landmarks))
    for step, point in enumerate(points):
        path.add(step, point.astype(np.float32))
    return path


def test_the_bars_of_a_path_are_those_that_others_compute():
    points = (RING + 0.02 * np.random.default_rng(0).standard_normal(RING.shape)).astype(np.float32)
    bars = barcode(path_of(points))
    assert bars is not None
    merges = linkage(pdist(points.astype(np.float64)), "single")[:, 2]
    np.testing.assert_allclose(bars["h0"], np.sort(merges)[::-1], rtol=1e-4)
    loops = ripser(points, maxdim=1)["dgms"][1]
    loops = loops[np.argsort(loops[:, 0] - loops[:, 1])]
    np.testing.assert_allclose(bars["h1"], loops, rtol=1e-3)
    assert (bars["h0_bars"], bars["h1_bars"], bars["points"], bars["resolution"]) == (39, len(loops), 40, 0.0)


def test_of_many_bars_the_longest_are_told_and_how_many_there_are():
    bars = barcode(path_of(np.random.default_rng(1).standard_normal((200, 5)), landmarks=16))
    assert bars is not None
    assert len(bars["h0"]) == MOST_BARS
    assert bars["h0_bars"] == 199
    assert bars["h0"] == sorted(bars["h0"], reverse=True)
    assert bars["resolution"] > 0


def test_a_path_without_a_point_has_no_bars():
    assert barcode(PathState()) is None


numbers = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf])


@given(st.lists(st.tuples(st.integers(1, 50), numbers), min_size=1, max_size=300), st.integers(1, 40))
def test_a_thinned_curve_keeps_its_order_and_its_least_and_largest_values(pieces, buckets):
    steps, values = np.cumsum([gap for gap, _ in pieces]), np.array([value for _, value in pieces])
    curve = curve_of(steps, values, buckets)
    assert len(curve["steps"]) <= max(buckets, min(len(values), buckets))
    assert curve["steps"] == sorted(curve["steps"])
    assert steps[0] <= curve["steps"][0]
    assert curve["steps"][-1] <= steps[-1]
    finite = values[np.isfinite(values)]
    seen = [value for value in curve["least"] if not math.isnan(value)]
    if not len(finite):
        assert not seen
        return
    assert min(seen) == pytest.approx(finite.min(), rel=1e-4, abs=1e-9)
    assert max(value for value in curve["most"] if not math.isnan(value)) == pytest.approx(finite.max(), rel=1e-4)
    for least, mean, most in zip(curve["least"], curve["means"], curve["most"], strict=True):
        assert math.isnan(mean) or least - 1e-3 * abs(least) - 1e-9 <= mean <= most + 1e-3 * abs(most) + 1e-9


def test_a_short_curve_is_told_value_by_value():
    curve = curve_of(np.array([3, 7, 8]), np.array([1.0, math.nan, 0.5]))
    assert curve["steps"] == [3, 7, 8]
    assert (curve["means"][0], curve["means"][2]) == (1.0, 0.5)
    assert math.isnan(curve["means"][1])


def test_curves_and_forecasts_of_a_run_are_drawn():
    told = Told(RunSettings())
    for name in ("loss", "val_accuracy", "learning_rate"):
        told.history.extend(name, range(10), np.linspace(0.1, 1.0, 10))
    key = run_pb2.RunKey(tenant="t", group="g", run="r")
    for metric, value in ((GAP, 0.1), ("accuracy", 0.9)):  # the gap is no metric that a run is drawn against
        told.forecasts.add(log_pb2.Forecast(key=key, step=4, metric=metric, value=value, lower=0.8, upper=0.95))
    shape = run_shape(told)
    assert set(shape["curves"]) == {"loss", "val_accuracy"}
    assert shape["forecasts"] == [{"step": 4, "metric": "accuracy", "value": 0.9, "lower": 0.8, "upper": 0.95}]
    assert (shape["weights"], shape["predictions"]) == (None, None)


def test_of_many_curves_the_one_that_a_forecast_is_of_is_among_those_drawn():
    told = Told(RunSettings())
    for name in [f"val_{letter}" for letter in "abcdefghijklm"]:
        told.history.extend(name, [0, 1], [0.1, 0.2])
    key = run_pb2.RunKey(tenant="t", group="g", run="r")
    told.forecasts.add(log_pb2.Forecast(key=key, step=1, metric="val_m", value=0.9, lower=0.8, upper=0.95))
    curves = run_shape(told)["curves"]
    assert len(curves) == MOST_CURVES
    assert "val_m" in curves


@pytest.mark.parametrize("points", [1, 2, 3])
def test_a_path_of_very_few_points_or_of_one_place_has_the_bars_that_it_can_have(points):
    for place in (RING[:points], RING[[0] * points]):
        bars = barcode(path_of(place))
        assert bars is not None
        assert (bars["h0_bars"], bars["h1_bars"], bars["points"]) == (points - 1, 0, points)
