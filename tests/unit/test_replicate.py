"""The replication of forecasts: a frozen sweep, networks of the right shapes, measures that do what they say."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from replication.forecasts import page
from replication.forecasts.claim import granulated, partial, slice_persistence
from replication.forecasts.data import CONTEXT, shifted
from replication.forecasts.judging import stopping
from replication.forecasts.networks import ARCHITECTURES, build, widths_of
from replication.forecasts.sweep import SHIFTED_RUNS, SWEEPS

FROZEN = {"full": "25a9de8008552b9b", "small": "769222e4bb3a616f", "trial": "c8be968ccd261599"}


@pytest.mark.parametrize("name", SWEEPS)
def test_the_sweep_is_the_one_that_figures_were_taken_from(name: str) -> None:
    told = repr(SWEEPS[name].configurations()).encode()
    assert hashlib.sha256(told).hexdigest()[:16] == FROZEN[name]


def test_no_two_runs_of_a_group_have_the_same_configuration() -> None:
    for sweep in SWEEPS.values():
        set_up = [replace(each, number=0, seed=0) for each in sweep.configurations()]
        assert len(set(set_up)) == len(set_up)
    of_others = {each.seed for name in ("small", "trial") for each in SWEEPS[name].configurations()}
    assert of_others.isdisjoint(each.seed for each in SWEEPS["full"].configurations())


def test_the_sweep_is_as_large_as_it_has_to_be() -> None:
    full = SWEEPS["full"]
    assert len(full.cells) == 9
    assert full.runs >= 60
    assert sum(bool(each.shifts) for each in full.configurations()) == 6 * SHIFTED_RUNS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_networks_tell_classes_of_images_and_of_each_character(architecture: str) -> None:
    for width in widths_of(architecture, "mnist"):
        assert build(architecture, "mnist", width)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    text = torch.zeros(2, CONTEXT, dtype=torch.int64)
    for width in widths_of(architecture, "text"):
        model = build(architecture, "text", width).eval()
        told = model(text)
        assert told.shape == (2, CONTEXT, 64)
        changed = text.clone()
        changed[:, -1] = 5
        torch.testing.assert_close(model(changed)[:, :-1], told[:, :-1])  # nothing is told of what comes later


def test_the_page_is_that_of_the_results() -> None:
    found = json.loads(page.RESULTS.read_text())
    assert page.PAGE.read_text() == page.page(found)
    assert (found["sweep"], found["runs"]) == ("full", 540)


def test_images_are_shifted_as_no_training_data_were() -> None:
    images = torch.rand(3, 1, 28, 28)
    turned = shifted(images, "rotated")
    assert not torch.equal(turned, images)
    for _ in range(3):
        turned = shifted(turned, "rotated")
    torch.testing.assert_close(turned, images)
    assert float((shifted(images, "noisy") - images).std()) == pytest.approx(0.5, abs=0.02)


def test_what_only_stands_for_something_else_has_no_partial_correlation() -> None:
    rng = np.random.default_rng(0)
    rate = rng.standard_normal(400)
    measure, gap = rate + 0.3 * rng.standard_normal(400), rate + 0.3 * rng.standard_normal(400)
    assert np.corrcoef(measure, gap)[0, 1] > 0.8
    assert abs(partial(measure, gap, rate[:, None])) < 0.15
    assert partial(measure, 0.3 * rate + measure, rate[:, None]) > 0.6


def test_the_granulated_rank_correlation_is_taken_within_equal_settings() -> None:
    """A measure that follows the optimiser, and within each runs against the gap."""
    rng = np.random.default_rng(0)
    configurations = [
        SimpleNamespace(optimiser=name, batch=1, decay=0.0, width=1, noise=0.0, rate=1.0)
        for name in ("sgd", "adam")
        for _ in range(20)
    ]
    level = np.repeat([0.0, 100.0], 20)
    within = rng.random(40)
    found = granulated(level - within, level + within, configurations)
    both = (400 - 380) / 780  # pairs of both optimisers agree, pairs of one do not
    assert found == pytest.approx(np.mean([-1.0, *5 * [both]]))


def test_persistence_of_a_slice_is_the_depth_of_its_lesser_basins() -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 13), np.linspace(-1, 1, 13))
    assert slice_persistence((x**2 + y**2).tolist()) == pytest.approx(0.0, abs=1e-9)
    line = np.array([[3.0, 0.0, 2.0, 1.0, 3.0]])
    assert slice_persistence(np.repeat(line, 3, axis=0).tolist()) == pytest.approx(1.0)
    assert np.isnan(slice_persistence([[0.0, np.nan], [0.0, 0.0]]))


def test_stopping_by_what_is_right_costs_nothing() -> None:
    results = np.arange(10.0)

    def group(values: np.ndarray) -> SimpleNamespace:
        said = SimpleNamespace(values={"forecast": values, "last value": -results, "power law": results})
        runs = [SimpleNamespace(milestones=[], steps=1) for _ in results]
        return SimpleNamespace(results={"accuracy": results}, runs=runs, said={"accuracy": {4: said, 8: said}})

    quarter, half = stopping([group(results)], [group(results)])
    assert quarter["ways"]["forecast, nothing validated"] == {"saved": 0.375, "regret": 0, "worst": 0, "kept_best": 1}
    assert quarter["ways"]["validation metric (successive halving)"]["regret"] == 5
    assert half["ways"]["validation metric, drawn on"]["saved"] == 0.25
