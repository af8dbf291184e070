"""All runs of the suite, kept in .cache/replication/minima: `python -m replication.minima.suite` trains the rest."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import MofNCompleteColumn, Progress

from replication.minima.failures import KINDS
from replication.minima.tasks import TASKS
from replication.minima.training import Job, train
from replication.runs import CACHE, write

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1  # of what a run is; runs of another are trained anew
SEEDS = 10  # of each failure
HEALTHY_SEEDS = 24


def jobs() -> list[Job]:
    """Return all runs, those of the first seeds first."""
    failing = [Job(task, kind, seed) for seed in range(SEEDS) for kind, each in KINDS.items() for task in each.tasks]
    healthy = [Job(task, "healthy", seed) for seed in range(HEALTHY_SEEDS) for task in TASKS]
    return sorted([*failing, *healthy], key=lambda job: job.seed)


def is_fitted_on(job: Job) -> bool:
    """Whether thresholds may be fixed on a run; figures are taken from the others."""
    return job.seed % 2 == 0


def path_of(job: Job) -> Path:
    """Return where a run lies."""
    return CACHE / "minima" / f"{job.task}-{job.kind}-{job.seed}.npz"


def read(job: Job) -> dict[str, np.ndarray]:
    """Return what `train` returned for a run that is kept."""
    with np.load(path_of(job)) as arrays:
        return dict(arrays)


def generate() -> None:
    """Train all runs that are not kept yet, on all cores; what was trained before an interruption stays."""
    missing = [job for job in jobs() if not _is_kept(job)]
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress,
        ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        task = progress.add_task("training", total=len(missing))
        for done in as_completed([pool.submit(_keep, job) for job in missing]):
            progress.update(task, description=f"trained {done.result():<22}", advance=1)


def _keep(job: Job) -> str:
    write(path_of(job), train(job) | {"version": np.array(VERSION)})
    return path_of(job).stem


def _is_kept(job: Job) -> bool:
    if not path_of(job).exists():
        return False
    with np.load(path_of(job)) as arrays:
        return int(arrays["version"]) == VERSION


if __name__ == "__main__":
    generate()
    sys.exit(0)
