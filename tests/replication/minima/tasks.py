"""Three trainings that end well when nothing is wrong: a CNN on images, a transformer and a GRU on text."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from replication.data import load, split
from replication.minima.text import CHARACTERS, characters

if TYPE_CHECKING:
    from collections.abc import Callable

    from replication.data import Parts

Batch = tuple[torch.Tensor, torch.Tensor]
CONTEXT = 32  # characters
_RAISING = 100  # steps in which a rate is raised
_PROBE_TEXT = 8  # windows of text: 256 positions


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        batch: Examples, or windows of text, a step.
        lr: Highest learning rate.
        warmup: Steps in which it rises from zero.
        schedule: "constant", "cosine" (to a tenth at the end), "restarts" (four such falls), or "raised" (a third until
            half of the steps are done, then all).
        clip: Norm that gradients are clipped to; None: they are not.
    """

    optimiser: str
    lr: float
    batch: int
    warmup: int = 0
    schedule: str = "constant"
    clip: float | None = None

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate at a step of `steps`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup / (3 if self.schedule == "raised" else 1)
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "raised":
            return self.lr * min(1.0, max(1.0, 1 + 2 * (step - steps / 2) / _RAISING) / 3)
        falls = 4 if self.schedule == "restarts" else 1
        inside = (step - self.warmup) / max(steps - self.warmup, 1) * falls % 1.0
        return self.lr * (0.55 + 0.45 * math.cos(math.pi * inside))

    def optimiser_of(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimiser."""
        if self.optimiser == "sgd":
            return torch.optim.SGD(model.parameters(), lr=self.lr, momentum=0.9)
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        return kinds[self.optimiser](model.parameters(), lr=self.lr)


@dataclass(frozen=True)
class Task:
    """What is learned, by which network, from which data."""

    name: str
    build: Callable[[], nn.Module]
    draw: Callable[[torch.Generator, int], Batch]  # (generator, size) to a batch of training data
    probe: Callable[[], Batch]  # fixed, disjoint from the training data
    recipes: tuple[Recipe, ...]  # healthy ones, by turns
    plain: Recipe  # without an optimiser that divides by the size of gradients
    clipped: Recipe | None  # a rate that only clipping makes bearable


class Convolutions(nn.Sequential):
    """A small CNN with batch norm for images of 28 × 28."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 5, stride=2, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(400, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


class Block(nn.Module):
    """A layer of a transformer, norms first."""

    def __init__(self, width: int, heads: int, *, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Batch × positions × width to the same."""
        batch, length, width = x.shape
        parts = self.attend(self.before(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(*parts, is_causal=self.causal)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.narrow(nn.functional.gelu(self.widen(self.between(x))))


class Transformer(nn.Module):
    """A character-level GPT of two layers."""

    def __init__(self, width: int = 48, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(CHARACTERS, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CHARACTERS, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Batch × positions to logits, batch × positions × characters."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        logits: torch.Tensor = self.head(self.norm(self.blocks(x)))
        return logits


class Recurrent(nn.Module):
    """A character-level GRU."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.tokens, self.gru = nn.Embedding(CHARACTERS, 32), nn.GRU(32, width, batch_first=True)
        self.head = nn.Linear(width, CHARACTERS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Batch × positions to logits, batch × positions × characters."""
        logits: torch.Tensor = self.head(self.gru(self.tokens(tokens))[0])
        return logits


def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy, in nats."""
    inputs, targets = batch
    return cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


@functools.cache
def _images() -> Parts:
    return split(load("mnist"), seed=0)


def _draw_images(generator: torch.Generator, size: int) -> Batch:
    train = _images().train
    chosen = train[torch.randint(len(train), (size,), generator=generator)]
    return chosen.inputs, chosen.targets


def _windows(starts: torch.Tensor) -> Batch:
    places = starts[:, None] + torch.arange(CONTEXT + 1)
    text = characters()[places]
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


def _draw_text(generator: torch.Generator, size: int) -> Batch:
    behind = len(characters()) - 10_000  # the end is for probes
    return _windows(torch.randint(behind - CONTEXT - 1, (size,), generator=generator))


def _probe_text() -> Batch:
    first = len(characters()) - 9_000
    return _windows(first + 1_000 * torch.arange(_PROBE_TEXT))


def _probe_images() -> Batch:
    probe = _images().probe
    return probe.inputs, probe.targets


TASKS = {
    task.name: task
    for task in (
        Task(
            "cnn",
            Convolutions,
            _draw_images,
            _probe_images,
            (
                Recipe("sgd", 0.1, 64),
                Recipe("sgd", 0.1, 64, warmup=50, schedule="cosine"),
                Recipe("adam", 5e-3, 64, warmup=50, schedule="restarts"),
            ),
            plain=Recipe("sgd", 0.1, 64, warmup=50),
            clipped=Recipe("sgd", 0.5, 64, clip=0.2),
        ),
        Task(
            "gpt",
            Transformer,
            _draw_text,
            _probe_text,
            (
                Recipe("adamw", 5e-3, 16, warmup=100, schedule="cosine", clip=1.0),
                Recipe("adamw", 3e-3, 16, warmup=100, clip=1.0),
                Recipe("adamw", 5e-3, 16, warmup=100, schedule="restarts", clip=1.0),
            ),
            plain=Recipe("sgd", 0.3, 16, warmup=100, clip=1.0),
            clipped=None,
        ),
        Task(
            "gru",
            Recurrent,
            _draw_text,
            _probe_text,
            (
                Recipe("adam", 1e-2, 16, warmup=50, schedule="cosine", clip=1.0),
                Recipe("sgd", 0.5, 16, warmup=50, clip=0.5),
                Recipe("adam", 1e-2, 16, schedule="restarts", clip=1.0),
            ),
            plain=Recipe("sgd", 0.5, 16, warmup=50, clip=0.5),
            clipped=Recipe("sgd", 4.0, 16, clip=0.1),
        ),
    )
}
