"""The critical step along the last update: against parabolas, and against least squares, where it is known exactly."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import topowatch_client
from client_loops import network, samples, train
from topowatch_client import displaced
from topowatch_client.critical import PASSES, critical_multiple, search, secant_curvature
from topowatch_client.last_batch import own_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SETTINGS = {"mode": "offline", "interval": 4, "probe_interval": 8, "critical_interval": 16}


@given(st.floats(1 / 64, 64), st.floats(-5, 5), st.floats(0.01, 100))
def test_a_parabola_rises_above_its_start_at_twice_its_minimum(root: float, start: float, scale: float) -> None:
    """Within the precision that is promised, in ten passes at most."""
    calls: list[float] = []

    def loss(multiple: float) -> float:
        calls.append(multiple)
        return start + scale * multiple * (multiple - root)

    found = critical_multiple(loss)
    assert found is not None
    assert abs(math.log(found / root)) <= math.log(1.1)
    assert len(calls) <= PASSES
    if 1 / 2 < root < 2:
        assert found == pytest.approx(root, rel=0.003)


def test_what_never_rises_or_rises_at_once_is_told_as_the_last_that_was_tried() -> None:
    assert critical_multiple(lambda multiple: -multiple) == 64
    assert critical_multiple(lambda multiple: float(multiple > 0)) == 1 / 64


def test_a_loss_that_is_not_finite_stands_above_and_without_a_start_there_is_no_answer() -> None:
    found = critical_multiple(lambda multiple: math.nan if multiple > 3 else -multiple)
    assert found == pytest.approx(3, rel=0.02)
    assert critical_multiple(lambda _: math.nan) is None


def test_weights_of_double_precision_are_moved_as_finely() -> None:
    weight = torch.tensor([1e9 + 1], dtype=torch.float64)

    @contextlib.contextmanager
    def losses() -> Iterator[Callable[[], torch.Tensor]]:
        yield lambda: (weight - (1e9 + 0.75)).square().sum()

    found = search([weight], [torch.tensor([1e9], dtype=torch.float64)], losses)
    assert found == (pytest.approx(1.5, rel=0.01), pytest.approx(2.0))


def asked(loss: Callable[[float], float]) -> list[tuple[float, float]]:
    """Return the losses that a search asks for."""
    told: list[tuple[float, float]] = []

    def at(multiple: float) -> float:
        told.append((multiple, loss(multiple)))
        return told[-1][1]

    critical_multiple(at)
    return told


@given(st.floats(-5, 5), st.floats(0.01, 100), st.floats(1 / 40, 40), st.floats(0.01, 10))
def test_the_curvature_of_a_parabola_is_found_wherever_the_search_looks(
    start: float, bend: float, root: float, length: float
) -> None:
    found = secant_curvature(asked(lambda each: start + bend * length**2 / 2 * each * (each - root)), length)
    assume(bend * length**2 > 1e-2)  # else it may drown in what float32 can tell
    assert found == pytest.approx(bend, rel=1e-3)


def test_a_curvature_that_the_losses_do_not_show_is_not_told() -> None:
    assert math.isnan(secant_curvature(asked(lambda each: 2.0 + 1e-8 * each * (each - 1.5)), 1e-3))
    assert math.isnan(secant_curvature([(0.0, 1.0), (1.0, math.inf), (0.5, 2.0), (0.25, math.nan)], 1.0))
    assert math.isnan(secant_curvature(asked(lambda each: each * (each - 1.5)), 0.0))


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
def test_no_rounding_of_half_precision_is_told_as_a_curvature(rate: float) -> None:
    torch.manual_seed(0)
    model = Half(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)))
    inputs, targets = torch.randn(64, 6), torch.randint(0, 3, (64,))
    weights = list(model.parameters())

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(inputs).float(), targets)

    before, slopes = displaced.copies(weights), torch.autograd.grad(loss(), weights)
    displaced.put(weights, [weight - rate * slope for weight, slope in zip(before, slopes, strict=True)])
    found = search(weights, before, lambda: contextlib.nullcontext(lambda: loss().detach()))
    assert found is not None
    assert math.isnan(found.curvature) or found.curvature == pytest.approx(0.48, rel=0.5)


def test_along_an_update_of_a_network_it_is_what_two_gradients_of_the_batch_say() -> None:
    """Which differ by the mean of the Hessian along it: ⟨Δg, Δθ⟩/⟨Δθ, Δθ⟩."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    inputs, targets = torch.randn(64, 6, dtype=torch.float64), torch.randint(0, 3, (64,))
    weights = list(model.parameters())

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(inputs), targets)

    before, first = displaced.copies(weights), torch.autograd.grad(loss(), weights)
    displaced.put(weights, [weight - 0.5 * slope for weight, slope in zip(before, first, strict=True)])
    second = torch.autograd.grad(loss(), weights)
    found = search(weights, before, lambda: contextlib.nullcontext(lambda: loss().detach()))
    moved = [-0.5 * slope for slope in first]
    exact = sum((b - a).flatten() @ move.flatten() for a, b, move in zip(first, second, moved, strict=True))
    assert found is not None
    assert found.curvature == pytest.approx(float(exact / sum(move.square().sum() for move in moved)), rel=0.1)


class Half(nn.Module):
    """Opens autocast within its own forward pass, as the wrapper of Accelerate does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(inputs)


class Keeping(nn.Module):
    """Keeps what it has made of its weights for as long as it is not trained."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.turned: torch.Tensor | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.turned = None
            return inputs @ self.inner.weight.t()
        if self.turned is None:
            self.turned = self.inner.weight.t().clone()
        return inputs @ self.turned


def least_squares(
    tmp_path: Path, rate: float, wrapped: Callable[[nn.Linear], nn.Module] = lambda linear: linear, **settings: Any
) -> tuple[Any, list[float]]:
    """Descend on least squares, whole batch; return the handle and the exact multiples by step."""
    torch.manual_seed(1)
    inputs, targets = torch.randn(40, 6), torch.randn(40, 1)
    linear = nn.Linear(6, 1, bias=False)
    model = wrapped(linear)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    watch = topowatch_client.attach(
        model,
        optimizer,
        probe=(inputs, targets),
        output="values",
        config={**SETTINGS, "spool_dir": tmp_path, **settings},
    )
    hessian = 2 * inputs.T @ inputs / len(inputs)
    exact = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        assert linear.weight.grad is not None
        gradient = linear.weight.grad.flatten().clone()
        optimizer.step()
        exact.append(float(2 * gradient @ gradient / (rate * gradient @ hessian @ gradient)))
    return watch, exact


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_along_a_step_of_gradient_descent_it_is_twice_the_inverse_of_the_curvature(tmp_path: Path, rate: float) -> None:
    """On least squares it is 2 gᵀg / (rate · gᵀHg)."""
    watch, exact = least_squares(tmp_path, rate, critical_interval=8)
    found = {each.step: each.curvature for each in samples(watch) if each.HasField("curvature")}
    assert list(found) == list(range(8, 100, 8))
    assert found[8].critical_step == pytest.approx(exact[8], rel=0.1)  # later ones drown in float32
    assert found[8].learning_rate == pytest.approx(rate)
    assert found[8].secant == pytest.approx(2 / (rate * exact[8]), rel=0.1)


@pytest.mark.parametrize("wrapped", [Half, Keeping])
def test_what_a_pass_keeps_of_the_weights_does_not_stand_for_the_next(tmp_path: Path, wrapped: Any) -> None:
    watch, exact = least_squares(tmp_path, 0.2, wrapped, critical_interval=4)
    found = [each for each in samples(watch) if each.HasField("curvature")]
    assert found[0].step == 4
    assert found[0].curvature.critical_step == pytest.approx(exact[4], rel=0.2)  # losses are of half precision


@pytest.mark.parametrize("start", [15, 16])
def test_a_job_that_goes_on_where_a_search_is_due_is_measured_from_the_next_on(tmp_path: Path, start: int) -> None:
    """The first hook has seen no step before it, and the probe set was not passed so far."""
    watch, _ = least_squares(tmp_path, 0.1, start_step=start)
    assert [each.step for each in samples(watch) if each.HasField("curvature")] == list(range(32, 113, 16))
    assert watch.status["not_measured"] is None


def test_without_a_fixed_interval_searches_are_rarer_than_probe_passes(tmp_path: Path) -> None:
    watch, _ = least_squares(tmp_path, 0.1, critical_interval=None)
    governor = watch._observer.governor
    assert governor.critical_interval >= 2 * governor.probe_interval


class OwnLoss(nn.Module):
    """Returns its loss where it is given labels, as the models of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.calls: list[bool] = []

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        self.calls.append(self.training)
        logits = self.inner(inputs)
        return {"logits": logits} if labels is None else {"loss": logits.square().mean(), "logits": logits}


def test_without_a_probe_set_the_last_batch_does_for_a_model_that_returns_its_loss(tmp_path: Path) -> None:
    model = OwnLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = topowatch_client.attach(model, optimizer, config={**SETTINGS, "spool_dir": tmp_path})
    for _ in range(40):
        optimizer.zero_grad()
        model(torch.randn(8, 6), labels=torch.zeros(8))["loss"].backward()
        optimizer.step()
    (found,) = [each for each in samples(watch) if each.HasField("curvature")]  # the first time is a trial
    assert found.step == 32
    assert 1 / 64 <= found.curvature.critical_step <= 64
    assert 1 < model.calls.count(False) <= PASSES
    assert watch.status["not_measured"] is None


class Carrying(OwnLoss):
    """Writes into what it is given: a state that the caller carries along, the inputs, a list."""

    def forward(self, inputs: torch.Tensor, state: dict[str, torch.Tensor], seen: list[float]) -> torch.Tensor:
        self.calls.append(self.training)
        inputs.mul_(0.9)
        loss = (self.inner(inputs) + state["hidden"]).square().mean()
        state["hidden"].add_(0.1 * loss.detach())
        seen.append(loss.item())
        return loss * (1 + 0.01 * len(seen))


def test_a_model_that_writes_into_its_arguments_finds_them_as_it_left_them(tmp_path: Path) -> None:
    losses: list[list[float]] = []
    for attached in (False, True):
        torch.manual_seed(0)
        model, state, seen = Carrying(), {"hidden": torch.zeros(3)}, [0.0]
        batches = [torch.randn(8, 6) for _ in range(4)]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if attached:
            topowatch_client.attach(model, optimizer, config={**SETTINGS, "spool_dir": tmp_path})
        losses.append([])
        for step in range(40):
            optimizer.zero_grad()
            loss = model(batches[step % 4], state, seen)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
        assert len(seen) == 41
        assert (model.calls.count(False) > 1) == attached
    assert losses[0] == losses[1]


def test_an_argument_that_cannot_be_copied_is_left_alone_and_why_is_said(tmp_path: Path) -> None:
    class Cached(OwnLoss):
        def forward(self, inputs: torch.Tensor, cache: Any = None) -> torch.Tensor:
            return super().forward(inputs)["logits"].square().mean() + cache.total

    model = Cached()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = topowatch_client.attach(model, optimizer, config={**SETTINGS, "spool_dir": tmp_path})
    for _ in range(40):
        model(torch.randn(8, 6), cache=SimpleNamespace(total=0.0)).backward()
        optimizer.step()
    assert not any(each.HasField("curvature") for each in samples(watch))
    assert "SimpleNamespace" in watch.status["not_measured"]
    assert "pass probe=(inputs, targets)" in watch.status["not_measured"]


def test_a_search_that_comes_sooner_than_was_foreseen_is_left_out(tmp_path: Path) -> None:
    """As where the interval was shortened a step before: nobody has looked at the batch."""
    model = OwnLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = topowatch_client.attach(model, optimizer, config={**SETTINGS, "spool_dir": tmp_path})
    for step in range(40):
        if step == 8:
            watch._observer.governor.searches_at = lambda step: step in {8, 16, 24}
        optimizer.zero_grad()
        model(torch.randn(8, 6), labels=torch.zeros(8))["loss"].backward()
        optimizer.step()
    assert [each.step for each in samples(watch) if each.HasField("curvature")] == [24]
    assert watch.status["not_measured"] is None


@pytest.mark.parametrize("processes", [1, 4])
def test_why_nothing_is_measured_is_the_reason_that_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = topowatch_client.attach(model, optimizer, run="r", config={**SETTINGS, "spool_dir": tmp_path})
    train(model, optimizer, 40)
    assert ("several processes" in watch.status["not_measured"]) == (processes > 1)
    assert "pass probe=(inputs, targets)" in watch.status["not_measured"]


def test_a_loss_is_what_has_its_name_or_one_number_without_dimensions() -> None:
    loss, output = torch.tensor(0.5), torch.tensor([[0.5]])
    found = [{"loss": loss, "logits": output}, {"loss": output}, (loss, output), SimpleNamespace(loss=loss), loss]
    assert all(own_loss(each) is not None for each in found)
    none = [output, (output, loss), [output], {"logits": loss}, {"loss": torch.ones(2)}, torch.tensor(3), (), None]
    assert all(own_loss(each) is None for each in none)


def test_without_any_loss_nothing_is_guessed_and_the_status_says_what_to_do(tmp_path: Path) -> None:
    model = network()
    watch = topowatch_client.attach(
        model, optimizer := torch.optim.SGD(model.parameters(), lr=0.1), config={**SETTINGS, "spool_dir": tmp_path}
    )
    train(model, optimizer, 40)
    assert not [each for each in samples(watch) if each.HasField("curvature")]
    assert "pass probe=(inputs, targets)" in watch.status["not_measured"]
    assert watch.status["error"] is None


def test_a_model_that_is_too_large_to_copy_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displaced, "LARGEST_BYTES", 23)
    watch, _ = least_squares(tmp_path, 0.1)
    assert not [each for each in samples(watch) if each.HasField("curvature")]
    assert "its trained parameters take" in watch.status["not_measured"]


def test_weights_that_other_processes_share_stay_where_they_are() -> None:
    """Those train them meanwhile, and what is put back would undo it."""
    model = network().share_memory()
    with pytest.raises(displaced.ImmovableError, match="other processes"):
        displaced.trainable(model)


def test_weights_come_back_bit_by_bit_whatever_happens_meanwhile() -> None:
    model = network()
    tensors = displaced.trainable(model)
    kept, versions = displaced.copies(tensors), [each._version for each in tensors]

    def fail() -> None:
        with displaced.moving(tensors):
            for tensor in tensors:
                tensor.data.mul_(1.1).add_(torch.randn(()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(torch.equal(tensor, before) for tensor, before in zip(tensors, kept, strict=True))
    assert [each._version for each in tensors] == versions


def test_a_signal_handler_never_sees_weights_that_were_moved() -> None:
    """It runs once they are back, and may raise; other handlers are as they were."""
    model = network()
    tensors = displaced.trainable(model)
    kept, seen = displaced.copies(tensors), []

    def preempted(*_: object) -> None:
        seen.append(displaced.copies(tensors))
        raise InterruptedError

    def move() -> None:
        with displaced.moving(tensors):
            for tensor in tensors:
                tensor.data.zero_()
            os.kill(os.getpid(), signal.SIGUSR1)
            assert not seen

    before = signal.signal(signal.SIGUSR1, preempted)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(InterruptedError):
            move()
        assert signal.getsignal(signal.SIGUSR1) is preempted
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(seen) == 1
    assert all(torch.equal(now, then) for now, then in zip(seen[0], kept, strict=True))
