"""Sweeps of real runs with a known truth: 24 healthy seeds and twelve runs spoiled in six ways.

Their runs are <kind>-<number>. Sweeps named tune-* are for choosing thresholds, those named report-* for the figures
that are published. A group to be judged is the healthy runs of a sweep with four of its spoiled ones, or with none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from replication.lessons import RATES, SPOILS
from replication.runs import Plan
from replication.training import Job

HEALTHY = 24
TOGETHER = 4  # spoiled runs in one group
_SPOILED = 2  # runs of each kind
_TUNE, _REPORT = "tune", "report"
HALVES = (_TUNE, _REPORT)


@dataclass(frozen=True)
class Sweep:
    """Runs that differ in their seeds and, where `spread` is not 1, in their learning rates and batch sizes."""

    data: str
    name: str
    network: str
    optimiser: str
    lr: float
    schedule: str
    steps: int
    split_seed: int
    batch: int = 32
    spread: float = 1.0  # healthy learning rates lie between lr / spread and lr × spread

    @property
    def half(self) -> str:
        """Return `tune` or `report`."""
        return self.name.partition("-")[0]

    def plans(self) -> list[Plan]:
        """Return all runs: the healthy ones, then each kind of spoiled ones once, then once more."""
        plans: list[Plan] = []
        counts: Counter[str] = Counter()
        for index, kind in enumerate(["healthy"] * HEALTHY + list(SPOILS) * _SPOILED):
            seed = 1000 * self.split_seed + index
            generator = np.random.default_rng(seed)
            lr = self.lr * self.spread ** generator.uniform(-1, 1) * RATES.get(kind, 1.0)
            batch = self.batch * int(generator.integers(1, 3)) if self.spread > 1 else self.batch
            job = Job(self.network, self.optimiser, lr, batch, self.steps, self.schedule, seed, kind)
            plans.append(Plan(self.data, self.name, f"{kind}-{counts[kind]:02}", self.split_seed, job))
            counts[kind] += 1
        return plans

    def groups(self) -> list[list[Plan]]:
        """Return the groups to be judged: the healthy runs alone, then with four spoiled ones of different kinds."""
        plans = self.plans()
        healthy, spoiled = plans[:HEALTHY], plans[HEALTHY:]
        fours = [spoiled[first : first + TOGETHER] for first in range(0, len(spoiled), TOGETHER)]
        return [healthy, *(healthy + four for four in fours)]


SWEEPS = (
    Sweep("digits", "tune-1", "cnn", "sgd", 0.02, "constant", 960, 1),
    Sweep("digits", "tune-2", "mlp", "adam", 2e-3, "cosine", 1280, 2, spread=1.5),
    Sweep("digits", "report-1", "cnn", "adam", 1e-3, "constant", 960, 3, spread=1.5),
    Sweep("digits", "report-2", "mlp", "sgd", 0.03, "cosine", 1280, 4),
    Sweep("mnist", "tune-1", "lenet", "sgd", 0.02, "cosine", 1024, 5),
    Sweep("mnist", "tune-2", "lenet", "adam", 1.5e-3, "constant", 1024, 6, spread=1.5),
    Sweep("mnist", "report-1", "lenet", "adam", 1.5e-3, "cosine", 1024, 7),
    Sweep("mnist", "report-2", "lenet", "sgd", 0.03, "constant", 1024, 8, spread=1.5),
)
