"""Small networks of three architectures, for images of 28 × 28 and for windows of text; `width` sets their size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from replication.forecasts.data import CONTEXT
from replication.minima.tasks import Block
from replication.minima.text import CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Callable

_PATCH = 7  # side of the squares that a transformer sees an image as


class _Rows(nn.Module):
    """Images as sequences of rows, or of square patches."""

    def __init__(self, side: int | None) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.side is None:
            return images.squeeze(1)
        patches: torch.Tensor = nn.functional.unfold(images, self.side, stride=self.side).transpose(1, 2)
        return patches


class _Positions(nn.Module):
    """Adds a vector a position."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(length, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight


class _Pool(nn.Module):
    """Mean over positions, or the last one."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, -1] if self.last else x.mean(1)


class _Gru(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, width, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.gru(x)[0]
        return states


class _Causal(nn.Module):
    """A convolution over the past of each position, beside a way around it."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.norm, self.mix = nn.LayerNorm(width), nn.Conv1d(width, width, 3, dilation=dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(self.norm(x).transpose(1, 2), (self.past, 0))
        return x + nn.functional.gelu(self.mix(padded)).transpose(1, 2)


def _image_cnn(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 5, stride=2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(50 * width, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _image_transformer(width: int) -> nn.Module:
    body = [nn.Linear(_PATCH**2, width), _Positions((28 // _PATCH) ** 2, width)]
    blocks = [Block(width, heads=4, causal=False) for _ in range(2)]
    return nn.Sequential(_Rows(_PATCH), *body, *blocks, nn.LayerNorm(width), _Pool(last=False), nn.Linear(width, 10))


def _image_rnn(width: int) -> nn.Module:
    return nn.Sequential(_Rows(None), _Gru(28, width), _Pool(last=True), nn.Linear(width, 10))


def _text_cnn(width: int) -> nn.Module:
    mixes = [_Causal(width, dilation) for dilation in (1, 2, 4)]
    return nn.Sequential(nn.Embedding(CHARACTERS, width), *mixes, nn.LayerNorm(width), nn.Linear(width, CHARACTERS))


def _text_transformer(width: int) -> nn.Module:
    body = [nn.Embedding(CHARACTERS, width), _Positions(CONTEXT, width)]
    blocks = [Block(width, heads=4) for _ in range(2)]
    return nn.Sequential(*body, *blocks, nn.LayerNorm(width), nn.Linear(width, CHARACTERS))


def _text_rnn(width: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(CHARACTERS, 32), _Gru(32, width), nn.Linear(width, CHARACTERS))


ARCHITECTURES = ("cnn", "transformer", "rnn")
_BUILD: dict[tuple[str, bool], Callable[[int], nn.Module]] = {
    ("cnn", False): _image_cnn,
    ("transformer", False): _image_transformer,
    ("rnn", False): _image_rnn,
    ("cnn", True): _text_cnn,
    ("transformer", True): _text_transformer,
    ("rnn", True): _text_rnn,
}
WIDTHS = {
    ("cnn", False): (4, 8, 16),
    ("transformer", False): (16, 32, 48),
    ("rnn", False): (32, 64, 96),
    ("cnn", True): (32, 64, 96),
    ("transformer", True): (16, 32, 48),
    ("rnn", True): (32, 64, 96),
}


def widths_of(architecture: str, data: str) -> tuple[int, ...]:
    """Return the widths that a sweep draws from."""
    return WIDTHS[architecture, data == "text"]


def build(architecture: str, data: str, width: int) -> nn.Module:
    """Make a network: images n × 1 × 28 × 28 to logits n × 10, text n × CONTEXT to n × CONTEXT × CHARACTERS."""
    return _BUILD[architecture, data == "text"](width)
