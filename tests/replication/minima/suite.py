"""All runs of the suite, kept in .cache/replication/minima: `python -m replication.minima.suite` trains the rest."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import MofNCompleteColumn, Progress

import topowatch_client
from replication.minima.failures import KINDS
from replication.minima.tasks import TASKS
from replication.minima.training import Job, train
from replication.runs import CACHE, write

if TYPE_CHECKING:
    from collections.abc import Sequence

FITTED, HELD_OUT = range(4), range(200, 207)  # seeds of each failure
HEALTHY_SEEDS = {"healthy": (5, 10), "long warm-up": (2, 4), "raised rate": (2, 4)}  # fitted on, held out
TWICE = {"statistics"}  # what one network alone has, with twice as many seeds
DENSE = 8  # steps from look to look in the runs of the ablation


def jobs() -> list[Job]:
    """Return all runs, those of the first seeds first."""
    failing = [
        Job(task, kind, seed + 10 * again)
        for seed in (*FITTED, *HELD_OUT)
        for kind, each in KINDS.items()
        for again in range(2 if kind in TWICE else 1)
        for task in each.tasks
    ]
    healthy = [
        Job(task, kind, seed)
        for kind, (fitted, held_out) in HEALTHY_SEEDS.items()
        for seed in (*range(fitted), *range(HELD_OUT.start, HELD_OUT.start + held_out))
        for task in TASKS
    ]
    return sorted([*failing, *healthy], key=lambda job: job.seed)


def dense_jobs() -> list[Job]:
    """Return the runs with many looks, in which the shape of the path could show."""
    slow = [(task, kind) for kind, each in KINDS.items() if each.onset == "slow" for task in each.tasks]
    pairs = [*slow, *((task, "healthy") for task in TASKS)]
    return [Job(task, kind, seed, DENSE) for seed in HELD_OUT[:2] for task, kind in pairs]


def is_fitted_on(job: Job) -> bool:
    """Whether thresholds may be fixed on a run; figures are taken from the others."""
    return job.seed < HELD_OUT.start


@functools.cache
def version() -> str:
    """Return what names the code that a run is made by: runs of another are trained anew."""
    client = Path(topowatch_client.__file__).parent
    here = [Path(__file__).with_name(name) for name in ("failures.py", "tasks.py", "text.py", "training.py")]
    files = [*sorted(client.rglob("*.py")), *here]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def path_of(job: Job) -> Path:
    """Return where a run lies."""
    return CACHE / "minima" / f"{job.task}-{job.kind.replace(' ', '_')}-{job.seed}-{job.interval}.npz"


def read(job: Job) -> dict[str, np.ndarray]:
    """Return what `train` returned for a run that is kept."""
    with np.load(path_of(job)) as arrays:
        return dict(arrays)


def generate(wanted: Sequence[Job]) -> None:
    """Train those of the runs that are not kept yet, on all cores; what was trained before an interruption stays."""
    current = version()  # before anything is trained: of the code that is loaded
    missing = [job for job in wanted if not _is_kept(job)]
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress,
        ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        task = progress.add_task("training", total=len(missing))
        for done in as_completed([pool.submit(_keep, job, current) for job in missing]):
            progress.update(task, description=f"trained {done.result():<22}", advance=1)


def _keep(job: Job, current: str) -> str:
    write(path_of(job), train(job) | {"version": np.array(current)})
    return path_of(job).stem


def _is_kept(job: Job) -> bool:
    if not path_of(job).exists():
        return False
    with np.load(path_of(job)) as arrays:
        return str(arrays["version"]) == version()


if __name__ == "__main__":
    generate([*jobs(), *dense_jobs()])
    sys.exit(0)
