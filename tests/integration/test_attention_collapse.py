"""Attention on real trainings through the real client: a collapse is named, healthy attention raises nothing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from topowatch_client.activations import Activations, statistics
from watched_runs import Training, judged, train

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("one_thread_and_no_launcher")


class Block(nn.Module):
    """Attention whose logits grow with the square of `sharpness`, and a feed-forward part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.sharpness = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        looked = self.sharpness * self.norm(x)
        x = x + self.attention(looked, looked, looked, average_attn_weights=False)[0] / self.sharpness
        return x + self.narrow(nn.functional.gelu(self.wide(self.between(x))))


class Reader(nn.Module):
    """Reads a digit of 8 × 8 pixels line by line."""

    def __init__(self, width: int = 32, heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.lines = nn.Linear(8, width)
        self.places = nn.Parameter(torch.randn(8, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.lines(x.reshape(len(x), 8, 8)) + self.places
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden.mean(1))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


@pytest.mark.slow
def test_attention_that_is_healthy_is_seen_and_raises_nothing(tmp_path: Path) -> None:
    model = Reader()
    found = judged(train(Training(model, adam(model), steps=600), tmp_path / "spool"))
    assert found.changes == []
    assert found.state.history["loss"].values[-50:].mean() < 0.3
    layers = found.state.history.layers
    [entropy] = layers.measured("attention_entropy")
    assert len(entropy) >= 60
    for block in range(2):
        own = entropy[:, layers.names.index(f"blocks.{block}.attention")]
        assert ((own > 0.1) & (own <= 1)).all()


def test_attention_whose_temperature_falls_collapses_and_is_named(tmp_path: Path) -> None:
    model = Reader()

    def sharpen(step: int) -> None:
        model.blocks[1].sharpness = 1.02 ** max(0, step - 200)

    found = judged(train(Training(model, adam(model), steps=600, before=sharpen), tmp_path / "spool"))
    assert 200 < found.raised()["attention_collapse"] < 500
    reason = next(reason for _, name, reason in found.changes if name == "attention_collapse")
    assert reason is not None
    assert "layer 'blocks.1.attention' has" in reason
    assert ("attention_collapse", None) not in [(name, reason) for _, name, reason in found.changes]


@pytest.mark.xdist_group("huggingface")
def test_attention_of_hugging_face_models_is_seen_in_each_layer() -> None:
    transformers = importlib.import_module("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=20, attn_implementation="eager", **sizes)
    model = transformers.BertModel(config).eval()
    activations = Activations(model)
    activations.arm()
    with torch.no_grad():
        shown = model(torch.randint(20, (3, 7)), output_attentions=True).attentions
    values, names = activations.take()
    layers = statistics(values.numpy(), names)
    for number, weights in enumerate(shown):
        expected = torch.special.entr(weights).sum(-1).mean() / torch.tensor(7.0).log()
        layer = layers[f"encoder.layer.{number}.attention.self"]
        assert layer.attention_entropy == pytest.approx(float(expected), abs=1e-4)
    assert sum(layer.attention_entropy == layer.attention_entropy for layer in layers.values()) == 2
