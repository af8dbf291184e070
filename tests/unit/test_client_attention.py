"""The entropy of attention is that of a direct computation, and only what is attention has one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from topowatch_client.activations import Activations, statistics
from topowatch_client.attention import entropy, entropy_shown


def direct(weights: np.ndarray, *, masked: bool = False) -> float:
    """Row by row; with a causal mask, those of each query to its own position alone."""
    weights = weights.astype(np.float64).reshape(-1, *weights.shape[-2:])
    rows = [row[: query + 1] if masked else row for each in weights for query, row in enumerate(each)]
    return float(np.mean([stats.entropy(row) / np.log(len(row)) for row in rows if len(row) > 1]))


def seen(model: nn.Module, *inputs: Any) -> dict[str, float]:
    """Entropy by module, of one pass."""
    activations = Activations(model)
    activations.arm()
    with torch.no_grad():
        model(*inputs)
    values, names = activations.take()
    assert activations.problem is None or "did not run" in activations.problem
    assert not any(module._forward_hooks for module in model.modules())
    found = statistics(values.numpy(), names)
    return {name: layer.attention_entropy for name, layer in found.items() if not np.isnan(layer.attention_entropy)}


def causal(length: int) -> torch.Tensor:
    return torch.full((length, length), -torch.inf).triu(1)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 9)),
    scale=st.floats(0, 5),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_entropy_is_that_of_a_direct_computation(shape, scale, masked, seed):
    *outer, length = shape
    logits = scale * torch.randn(*outer, length, length, generator=torch.Generator().manual_seed(seed))
    weights = torch.softmax(logits + (causal(length) if masked else 0), dim=-1)
    found = entropy_shown([weights])
    assert found is not None
    assert float(found) == pytest.approx(direct(weights.numpy(), masked=masked), abs=1e-4)


@pytest.mark.parametrize("length", [2, 7, 100])
def test_uniform_rows_have_entropy_one_with_a_causal_mask_and_without(length: int) -> None:
    for mask in (torch.zeros(length, length), causal(length)):
        found = entropy_shown([torch.softmax(mask, dim=-1).unsqueeze(0)])
        assert found is not None
        assert float(found) == pytest.approx(1.0, abs=1e-5)


def test_queries_that_come_after_what_is_remembered_see_it_all() -> None:
    """Three queries, the last of ten positions."""
    found = entropy_shown([torch.softmax(causal(10)[-3:], dim=-1).unsqueeze(0)])
    assert found is not None
    assert float(found) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_rounded_weights_are_attention_still(kind: torch.dtype) -> None:
    weights = torch.softmax(torch.randn(2, 4, 50, 50, generator=torch.Generator().manual_seed(0)) + causal(50), -1)
    found = entropy_shown([weights.to(kind)])
    assert found is not None
    assert float(found) == pytest.approx(direct(weights.numpy(), masked=True), abs=0.01)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_that_underflows_to_one_position_has_entropy_zero(masked: bool) -> None:
    """Zeros that sharpness makes are not taken for a mask."""
    logits = 1e4 * torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(0))
    weights = torch.softmax(logits + (causal(20) if masked else 0), -1)
    assert int(((weights > 0).sum(-1) == 1).sum()) > 50
    found = entropy_shown([weights])
    assert found is not None
    assert 0 <= float(found) < 0.01


def test_rows_that_are_masked_as_a_whole_do_not_count() -> None:
    rows, lengths = torch.full((6, 4), 0.25), torch.full((6,), 4)
    rows[1], rows[2] = torch.nan, 0.0
    assert float(entropy(rows, lengths)) == pytest.approx(1.0)
    assert torch.isnan(entropy(torch.zeros(6, 4), lengths))
    weights = torch.full((2, 4, 4), 0.25)
    weights[0, 1] = torch.nan
    found = entropy_shown([weights])
    assert found is not None
    assert float(found) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "results",
    [
        [torch.randn(2, 3, 4)],
        [torch.rand(2, 3, 4)],
        [torch.tensor([[[1.5, -0.5], [0.5, 0.5]]])],
        [torch.nn.functional.dropout(torch.full((2, 8, 8), 0.125), 0.5)],
    ],
    ids=["signed", "sums", "negative", "dropout"],
)
def test_what_is_no_attention_has_no_entropy(results: list[torch.Tensor]) -> None:
    found = entropy_shown(results)
    assert found is not None
    assert torch.isnan(found)


@pytest.mark.parametrize(
    "result",
    [
        torch.full((4, 4), 0.25),
        torch.ones(2, 3, 1),
        torch.ones(2, 2, 2).long(),
        torch.empty(0, 3, 3),
        torch.full((2, 2, 2), 0.5, device="meta"),
        torch.full((2, 2, 2), 0.5).to_sparse(),
        torch.nested.nested_tensor([torch.full((2, 2), 0.5), torch.full((3, 2), 0.5)], layout=torch.jagged),
    ],
    ids=["matrix", "one position", "integers", "empty", "meta", "sparse", "nested"],
)
def test_what_cannot_be_attention_is_left_alone(result: torch.Tensor) -> None:
    assert entropy_shown([result]) is None


def test_the_first_result_that_is_attention_counts() -> None:
    uniform, sharp = torch.full((1, 4, 4), 0.25), torch.tensor([[[0.97, 0.01, 0.01, 0.01]]])
    found = entropy_shown([torch.randn(1, 4, 4), uniform, sharp])
    assert found is not None
    assert float(found) == pytest.approx(1.0)


@pytest.mark.parametrize("transposed", [False, True])
def test_large_attention_is_sampled_evenly_over_examples_heads_and_queries(transposed: bool) -> None:
    """Heads and queries differ: a stride that meets some alone would not see the others."""
    sharpness = torch.linspace(0, 4, 16).view(1, 16, 1, 1) * torch.linspace(0, 2, 64).view(1, 1, 64, 1)
    weights = torch.softmax(sharpness * torch.randn(4, 16, 64, 64, generator=torch.Generator().manual_seed(0)), -1)
    if transposed:
        weights = weights.transpose(1, 2).contiguous().transpose(1, 2)
    found = entropy_shown([weights])
    assert found is not None
    assert float(found) == pytest.approx(direct(weights.numpy()), abs=0.02)


@pytest.mark.parametrize("averaged", [True, False])
def test_weights_of_multihead_attention_are_seen_where_it_is_asked_for_them(averaged: bool) -> None:
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shown = nn.MultiheadAttention(12, 3, batch_first=True)
            self.hidden = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            more = {"attn_mask": causal(9), "average_attn_weights": averaged}
            x, self.weights = self.shown(x, x, x, **more)
            return self.hidden(x, x, x, need_weights=False)[0]

    model = Model()
    found = seen(model, 5 * torch.randn(4, 9, 12))
    assert model.weights.dim() == (3 if averaged else 4)
    assert found == {"shown": pytest.approx(direct(model.weights.numpy(), masked=True), abs=1e-4)}
    assert 0.1 < found["shown"] < 0.99


class Attention(nn.Module):
    """As in Hugging Face Transformers: made of parts, and returns its weights where told to."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Linear(8, 24)
        self.show = True

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value = self.keys(x).chunk(3, dim=-1)
        weights = torch.softmax(3 * query @ key.transpose(1, 2), dim=-1)
        return (weights @ value, key, weights) if self.show else (weights @ value, key)


class Wrapper(nn.Module):
    """Hands on what its attention returns."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mixed, *rest = self.attention(x)
        return x + mixed, *rest


class Stack(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Wrapper() for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)[0]
        return x


def test_attention_made_of_parts_is_seen_and_named_where_it_is_innermost() -> None:
    torch.manual_seed(0)
    model, inputs = Stack(3), torch.randn(2, 6, 8)
    model.blocks[1].attention.show = False
    found = seen(model, inputs)
    assert list(found) == ["blocks.0.attention", "blocks.2.attention"]
    with torch.no_grad():
        expected = direct(model.blocks[0].attention(inputs)[2].numpy())
    assert found["blocks.0.attention"] == pytest.approx(expected, abs=1e-4)


def test_many_attentions_are_sixty_four_entropies_at_most() -> None:
    assert len(seen(Stack(100), torch.randn(1, 3, 8))) == 32  # each with what hands it on


def test_modules_made_of_parts_do_not_count_as_not_run() -> None:
    model = Stack(2)
    activations = Activations(model)
    activations.arm()
    with torch.no_grad():
        model.blocks[0].attention.keys(torch.ones(1, 3, 8))
        model.blocks[1].attention.keys(torch.ones(1, 3, 8))
    activations.take()
    assert (activations.coverage, activations.problem) == (1.0, None)


def test_what_recurrent_layers_and_routers_return_is_no_attention() -> None:
    class Router(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.softmax(x, dim=-1), x

    assert seen(nn.GRU(4, 4), torch.randn(5, 3, 4)) == {}
    assert seen(nn.Sequential(Router()), torch.randn(5, 3, 4)) == {}


def test_weights_of_a_vectorised_step_do_not_escape() -> None:
    """Of torch.func, whose tensors mean nothing outside of it."""
    model = Stack(1)
    activations = Activations(model)
    activations.arm(training=True)
    torch.func.vmap(model)(torch.randn(3, 2, 6, 8))
    values, _ = activations.take()
    assert len(values) == 0
    assert activations.problem is not None


def test_gradients_are_the_same_bit_by_bit_with_hooks_on_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topowatch_client.activations.compiles", lambda: False)  # as another test may have
    gradients = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = Stack(2)
        activations = Activations(model)
        if watched:
            activations.arm(training=True)
        model(torch.randn(2, 6, 8)).square().sum().backward()
        assert len(activations.take()[1]) == (6 if watched else 0)
        gradients.append([each.grad for each in model.parameters()])
    assert all(torch.equal(plain, other) for plain, other in zip(*gradients, strict=True))
