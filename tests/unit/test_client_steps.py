"""Optimiser steps are counted as the training loop means them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from client_loops import merged, network, samples, train
from topowatch_client import Watch, attach
from topowatch_client.steps import optimizers_of, steps_done

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def watch_of(tmp_path: Path) -> Callable[..., Watch]:
    """Attach offline, with a sample at every step."""

    def start(model: nn.Module, optimizer: Any) -> Watch:
        return attach(model, optimizer, run="r", config={"mode": "offline", "spool_dir": tmp_path, "interval": 1})

    return start


def steps_of(watch: Watch) -> list[int]:
    watch.finish()
    assert watch.status["failures"] == 0
    return [sample.step for sample in samples(watch) if sample.weights.values]


def test_an_optimiser_in_the_backward_pass_for_each_parameter_makes_one_step_together(
    watch_of: Callable[..., Watch],
) -> None:
    model = network()
    optimizers = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters()}

    def step(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    watch = watch_of(model, optimizers)
    for count in range(5):
        model(torch.randn(4, 6)).square().mean().backward()
        watch.log(count=count)
    assert steps_of(watch) == [0, 1, 2, 3, 4]
    assert merged(samples(watch), "count") == {step: float(step) for step in range(5)}


def test_optimisers_in_turn_make_steps_of_the_busier_one(watch_of: Callable[..., Watch]) -> None:
    """As with a GAN: three steps of one network between two of the other."""
    first, second = network(), network()
    often, rarely = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (first, second))
    watch = watch_of(nn.ModuleList([first, second]), [often, rarely])
    for _ in range(4):
        train(first, often, 3)
        train(second, rarely, 1)
    assert len(steps_of(watch)) == 12


def test_a_closure_that_is_evaluated_many_times_makes_one_step(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    watch = watch_of(model, optimizer)
    inputs, calls = torch.randn(8, 6), []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        calls.append(1)
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert len(calls) > 6
    assert steps_of(watch) == [0, 1, 2]


def test_accumulated_gradients_make_one_step(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)
    for batch in range(12):
        model(torch.randn(4, 6)).square().mean().backward()
        if batch % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
    assert steps_of(watch) == [0, 1, 2]


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_scaler_skips_do_not_count(watch_of: Callable[..., Watch], fused: bool) -> None:
    """An ordinary optimiser is not called; a fused one is, and leaves everything as it was."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    watch = watch_of(model, optimizer)
    inputs = torch.randn(4, 6)
    for count in range(6):
        optimizer.zero_grad()
        loss = model(inputs).square().mean() * (float("inf") if count in (1, 2) else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert steps_of(watch) == [0, 1, 2, 3]
    assert int(next(iter(optimizer.state.values()))["step"]) == 4


def test_wrappers_are_taken_off_and_nonsense_is_refused() -> None:
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)

    class Wrapper:
        def __init__(self, inner: object) -> None:
            self.optimizer = inner

        def step(self) -> None:
            self.optimizer.step()  # type: ignore[attr-defined]

    assert optimizers_of(Wrapper(Wrapper(optimizer))) == [optimizer]
    assert optimizers_of(None) == []
    assert optimizers_of({"a": optimizer, "b": Wrapper(optimizer)}) == [optimizer, optimizer]
    with pytest.raises(TypeError, match="not int"):
        optimizers_of([optimizer, 3])


def test_a_job_stands_where_its_busiest_optimiser_does() -> None:
    """One that steps rarely, or parameters that were frozen at first, have seen fewer steps."""
    rarely, often = (torch.optim.AdamW(network().parameters()) for _ in range(2))
    for optimizer, steps in ((rarely, 2), (often, 7)):
        for _ in range(steps):
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    assert steps_done([rarely, often]) == 7
    assert steps_done([torch.optim.SGD(network().parameters(), lr=0.1)]) is None


def _init_optim_state(optim: torch.optim.Optimizer) -> None:
    """As torch 2.2 had it: at the rate that the optimiser has."""
    if optim.state:
        return
    for group in optim.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optim.step(closure=None)
    optim.zero_grad(set_to_none=True)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_the_step_by_which_a_checkpoint_fills_in_missing_states_is_not_one(
    watch_of: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch, kind: type[torch.optim.Optimizer], old: bool
) -> None:
    """Saved before the first step, and after each, where SGD still has no states; at the end too."""
    from torch.distributed.checkpoint import state_dict

    if old:
        monkeypatch.setattr(state_dict, "_init_optim_state", _init_optim_state)
    model = network()
    optimizer = kind(model.parameters(), lr=0.1)  # type: ignore[call-arg] # both take it
    watch = watch_of(model, optimizer)
    for count in range(4):
        state_dict.get_optimizer_state_dict(model, optimizer)
        train(model, optimizer, 1)
        optimizer.zero_grad()
        watch.log(count=count)
    state_dict.get_optimizer_state_dict(model, optimizer)
    assert steps_of(watch) == [0, 1, 2, 3]
    assert merged(samples(watch), "count") == {step: float(step) for step in range(4)}


@pytest.mark.parametrize("interval", [1, 2])
def test_a_save_at_the_end_is_no_reason_to_leave_out_the_last_weights(tmp_path: Path, interval: int) -> None:
    """It makes a step that writes what was there already."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = attach(model, optimizer, config={"mode": "offline", "spool_dir": tmp_path, "interval": interval})
    train(model, optimizer, 4)
    optimizer.zero_grad()
    get_optimizer_state_dict(model, optimizer)
    assert steps_of(watch)[-1] == 3


def test_steps_at_rate_zero_count(watch_of: Callable[..., Watch]) -> None:
    """As where a warm-up begins, in a job that has saved with torch.distributed.checkpoint."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    get_optimizer_state_dict(model, optimizer)
    watch = watch_of(model, optimizer)
    train(model, optimizer, 2)
    assert steps_of(watch) == [0, 1]
