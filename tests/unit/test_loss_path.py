"""The path of the probe losses against a sorted list of samples from which everything is computed anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import cdist, pdist

from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.loss_path import PROBES, LossPath
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.topology.dimension import ph_dimension


def losses(count: int, probes: int = 6, seed: int = 0) -> np.ndarray:
    walk = np.cumsum(np.random.default_rng(seed).standard_normal((count, probes)), axis=0)
    return np.abs(walk).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), window=st.integers(2, 50))
def test_late_samples_duplicates_and_rewinds_leave_the_samples_of_the_definition(data, window):
    """Those known now, without those that the window has moved past since the latest rewind before them."""
    table = losses(40)
    path, held, past = LossPath(PathSettings(window=window, shape_every=3)), [], -1
    for _ in range(data.draw(st.integers(1, 60))):
        if data.draw(st.integers(0, 9)) < 8:
            step = data.draw(st.integers(0, 39))
            fits = step not in held and step > past and not (len(held) == window and step < held[0])
            assert path.add(step, table[step]) is fits
            held = sorted({*held, step}) if fits else held
            if len(held) > window:
                past = held.pop(0)
        else:
            start = data.draw(st.integers(0, 39))
            stop = data.draw(st.none() | st.integers(start, 40))
            path.discard(start, stop)
            held = [step for step in held if step < start or (stop is not None and step >= stop)]
            past = min(past, start - 1)
        assert path.steps == held
        assert (path.view() or {"points": 0})["points"] == len(held)


def test_dimension_and_sums_are_those_of_strided_samples_at_every_kth_and_a_rewind_takes_them_away():
    table = losses(200)
    path = LossPath(PathSettings(window=150, shape_every=50, shape_points=75))
    for step in range(200):
        path.add(step, table[step])
        if step == 48:
            assert path.view() == {"dimension": None, "lower": None, "upper": None, "points": 49, "e_alpha": None}

    def check(few: np.ndarray, points: int) -> None:
        view = path.view()
        expected = ph_dimension(cdist(few, few, "cityblock") / 6)
        assert (view["dimension"], view["lower"], view["upper"]) == pytest.approx(
            (expected.value, expected.lower, expected.upper), rel=1e-9
        )
        lengths = linkage(pdist(few, "cityblock") / 6, "single")[:, 2]
        assert view["e_alpha"] == pytest.approx({f"{a:g}": (lengths**a).sum() for a in (0.5, 1.0, 2.0)}, rel=1e-9)
        assert view["points"] == points

    check(table[51::2].astype(float), 150)
    path.discard(195)
    assert path.view() == {"dimension": None, "lower": None, "upper": None, "points": 145, "e_alpha": None}
    path.add(195, table[195])
    check(table[195:49:-2][::-1].astype(float), 146)


@pytest.mark.parametrize("bad", [[np.nan] * 6, [np.inf, *[1.0] * 5], [1.0] * 5, []])
def test_losses_that_are_not_finite_or_of_other_probes_are_left_out(bad):
    path = LossPath(PathSettings())
    assert path.add(0, np.ones(6, dtype=np.float32))
    assert not path.add(1, np.array(bad, dtype=np.float32))
    assert path.steps == [0]


def test_of_very_many_probes_every_kth_is_kept():
    path = LossPath(PathSettings())
    path.add(0, np.arange(10 * PROBES + 1, dtype=np.float32))
    [kept] = path.state_dict()["losses"]
    assert len(kept) <= PROBES
    assert set(np.diff(kept)) == {11.0}


def test_a_full_window_takes_less_than_a_mebibyte():
    path = LossPath(PathSettings())
    for step in range(600):
        path.add(step, np.full(5000, step, dtype=np.float32))
    assert len(encode(path.state_dict())) < 0.6 * 2**20


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 89), seed=st.integers(0, 1000))
def test_a_restored_path_goes_on_exactly_as_the_original(cut, seed):
    rng = np.random.default_rng(seed)
    table, steps = losses(90, seed=seed), rng.permutation(90).tolist()
    limits = PathSettings(window=70, shape_every=7)
    first = second = LossPath(limits)
    for index, step in enumerate(steps):
        if index == cut:
            second = LossPath.from_state(decode(encode(first.state_dict())), limits)
        for path in {id(first): first, id(second): second}.values():
            if index % 23 == 22:
                path.discard(step)
            path.add(step, table[step])
        assert first.view() == second.view()
        assert first.steps == second.steps
