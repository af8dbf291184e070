"""What forecasts have to beat: curves drawn on, and which features simpler forecasts may use."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.forecast.baselines import LOSS_ONLY, NORM_AND_LENGTH
from topowatch_monitor.forecast.curve import curve_features, last_value, power_law
from topowatch_monitor.forecast.table import NAMES


@settings(max_examples=30, deadline=None)
@given(
    end=st.floats(-5, 5), height=st.floats(-3, 3).filter(lambda h: abs(h) > 0.05), power=st.floats(0.2, 2.0),
    unit=st.sampled_from([1e-3, 1.0, 1e4]),
)  # fmt: skip
def test_a_power_law_is_drawn_on_as_one(end: float, height: float, power: float, unit: float) -> None:
    steps = np.arange(0, 400, 20)
    curve = unit * (end + height * (steps + 1.0) ** -power)
    expected = unit * (end + height * 1600.0**-power)
    assert power_law(steps, curve, 1599) == pytest.approx(expected, abs=0.02 * np.ptp(curve) + 1e-9)


def test_noise_does_not_send_it_far() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(10, 250, 10)
    for _ in range(20):
        curve = 0.9 - 2.0 * (steps + 1.0) ** -0.8 + 0.01 * rng.standard_normal(len(steps))
        assert power_law(steps, curve, 1000) == pytest.approx(0.9 - 2.0 * 1001.0**-0.8, abs=0.05)


def test_where_too_little_is_known_the_last_value_stands() -> None:
    assert power_law([], [], 10) is None
    assert power_law([0, 5, 9], [0.1, 0.2, 0.3], 100) == 0.3
    assert power_law(range(8), np.full(8, 0.5), 100) == 0.5
    assert power_law(range(6), [0.1, np.nan, 0.2, np.inf, 0.3, np.nan], 100) == 0.3
    assert last_value([np.nan]) is None
    assert last_value([0.1, np.nan]) == 0.1


def test_simpler_forecasts_see_what_they_are_named_for() -> None:
    assert set(NAMES) - NORM_AND_LENGTH == {"weight_norm", "path_length"}
    assert all(name.startswith("loss") for name in set(NAMES) - LOSS_ONLY)


def test_a_curve_shows_its_newest_value_its_level_its_rise_and_its_end() -> None:
    steps = np.arange(0, 100, 10)
    found = curve_features(steps, 0.9 - 0.5 / (steps + 1.0), 999)
    assert found["curve_last"] == pytest.approx(0.9 - 0.5 / 91)
    assert found["curve_level"] == pytest.approx(np.mean(0.9 - 0.5 / (steps[-4:] + 1.0)))
    assert found["curve_rise"] == pytest.approx(0.5 / 41 - 0.5 / 91)
    assert found["curve_drawn"] == pytest.approx(0.9, abs=2e-3)
    assert curve_features([3], [np.nan], 99) == {}
    assert curve_features([3], [0.4], 99) == {"curve_last": 0.4, "curve_level": 0.4, "curve_drawn": 0.4}
