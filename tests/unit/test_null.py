"""The law of noise bars: fitted to the bulk, corrected for their number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ripser import ripser

from topowatch_monitor.topology.null import MIN_BARS, bar_p_values


def noise_bars(count: int, seed: int) -> np.ndarray:
    """Bars whose sizes A·log log(death/birth) + B follow the left-skewed Gumbel law exactly."""
    rng = np.random.default_rng(seed)
    size = np.log(-np.log(rng.uniform(size=count)))
    births = rng.uniform(0.1, 1.0, count)
    return np.column_stack([births, births * np.exp(np.exp((size + 1.0) / 2.5))])


def test_the_smallest_p_value_of_noise_is_below_a_level_as_often_as_the_level_says() -> None:
    """Bonferroni makes it at most that often; the fit to 200 bars adds a little, the more the smaller the level."""
    smallest = np.array([bar_p_values(noise_bars(200, seed), 0.0).min() for seed in range(1000)])
    for level in (0.5, 0.2, 0.05):
        assert 0.5 * level < (smallest < level).mean() < 2.0 * level


@pytest.mark.parametrize("seed", range(10))
def test_a_cloud_without_a_hole_has_no_small_p_value(seed: int) -> None:
    """A uniform cloud is the case that the law was found for."""
    cloud = np.random.default_rng(seed).uniform(size=(300, 2))
    bars = ripser(cloud, maxdim=1)["dgms"][1]
    assert bar_p_values(bars, 0.0).min() > 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_a_hole_in_a_cloud_has_a_small_p_value(seed: int) -> None:
    """Only the bar of the hole is significant."""
    cloud = np.random.default_rng(seed).uniform(-1.0, 1.0, (1000, 2))
    cloud = cloud[np.linalg.norm(cloud, axis=1) > 0.7]
    bars = np.asarray(ripser(cloud, maxdim=1)["dgms"][1], dtype=np.float64)
    p_values = bar_p_values(bars, 0.0)
    assert np.flatnonzero(p_values < 1e-3).tolist() == [int(np.argmax(bars[:, 1] - bars[:, 0]))]


@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_p_values_do_not_depend_on_the_unit(seed: int, scale: float) -> None:
    """Only the ratio of death and birth is looked at."""
    bars = noise_bars(60, seed)
    assert bar_p_values(bars * scale, 0.2 * scale) == pytest.approx(bar_p_values(bars, 0.2), rel=1e-6, abs=1e-300)


@given(seed=st.integers(0, 1000), floor=st.floats(0.0, 3.0))
def test_a_higher_floor_never_makes_a_bar_more_significant(seed: int, floor: float) -> None:
    """A birth counts as the floor at least; bars that die below it say nothing."""
    bars = noise_bars(60, seed)
    with_floor = bar_p_values(bars, floor)
    assert (with_floor >= bar_p_values(bars, 0.0)).all()
    assert (with_floor[bars[:, 1] <= floor] == 1.0).all()


def test_a_bar_that_never_dies_is_no_noise() -> None:
    """Its p-value is zero, and the law is fitted to the others."""
    bars = noise_bars(50, 0)
    with_infinite = np.vstack([bars, [0.5, np.inf]])
    p_values = bar_p_values(with_infinite, 0.0)
    assert p_values[-1] == 0.0
    assert p_values[:-1] == pytest.approx(np.minimum(1.0, bar_p_values(bars, 0.0) * 51 / 50), rel=1e-9)


def test_too_few_bars_or_bars_of_one_size_say_nothing() -> None:
    """There is no law to be fitted."""
    assert bar_p_values(noise_bars(MIN_BARS - 1, 0), 0.0) is None
    assert bar_p_values(noise_bars(MIN_BARS, 0), 0.0) is not None
    assert bar_p_values(np.tile([[1.0, 2.0]], (40, 1)), 0.0) is None
    assert bar_p_values(np.empty((0, 2)), 0.0) is None
