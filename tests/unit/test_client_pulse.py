"""The pulse tells how a sample of the parameters moves: held against the same numbers taken from whole tensors."""

from __future__ import annotations

import copy
import gc
import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from client_loops import looked_at, merged, samples
from topowatch_client import attach, taken
from topowatch_client import pulse as pulses
from topowatch_client.pulse import NAMES, Pulse, norms, series
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
    pulse = Pulse(norms(model))
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


def test_an_optimiser_that_replaces_data_is_followed_at_every_step_and_its_memory_let_go() -> None:
    model, pulse = small(), Pulse()
    pulse.choose(0, parts_of(model))
    for step in range(1, 4):
        old = StorageWeakRef(model[0].weight.untyped_storage())
        for parameter in model.parameters():
            parameter.data = parameter.data * 2
        pulse.beat(step)
        assert old.expired()
    old = StorageWeakRef(model[0].weight.untyped_storage())
    model[0].weight.data = torch.zeros(0)
    assert old.expired()  # before the next beat: it may be on the disk meanwhile
    assert told(pulse)["pulse_update_ratio"] == {step: pytest.approx(0.5) for step in range(1, 4)}


@pytest.mark.parametrize("emptied", [True, False])
def test_a_parameter_whose_memory_is_taken_away_for_a_while_is_not_felt_meanwhile(emptied: bool) -> None:
    """As those do who offload weights, by `.data` or by the size of the storage."""
    model, pulse = small(), Pulse()
    pulse.choose(0, parts_of(model))
    weight, kept = model[0].weight, model[0].weight.detach().clone()
    size = weight.untyped_storage().nbytes()
    if emptied:
        weight.data = torch.zeros(0)
    else:
        weight.untyped_storage().resize_(0)
    pulse.beat(1)
    pulse.choose(1, parts_of(model))
    if emptied:
        weight.data = kept * 3
    else:
        weight.untyped_storage().resize_(size)
        weight.detach().copy_(kept * 3)
    pulse.choose(2, parts_of(model))
    pulse.beat(3)
    assert told(pulse)["pulse_update_ratio"][3] == 0.0
    assert pulse._known is not None
    torch.testing.assert_close(pulse._known[1], flat(model))


def test_no_graph_of_the_job_is_kept() -> None:
    """Gradients hang on one where they are to be differentiated once more."""
    model, pulse = small(), Pulse()
    pulse.choose(0, parts_of(model))
    weights = [each for each in model.parameters() if each.dim() > 1]
    found = torch.autograd.grad(model(torch.randn(16, 6)).square().mean(), weights, create_graph=True)
    for weight, gradient in zip(weights, found, strict=True):
        weight.grad = gradient
    pulse.beat(1)
    _, numbers = pulse.take()
    assert numbers is not None
    assert numbers.grad_fn is None
    norm = torch.cat([each.detach().flatten() for each in found]).norm()
    assert float(numbers[0, 0]) == pytest.approx(float(norm))


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8))


def test_one_look_at_what_is_not_finite_does_not_blind_the_drift() -> None:
    model = normed()
    pulse = Pulse(norms(model))
    pulse.choose(0, parts_of(model))
    pulse.beat(4)
    for step, factor in ((8, math.nan), (12, math.inf), (16, math.e)):
        model[1].running_var.fill_(factor)
        pulse.beat(step)
    drift = told(pulse)["norm_drift"]
    assert math.isnan(drift[8])
    assert not math.isfinite(drift[12])
    assert drift[16] == pytest.approx(1.0)


@pytest.mark.parametrize("start", [math.nan, math.inf])
def test_a_drift_that_begins_where_nothing_is_finite_is_known_later(start: float) -> None:
    model = normed()
    pulse = Pulse(norms(model))
    model[1].running_var.fill_(start)
    pulse.choose(0, parts_of(model))
    pulse.beat(4)
    model[1].running_var.fill_(1.0)
    pulse.beat(8)
    assert told(pulse)["norm_drift"][8] == pytest.approx(0.0, abs=1e-6)


def test_variances_that_were_replaced_are_followed_from_the_next_look_on_and_their_mean_begins_anew() -> None:
    model, other = normed(), normed()
    pulse = Pulse(norms(model))
    pulse.choose(0, parts_of(model))
    pulse.beat(4)
    other[3].running_var.fill_(math.e)
    model.load_state_dict(other.state_dict(), assign=True)
    pulse.choose(4, parts_of(model))
    pulse.beat(8)
    model[3].running_var.mul_(math.e)
    pulse.beat(12)
    assert told(pulse)["norm_drift"] == {4: 0.0, 8: 0.0, 12: pytest.approx(1.0)}


def test_the_drift_is_as_fine_where_the_job_steps_within_autocast() -> None:
    model = normed()
    pulse = Pulse(norms(model))
    pulse.choose(0, parts_of(model))
    pulse.beat(4)
    model[3].running_var.mul_(1.001)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pulse.beat(8)
    assert told(pulse)["norm_drift"][8] == pytest.approx(math.log(1.001), rel=1e-3)


def test_what_averages_variances_lies_where_they_do() -> None:
    """On an accelerator a beat would wait for it to come from the host."""
    assert pulses._averages([torch.ones(3, device="meta")]).device.type == "meta"


def test_released_it_keeps_nothing() -> None:
    model = normed()
    pulse = Pulse(norms(model))
    train(model, pulse, 2)
    pulse.release()
    assert len(pulse) == 0
    pulse.beat(3)
    assert len(pulse) == 0
    kept = [StorageWeakRef(each.untyped_storage()) for each in (*model.parameters(), *model.buffers())]
    del model
    gc.collect()
    assert all(each.expired() for each in kept)


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


def test_a_job_that_rolls_back_is_felt_anew(tmp_path: Path) -> None:
    """What was usual before it went wrong says nothing of the weights that it goes on from."""
    model = normed()
    optimizer = torch.optim.Adam(model.parameters())
    config: dict[str, Any] = {"mode": "offline", "spool_dir": tmp_path, "interval": 4, "pulse_interval": 1}
    watch = attach(model, optimizer, run="run", config=config)

    def go(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(16, 6)).square().mean().backward()
            optimizer.step()

    go(9)
    checkpoint = copy.deepcopy(optimizer.state_dict())
    go(12)
    model[1].running_var.mul_(1e6)
    go(4)
    watch._observer.flush()
    before = samples(watch)
    model[1].running_var.div_(1e6)
    optimizer.load_state_dict(checkpoint)
    go(9)
    after = samples(watch)[len(before) :]
    assert max(merged(before, "norm_drift").values()) > 1
    assert max(merged(after, "norm_drift").values()) < 1
    assert min(merged(after, "norm_drift")) == 12


def test_a_sample_that_is_long_on_its_way_is_not_given_up_for_the_beats_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[int, int] = {}

    def arrived(sample: taken.Taken, *, wait: bool) -> bool:
        asked[id(sample)] = asked.get(id(sample), 0) + 1
        return wait or asked[id(sample)] > 9

    monkeypatch.setattr(taken.Taken, "arrived", arrived)
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config: dict[str, Any] = {"mode": "offline", "spool_dir": tmp_path, "interval": 16, "pulse_interval": 1}
    watch = attach(model, optimizer, run="run", config=config)
    for _ in range(60):
        optimizer.zero_grad()
        model(torch.randn(16, 6)).square().mean().backward()
        optimizer.step()
    watch.finish()
    assert looked_at(watch) == [0, 16, 32, 48, 59]
    assert merged(samples(watch), "pulse_update_ratio").keys() == set(range(1, 60))
