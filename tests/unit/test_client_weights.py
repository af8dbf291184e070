"""Looks at the weights: frozen parts are read when they change, and the norms are those of the tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from topowatch_client import weights
from topowatch_client.shards import Shards
from topowatch_client.sketch import FoldSketch, Part
from topowatch_client.weights import Weights, gradient_norm


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


def test_the_gradient_norm_is_that_of_all_dense_gradients_in_no_less_than_float32() -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 2)).to(torch.bfloat16)
    shards = Shards(model)
    assert gradient_norm(shards.held(), torch.device("cpu")) is None
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    model[1].bias.grad = None
    gradients = [parameter.grad.double().flatten() for parameter in model.parameters() if parameter.grad is not None]
    found = gradient_norm(shards.held(), torch.device("cpu"))
    assert found is not None
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(torch.cat(gradients).norm()), rel=1e-5)
