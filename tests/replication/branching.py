"""Children of one run that part at a known step, and the loss barriers between their ends.

Linear mode connectivity (Frankle et al., ICML 2020) is the reference: children that part late end in one basin, and the
loss along the straight line between their weights has no barrier. It is a statement about weights; path classes are
one about predictions. How far the two agree is what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from replication.data import load, split
from replication.runs import Plan
from replication.training import Job, build, mean_loss

if TYPE_CHECKING:
    from collections.abc import Callable

TURNS = (0.0, 0.02, 0.1, 0.3, 0.6)  # shares of the training after which children part
CHILDREN = 4  # of each turn
STRANGERS = 4  # runs from other initial weights
_POINTS = 11  # on the line between two ends, both included


@dataclass(frozen=True)
class Family:
    """One parent, its children and some strangers."""

    data: str
    network: str
    optimiser: str
    lr: float
    steps: int
    split_seed: int
    parent: int

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return f"branching-{self.network}-{self.parent}"

    def plans(self) -> list[Plan]:
        """Return the children, earliest turn first, then the strangers."""
        plans = []
        seed = 1000 * self.split_seed + 100 * self.parent
        for share in TURNS:
            for index in range(CHILDREN):
                order = seed + 1 + len(plans)
                job = self._job(seed, turn=round(share * self.steps), order=order)
                plans.append(Plan(self.data, self.name, f"turn{round(100 * share):02}-{index}", self.split_seed, job))
        for index in range(STRANGERS):
            job = self._job(seed + 50 + index)
            plans.append(Plan(self.data, self.name, f"stranger-{index}", self.split_seed, job))
        return plans

    def _job(self, seed: int, turn: int | None = None, order: int = 0) -> Job:
        return Job(self.network, self.optimiser, self.lr, 32, self.steps, "cosine", seed, turn=turn, order=order)

    def barriers(self) -> np.ndarray:
        """Return the loss barrier on the training data between each pair of ends, runs × runs, in nats."""
        data = split(load(self.data), self.split_seed).train
        model = build(self.network)

        def loss(weights: np.ndarray) -> float:
            nn.utils.vector_to_parameters(torch.from_numpy(weights), model.parameters())
            return mean_loss(model, data)

        return all_barriers(loss, [plan.read("end")["end"] for plan in self.plans()])


# Deep and narrow networks have barriers between children that part early; the others hardly any from the start on.
FAMILIES = (
    Family("digits", "deep", "adam", 3e-3, 1280, 11, 0),
    Family("digits", "deep", "adam", 3e-3, 1280, 11, 1),
    Family("digits", "cnn", "sgd", 0.05, 960, 12, 0),
    Family("mnist", "deep28", "adam", 3e-3, 1280, 13, 0),
    Family("mnist", "deep28", "adam", 3e-3, 1280, 13, 1),
    Family("mnist", "lenet", "sgd", 0.05, 1024, 14, 0),
)


def barrier(loss: Callable[[np.ndarray], float], first: np.ndarray, second: np.ndarray) -> float:
    """Return by how much the loss on the line between two weight vectors rises above the line between their losses."""
    shares = np.linspace(0, 1, _POINTS)
    along = np.array([loss((1 - share) * first + share * second) for share in shares.astype(first.dtype)])
    return float(np.max(along - ((1 - shares) * along[0] + shares * along[-1])))


def all_barriers(loss: Callable[[np.ndarray], float], ends: list[np.ndarray]) -> np.ndarray:
    """Return the barrier between each pair of ends, symmetric, zero on the diagonal."""
    found = np.zeros((len(ends), len(ends)))
    for first, second in combinations(range(len(ends)), 2):
        found[first, second] = found[second, first] = barrier(loss, ends[first], ends[second])
    return found
