"""Runs of which only the route differs: some make a detour at first, and all end alike."""

from __future__ import annotations

from dataclasses import dataclass

from replication.runs import Plan
from replication.training import Job

STRAIGHT = 18
DETOURED = 6  # of each kind
# The lesson is that many times longer than the detour before it: long enough for predictions to end alike.
_DETOUR = 16


@dataclass(frozen=True)
class Fork:
    """Straight and detoured runs of one network, with a learning rate that falls to zero so that ends are settled."""

    data: str
    network: str
    lr: float
    steps: int
    split_seed: int

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return f"routes-{self.network}"

    def plans(self, kind: str, count: int) -> list[Plan]:
        """Return runs of one kind: straight, permuted or subset."""
        plans = []
        for index in range(count):
            seed = 1000 * self.split_seed + 100 * ("straight", "permuted", "subset").index(kind) + index
            before = self.steps // _DETOUR if kind != "straight" else 0
            job = Job(self.network, "sgd", self.lr, 32, self.steps, "cosine", seed, kind, before=before)
            plans.append(Plan(self.data, self.name, f"{kind}-{index:02}", self.split_seed, job))
        return plans

    def group(self, detour: str) -> list[Plan]:
        """Return the straight runs and those of one detour."""
        return self.plans("straight", STRAIGHT) + self.plans(detour, DETOURED)


FORKS = (
    Fork("digits", "cnn", 0.02, 2880, 21),
    Fork("digits", "mlp", 0.05, 3840, 22),
    Fork("mnist", "lenet", 0.015, 4096, 23),  # at 0.03 a run in six does not survive the turn from wrong labels
)
