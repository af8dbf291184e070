"""The trainings that watching is measured on: plain torch, synthetic data, AdamW."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

if TYPE_CHECKING:
    from collections.abc import Callable

BATCHES = 8  # different ones, in turn


@dataclass(frozen=True)
class Workload:
    """A model and what it is trained on."""

    title: str
    model: nn.Module
    batches: list[tuple[torch.Tensor, torch.Tensor]]
    probe: tuple[torch.Tensor, torch.Tensor]
    batch: str  # what a batch is, in words

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def loss(self, model: nn.Module, step: int) -> torch.Tensor:
        """Loss of one batch."""
        inputs, targets = self.batches[step % len(self.batches)]
        return cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


class Convolutions(nn.Sequential):
    """Three stages of two convolutions with batch norm, for images of 32 × 32."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        width = 3
        for wider, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
            layers += [nn.Conv2d(width, wider, 3, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
            width = wider
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Batch × positions × width to the same."""
        batch, length, width = x.shape
        parts = self.attend(self.before(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.narrow(nn.functional.gelu(self.widen(self.between(x)), approximate="tanh"))


class Transformer(nn.Module):
    """GPT-2's shape: learned positions, the head tied to the embedding."""

    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Batch × positions to logits, batch × positions × vocabulary."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        result: torch.Tensor = self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(positions))))
        return result


def cnn(device: torch.device) -> Workload:
    """A small CNN on images."""
    batch = 64 if device.type == "cpu" else 1024
    images = [torch.randn(batch, 3, 32, 32, device=device) for _ in range(BATCHES)]
    batches = [(image, torch.randint(10, (batch,), device=device)) for image in images]
    probe = torch.randn(256, 3, 32, 32, device=device), torch.randint(10, (256,), device=device)
    model = Convolutions().to(device)
    return Workload("small CNN", model, batches, probe, f"{batch} images of 32 × 32")


def _language(title: str, device: torch.device, sequences: int, length: int, **shape: int) -> Workload:
    def text(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.randint(shape["vocabulary"], (count, length + 1), device=device)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    model = Transformer(**shape).to(device)
    batches = [text(sequences) for _ in range(BATCHES)]
    words = f"{sequences} sequences of {length} tokens"
    return Workload(title, model, batches, text(max(1, 256 // length)), words)


def transformer_10m(device: torch.device) -> Workload:
    """A transformer of about 10 million parameters."""
    sequences, length = (8, 64) if device.type == "cpu" else (64, 256)
    shape = {"vocabulary": 256, "context": 256, "width": 384, "layers": 6, "heads": 6}
    return _language("transformer, 10 M", device, sequences, length, **shape)


def gpt2(device: torch.device) -> Workload:
    """A transformer of GPT-2's shape, 124 million parameters."""
    sequences, length = (2, 128) if device.type == "cpu" else (8, 1024)
    shape = {"vocabulary": 50257, "context": 1024, "width": 768, "layers": 12, "heads": 12}
    return _language("transformer, 124 M", device, sequences, length, **shape)


WORKLOADS: dict[str, Callable[[torch.device], Workload]] = {
    "cnn": cnn,
    "transformer-10m": transformer_10m,
    "gpt2-124m": gpt2,
}


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW at its defaults."""
    return torch.optim.AdamW(model.parameters(), lr=3e-4)


def twin(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Another module and another optimiser, without hooks, over the same tensors in the same memory."""
    tensors: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    module = copy.deepcopy(model, tensors)
    other = optimizer_of(module)
    other.state, other.param_groups = optimizer.state, optimizer.param_groups
    return module, other
