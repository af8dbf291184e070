"""Runs that are kept: .cache/replication/<data set>/<group>/<run>.npz, with the arrays of `training.train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import Progress

from replication.data import load, split
from replication.training import Job, train

if TYPE_CHECKING:
    from collections.abc import Iterable

CACHE = Path(__file__).parents[2] / ".cache" / "replication"


@dataclass(frozen=True)
class Plan:
    """A run that is wanted; runs of a group share the parts of the data set, and with them the probes."""

    data: str
    group: str
    name: str
    split_seed: int
    job: Job

    @property
    def path(self) -> Path:
        """Where the run lies."""
        return CACHE / self.data / self.group / f"{self.name}.npz"

    @property
    def kept(self) -> bool:
        """Whether it is there, as planned now."""
        if not self.path.exists():
            return False
        with np.load(self.path) as arrays:
            return "job" in arrays and str(arrays["job"]) == repr(self.job)

    def read(self, *names: str) -> dict[str, np.ndarray]:
        """Return the named arrays of the run."""
        with np.load(self.path) as arrays:
            return {name: arrays[name] for name in names}


def generate(plans: Iterable[Plan]) -> None:
    """Train all runs that are not kept yet; what was trained before an interruption stays."""
    torch.set_num_threads(1)
    missing = [plan for plan in plans if not plan.kept]
    parts = {key: split(load(key[0]), key[1]) for key in {(plan.data, plan.split_seed) for plan in missing}}
    with Progress() as progress:
        task = progress.add_task("training", total=len(missing))
        for plan in missing:
            progress.update(task, description=f"training {plan.data} {plan.group} {plan.name:<14}")
            write(plan.path, train(plan.job, parts[plan.data, plan.split_seed]) | {"job": np.array(repr(plan.job))})
            progress.advance(task)


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays so that an interruption leaves no half of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)
    unfinished.replace(path)
