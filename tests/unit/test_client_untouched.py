"""A pass through a model leaves no trace, whatever the model does meanwhile."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from topowatch_client import untouched
from topowatch_client.probe_set import ProbeError
from topowatch_client.untouched import Untouched

if TYPE_CHECKING:
    from collections.abc import Callable


class Counting(nn.Module):
    """Counts its calls in a number, a tensor and buffers that it writes to in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.calls, self.total, self.cache = 0, torch.zeros(2), None
        for name in ("added", "behind", "bound", "grown"):
            self.register_buffer(name, torch.ones(2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.total += 1
        self.added += 1
        self.behind.data.add_(1)
        self.bound = self.bound * 0.9
        self.register_buffer("grown", torch.zeros(5), persistent=False)
        self.register_buffer("made", torch.zeros(1))
        self.late = self.cache = self.inner(inputs)
        return self.cache


class Stubborn(nn.Module):
    """Merges weights when it is sent into eval mode, as adapters do, and drops out by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.merges = nn.Linear(3, 3), 0

    def train(self, mode: bool = True) -> Stubborn:
        self.merges = getattr(self, "merges", 0) + 1
        return super().train(mode)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.inner(inputs), 0.5, self.training)


def normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(norm(nn.Linear(3, 3)), nn.BatchNorm1d(3), nn.Dropout(0.5))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "counting": Counting,
    "stubborn": Stubborn,
    "weight norm": lambda: normed(nn.utils.parametrizations.weight_norm),
    "spectral norm": lambda: normed(nn.utils.parametrizations.spectral_norm),
    "old spectral norm": lambda: normed(nn.utils.spectral_norm),
    "recurrent": lambda: nn.LSTM(3, 3, dropout=0.5, num_layers=2),
}


def held(model: nn.Module) -> dict[str, Any]:
    """Everything that modules hold, by name: the identity of what is plain, the content of tensors."""
    seen: dict[str, Any] = {}
    for prefix, module in model.named_modules():
        for holder in (vars(module), module._buffers, module._parameters):
            for name, value in holder.items():
                content = value.detach().clone() if isinstance(value, torch.Tensor) else None
                size = len(value) if isinstance(value, dict) else 0
                seen[f"{prefix}.{name}"] = (id(value), size, content)
    return seen


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        before[:2] == after[:2] and (before[2] is None or torch.equal(before[2], after[2]))
        for before, after in zip(one.values(), other.values(), strict=True)
    )


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("fails", [False, True])
def test_all_that_modules_hold_is_as_before(kind: str, fails: bool) -> None:
    model = MODELS[kind]().train()
    inputs = torch.randn(4, 3)
    model(inputs)
    before, state = held(model), torch.get_rng_state()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext(), Untouched(model).evaluating():
            assert not any(module.training for module in model.modules())
            model(inputs)
            assert 1 / (torch.rand(3).numel() - 3 * fails)
        assert same(before, held(model))
        assert torch.equal(torch.get_rng_state(), state)


def test_encoders_are_seen_as_training_sees_them() -> None:
    """Not fused, which gives zeros where there is padding, and not with some hooks otherwise than with others."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    inputs, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 3 + [True] * 2, [False] * 5])
    assert torch.backends.mha.get_fastpath_enabled()
    with Untouched(model).evaluating():
        plain = model(inputs, src_key_padding_mask=padding)
        handle = model.layers[1].register_forward_hook(lambda *_: None)
        assert torch.equal(model(inputs, src_key_padding_mask=padding), plain)
        handle.remove()
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.equal(plain, model(inputs, src_key_padding_mask=padding).detach())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("cast", [True, False])
def test_modes_of_torch_are_as_before(mode: Callable[[], Any], cast: bool) -> None:
    model = Counting()
    torch.use_deterministic_algorithms(True, warn_only=True)
    with mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
        model(torch.ones(1, 3))
        before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        with Untouched(model).evaluating():
            assert not torch.is_grad_enabled()
            assert model(torch.ones(1, 3)).dtype == torch.float32
        after = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        assert model(torch.ones(1, 3)).dtype == (torch.bfloat16 if cast else torch.float32)
    assert before == after
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)


def test_a_backward_pass_that_waits_is_not_disturbed() -> None:
    """A graph made before the pass has saved a buffer; writing to it openly would end the job's backward pass."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    loss = model(torch.randn(4, 3)).sum()
    gradient = model[0].weight.grad
    with Untouched(model).evaluating():
        model(torch.randn(4, 3))
    loss.backward()
    assert gradient is None
    assert model[0].weight.grad is not None


class Shifty(nn.Module):
    """Writes to a large buffer when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(64))
        self.writes = True

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.writes:
            self.bank += 1
        return inputs


def test_large_tensors_are_copied_while_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a pass left alone is copied no more; should it change after all, that is said."""
    monkeypatch.setattr(untouched, "_LARGE_BYTES", 128)
    model = Shifty()
    evaluator = Untouched(model)

    def run(writes: bool) -> float:
        model.writes = writes
        with evaluator.evaluating():
            model(torch.zeros(1))
        return float(model.bank.sum())

    assert run(True) == run(True) == run(False) == run(False) == 0
    with pytest.raises(ProbeError, match="changed 'bank', which earlier passes left alone"):
        run(True)


def test_models_that_are_not_made_yet_are_refused_in_words() -> None:
    lazy = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ProbeError, match="only its first forward pass makes"), Untouched(lazy).evaluating():
        pass
    assert nn.parameter.is_lazy(lazy[0].weight)


def test_tensors_that_cannot_be_written_to_are_left_alone() -> None:
    model = nn.Linear(3, 3)
    model.register_buffer("expanded", torch.zeros(1).expand(4))
    model.register_buffer("absent", torch.zeros(2, device="meta"))
    with torch.inference_mode():
        model.register_buffer("inferred", torch.zeros(2))
    with Untouched(model).evaluating():
        model(torch.ones(1, 3))
    assert model.inferred.is_inference()


class Classifier(nn.Module):
    """Of modes that matter; torch does not compile a Sequential in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 8)
        self.rest = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.rest(self.inner(inputs))


@pytest.mark.parametrize("how", ["whole", "in place", "a part"])
def test_compiled_models_are_passed_eagerly_and_nothing_is_compiled_anew(how: str) -> None:
    """Training through the compiled model, passes through the original one: guards hold, no graph breaks."""
    model = Classifier()
    called: nn.Module | Any = model
    if how == "whole":
        called = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        model.inner = torch.compile(model.inner, backend="eager")
    for size in (4, 5, 6):  # the second makes the batch a dynamic dimension
        called(torch.randn(size, 3)).sum().backward()
    before = {kind: dict(counts) for kind, counts in counters.items()}
    evaluator = Untouched(model)
    for size in (4, 7, 9):
        with evaluator.evaluating():
            handle = model.rest[2].register_forward_pre_hook(lambda *_: None)
            model(torch.randn(20, 3))
            handle.remove()
        called(torch.randn(size, 3)).sum().backward()
    assert {kind: dict(counts) for kind, counts in counters.items()} == before
    assert before["stats"]["unique_graphs"] == 2
