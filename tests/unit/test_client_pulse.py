"""The pulse tells how a sample of the parameters moves: held against the same numbers taken from whole tensors."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from client_loops import merged, samples
from topowatch_client import attach
from topowatch_client.pulse import NAMES, Pulse, series, variances
from topowatch_client.sketch import Part

if TYPE_CHECKING:
    from pathlib import Path


def parts_of(model: nn.Module) -> list[Part]:
    return [Part.whole(name, parameter) for name, parameter in model.named_parameters()]


def told(pulse: Pulse) -> dict[str, dict[int, float]]:
    steps, numbers = pulse.take()
    assert numbers is not None
    return {each.name: dict(zip(each.steps, each.values, strict=True)) for each in series(steps, numbers.numpy())}


def small() -> nn.Sequential:
    """Have no matrix of more elements than the pulse takes, so that its sample is all of them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters() if each.dim() > 1])


def train(model: nn.Module, pulse: Pulse, steps: int, rate: float = 0.1) -> list[torch.Tensor]:
    """Beat at every step of a training; return the matrices after each, and before the first."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    path = [flat(model)]
    pulse.choose(-1, parts_of(model))
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
        pulse.beat(step)
        path.append(flat(model))
    return path


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.floats(1e-4, 0.3))
def test_ratios_and_norms_are_those_of_the_whole_sample(steps: int, rate: float) -> None:
    model, pulse = small(), Pulse()
    path = train(model, pulse, steps, rate)
    found = told(pulse)
    updates = [after - before for before, after in itertools.pairwise(path)]
    assert found["pulse_update_ratio"] == {
        step: pytest.approx(float(update.norm() / path[step + 1].norm()), rel=1e-4)
        for step, update in enumerate(updates)
    }
    gradient = torch.cat(
        [each.grad.flatten() for each in model.parameters() if each.dim() > 1 and each.grad is not None]
    )
    assert found["pulse_gradient_norm"][steps - 1] == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_after_a_missed_step_there_is_no_update_and_after_a_remembered_one_there_is() -> None:
    model, pulse = small(), Pulse()
    train(model, pulse, 2)
    pulse.beat(5)
    pulse.remember(8)
    pulse.beat(9)
    found = told(pulse)
    assert found["pulse_update_ratio"].keys() == {0, 1, 9}


def test_what_is_handed_out_is_forgotten_but_the_last_update_is_not() -> None:
    model, pulse = small(), Pulse()
    train(model, pulse, 3)
    assert len(pulse) == 3
    told(pulse)
    assert len(pulse) == 0
    assert pulse.take() == ([], None)
    pulse.beat(3)
    assert told(pulse)["pulse_update_ratio"].keys() == {3}


def test_gradients_that_are_not_there_are_absent_and_those_that_are_not_finite_are_told() -> None:
    model, pulse = small(), Pulse()
    pulse.choose(0, parts_of(model))
    pulse.beat(1)
    model[0].weight.grad = torch.full_like(model[0].weight, math.inf)
    pulse.beat(2)
    found = told(pulse)
    assert found["pulse_gradient_norm"] == {2: math.inf}
    assert found["pulse_update_ratio"] == {1: 0.0, 2: 0.0}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_type_of_number_is_taken(dtype: torch.dtype) -> None:
    model, pulse = small().to(dtype), Pulse()
    pulse.choose(0, parts_of(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    pulse.beat(1)
    assert told(pulse)["pulse_update_ratio"][1] == pytest.approx(1 / 3, rel=2e-2)


def test_gradients_laid_out_otherwise_than_their_weights_are_taken_and_sparse_ones_left_out() -> None:
    convolution = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    embedding = nn.Embedding(20, 8, sparse=True)
    pulse = Pulse()
    pulse.choose(0, parts_of(nn.ModuleList([convolution, embedding])))
    convolution.weight.grad = torch.ones_like(convolution.weight, memory_format=torch.contiguous_format)
    embedding(torch.tensor([1, 2])).sum().backward()
    pulse.beat(1)
    assert told(pulse)["pulse_gradient_norm"][1] == pytest.approx(convolution.weight.numel() ** 0.5)


def test_a_gradient_that_is_one_number_expanded_is_left_out_without_a_word() -> None:
    model, pulse = small(), Pulse()
    pulse.choose(0, parts_of(model))
    model[0].weight.grad = torch.ones(()).expand(8, 6)
    pulse.beat(1)
    assert "pulse_gradient_norm" not in told(pulse)


def test_frozen_and_empty_parameters_are_left_out() -> None:
    model, pulse = small(), Pulse()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    pulse.choose(0, [*parts_of(model), Part.whole("empty", nn.Parameter(torch.zeros(0, 3)))])
    pulse.beat(1)
    assert len(pulse) == 0


def test_drift_is_how_far_the_variances_of_a_layer_have_gone_from_their_mean() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8))
    pulse = Pulse(variances(model))
    pulse.choose(0, parts_of(model))
    for step in range(4, 44, 4):
        pulse.beat(step)
    model[3].running_var.mul_(math.e**2)
    pulse.beat(44)
    drift = told(pulse)["norm_drift"]
    assert drift[40] == pytest.approx(0.0, abs=1e-6)
    assert drift[44] == pytest.approx(2.0, rel=1e-5)


def test_weights_that_were_replaced_are_followed_from_the_next_look_on() -> None:
    model, pulse = small(), Pulse()
    train(model, pulse, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone() * 2
    pulse.choose(2, parts_of(model))
    pulse.beat(3)
    assert told(pulse)["pulse_update_ratio"][3] == 0.0


def test_released_it_keeps_nothing() -> None:
    model, pulse = small(), Pulse()
    train(model, pulse, 2)
    pulse.release()
    assert len(pulse) == 0
    pulse.beat(3)
    assert len(pulse) == 0


def test_a_watched_run_tells_its_pulse_at_every_step(tmp_path: Path) -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config: dict[str, Any] = {"mode": "offline", "spool_dir": tmp_path, "interval": 16, "pulse_interval": 1}
    watch = attach(model, optimizer, run="run", config=config)
    for step in range(40):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
        watch.log(loss=float(step))
    found = samples(watch)
    assert merged(found, "pulse_update_ratio").keys() == set(range(1, 37))
    assert merged(found, "learning_rate") == {step: pytest.approx(0.1 / (step + 1)) for step in range(37)}
    assert [sample.step for sample in found if not sample.weights.values] == [
        step for step in range(4, 40, 4) if step % 16
    ]
    assert set(merged(found, "loss")) == set(range(36))
    assert set(NAMES) - {"norm_drift"} <= {each.name for sample in found for each in sample.scalars}
