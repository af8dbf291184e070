"""Sweeps of real runs with a known truth: 24 healthy seeds and twelve runs spoiled in six ways.

`python -m replication.sweeps` (with tests/ on the path) trains what is not there yet and keeps every run in
.cache/replication/<data set>/<sweep>/<kind>-<number>.npz, with the arrays that `training.train` describes. Sweeps named
tune-* are for choosing thresholds, those named report-* for the figures that are published. A run is identified by its
kind; "healthy" runs come 24 a sweep, each way of spoiling twice (4 spoiled runs at a time are put among the healthy).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import Progress

from replication.data import DATA_SETS, load, split
from replication.lessons import RATES, SPOILS
from replication.training import Job, train

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Path(__file__).parents[2] / ".cache" / "replication"
HEALTHY = 24
SPOILED = 2  # runs of each kind


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
    def folder(self) -> Path:
        """Where the runs lie."""
        return CACHE / self.data / self.name

    @property
    def half(self) -> str:
        """`tune` or `report`."""
        return self.name.partition("-")[0]


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


def jobs(sweep: Sweep) -> Iterator[tuple[str, Job]]:
    """Yield (name, job) of all runs of a sweep."""
    kinds = ["healthy"] * HEALTHY + list(SPOILS) * SPOILED
    counts: dict[str, int] = {}
    for index, kind in enumerate(kinds):
        counts[kind] = counts.get(kind, 0) + 1
        seed = 1000 * sweep.split_seed + index
        generator = np.random.default_rng(seed)
        lr = sweep.lr * sweep.spread ** generator.uniform(-1, 1) * RATES.get(kind, 1.0)
        batch = sweep.batch * int(generator.integers(1, 3)) if sweep.spread > 1 else sweep.batch
        name = f"{kind}-{counts[kind] - 1:02}"
        yield name, Job(sweep.network, sweep.optimiser, lr, batch, sweep.steps, sweep.schedule, seed, kind)


def keep(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a run so that an interruption leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)
    unfinished.replace(path)


def generate(chosen: list[Sweep]) -> None:
    """Train all runs that are not kept yet."""
    torch.set_num_threads(1)
    wanted = [(sweep, name, job) for sweep in chosen for name, job in jobs(sweep)]
    missing = [entry for entry in wanted if not (entry[0].folder / f"{entry[1]}.npz").exists()]
    parts = {sweep: split(load(sweep.data), sweep.split_seed) for sweep in {entry[0] for entry in missing}}
    with Progress() as progress:
        task = progress.add_task("training", total=len(missing))
        for sweep, name, job in missing:
            progress.update(task, description=f"training {sweep.data} {sweep.name} {name:<14}")
            keep(sweep.folder / f"{name}.npz", train(job, parts[sweep]))
            progress.advance(task)


def main() -> int:
    """Train the sweeps of the data sets that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", default=DATA_SETS, help=" or ".join(DATA_SETS))
    options = parser.parse_args()
    generate([sweep for sweep in SWEEPS if sweep.data in options.data])
    return 0


if __name__ == "__main__":
    sys.exit(main())
