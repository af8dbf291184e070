"""Looks at the weights: frozen parts are read when they change, and the norms are those of the tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from topowatch_client import weights
from topowatch_client.layers import by_layer
from topowatch_client.shards import Shards
from topowatch_client.sketch import FoldSketch, Part
from topowatch_client.weights import ABSENT, Weights, gradient_norms, summary


class CountingSketch(FoldSketch):
    """Counts the numbers that it reads."""

    read = 0

    def matrix(self, parts: list[Part]) -> torch.Tensor:  # type: ignore[override]
        self.read += sum(part.values.numel() for part in parts)
        return super().matrix(parts)


def adapted() -> nn.Sequential:
    """A large frozen layer and a small one that is trained, as with low-rank adapters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 2))
    model[0].requires_grad_(False)
    return model


def test_frozen_parts_are_read_once_and_the_sketch_stays_right() -> None:
    model, sketch = adapted(), CountingSketch()
    looks = Weights(Shards(model), sketch)
    first = looks.look()
    assert sketch.read == 50 * 40 + 40 + 40 * 2 + 2
    sketch.read = 0
    with torch.no_grad():
        model[1].weight.add_(1.0)
    second = looks.look()
    assert sketch.read == 40 * 2 + 2
    assert torch.equal(second.rows[:2], first.rows[:2])
    torch.testing.assert_close(second.rows.sum(0), FoldSketch().model(model.named_parameters()), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("change", ["in place", "replaced", "thawed"])
def test_a_frozen_part_that_changes_is_read_again(change: str) -> None:
    model, looks = adapted(), None
    looks = Weights(Shards(model), FoldSketch())
    looks.look()
    if change == "in place":
        model[0].weight.mul_(2.0)
    elif change == "replaced":
        model[0].weight = nn.Parameter(model[0].weight * 2.0, requires_grad=False)
    else:
        model[0].weight.requires_grad_(True)
        with torch.no_grad():
            model[0].weight.mul_(2.0)
    expected = FoldSketch().model(model.named_parameters())
    torch.testing.assert_close(looks.look().rows.sum(0), expected, atol=1e-4, rtol=1e-5)


def test_a_frozen_part_that_changes_unseen_is_read_again_after_a_while() -> None:
    """Writing to `.data` counts no version."""
    model = adapted()
    looks = Weights(Shards(model), FoldSketch())
    looks.look()
    model[0].weight.data.mul_(2.0)
    for _ in range(weights._FROZEN_LOOKS + 1):
        rows = looks.look().rows
    torch.testing.assert_close(rows.sum(0), FoldSketch().model(model.named_parameters()), atol=1e-4, rtol=1e-5)


def test_gradient_norms_are_those_of_dense_gradients_in_no_less_than_float32() -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 2)).to(torch.bfloat16)
    shards, device = Shards(model), torch.device("cpu")
    nothing = gradient_norms(shards.held(), device)
    assert nothing.tolist() == [ABSENT] * 4
    assert summary({"gradients": nothing.numpy()}, []) == {}
    assert summary({"gradients": nothing.numpy()}, [], shard=True) == {"gradient_norm": 0.0}
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    model[1].bias.grad = None
    found = gradient_norms(shards.held(), device)
    assert found.dtype == torch.float32
    gradients = [parameter.grad.double() for parameter in model.parameters() if parameter.grad is not None]
    assert found.tolist() == pytest.approx([*(float(each.norm()) for each in gradients), ABSENT], rel=1e-5)
    whole = float(torch.cat([each.flatten() for each in gradients]).norm())
    assert summary({"gradients": found.numpy()}, [])["gradient_norm"] == pytest.approx(whole, rel=1e-5)
    model[0].bias.grad = torch.full_like(model[0].bias, torch.nan)
    again = gradient_norms(shards.held(), device)
    assert np.isnan(summary({"gradients": again.numpy()}, [])["gradient_norm"])


@pytest.mark.parametrize("sparse", [None, 0, 1])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16])
def test_gradients_that_are_sparse_are_left_out_of_the_norms(sparse: int | None, kind: torch.dtype) -> None:
    """Also where every parameter has a gradient, which is read in another way."""
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)).to(kind)
    expected = []
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.randn(parameter.shape).to(kind)
        expected.append(float(parameter.grad.double().norm()))
        if number == sparse:
            parameter.grad = parameter.grad.to_sparse()
            expected[-1] = ABSENT
    found = gradient_norms(Shards(model).held(), torch.device("cpu"))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_layers_add_up_the_norms_of_their_parts() -> None:
    names = ["a.weight", "a.bias", "b.0.weight", "scale"]
    numbers = {"norms": np.array([3.0, 4.0, 2.0, 1.0]), "gradients": np.array([1.0, ABSENT, ABSENT, 0.5])}
    found = by_layer(numbers, names)
    assert list(found) == ["a", "b.0", ""]
    assert (found["a"].weight_norm, found["a"].gradient_norm) == (5.0, 1.0)
    assert found["b.0"].weight_norm == 2.0
    assert np.isnan(found["b.0"].gradient_norm)
    assert np.isnan(found["a"].update_norm)
    many = by_layer({"norms": np.ones(1000)}, [f"layer.{number}.weight" for number in range(1000)])
    assert len(many) == 250
