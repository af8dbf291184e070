"""What a run is taught, and when: clean data, data spoiled in a known way, or a detour before the clean data."""

from __future__ import annotations

import torch

from replication.data import CLASSES, Images

# Spoiled in the data; "frozen", "slow" and "fast" are spoiled in how the network is trained on clean data.
SPOILS = {
    "noise": "40 % of the labels drawn anew",
    "frozen": "only the last layer learns",
    "slow": "learning rate 12 × too low",
    "shuffled": "pixels of the training images in a fixed wrong order",
    "fast": "learning rate 6 × too high",
    "missing": "one class never seen in training",
}
RATES = {"slow": 1 / 12, "fast": 6.0}
DETOURS = {
    "straight": "clean data from the start",
    "permuted": "first with every label one too high, then clean data for as many steps as the others",
    "subset": "first with only the lower half of the classes, then likewise",
}
_NOISE = 0.4


def lessons(kind: str, train: Images, seed: int) -> tuple[Images, Images]:
    """Return what a run of this kind learns from on its detour, if it makes one, and what it learns from then."""
    if kind == "permuted":
        return Images(train.inputs, (train.targets + 1) % CLASSES), train
    if kind == "subset":
        return train[train.targets < CLASSES // 2], train
    data = _spoil(kind, train, torch.Generator().manual_seed(seed))
    return data, data


def _spoil(kind: str, train: Images, generator: torch.Generator) -> Images:
    if kind == "noise":
        drawn = torch.randint(CLASSES, train.targets.shape, generator=generator)
        wrong = torch.rand(train.targets.shape, generator=generator) < _NOISE
        return Images(train.inputs, torch.where(wrong, drawn, train.targets))
    if kind == "shuffled":
        flat = train.inputs.flatten(1)
        order = torch.randperm(flat.shape[1], generator=generator)
        return Images(flat[:, order].view_as(train.inputs), train.targets)
    if kind == "missing":
        return train[train.targets != torch.randint(CLASSES, (1,), generator=generator)]
    return train
