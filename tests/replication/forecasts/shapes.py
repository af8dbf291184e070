"""The shape of whole paths, for the paper's claim: the daemon tells it from 64 points on, and here a path has 60."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import MofNCompleteColumn, Progress

from replication.forecasts.generate import folder_of
from replication.forecasts.reading import follow
from topowatch_monitor.commands.records import by_run, log_records
from topowatch_monitor.topology.dimension import ph_dimension, positive_magnitude

if TYPE_CHECKING:
    from replication.forecasts.sweep import Sweep
    from topowatch_monitor.commands.records import Key
    from topowatch_monitor.engine.path_state import PathState

LEAST = 48  # points for a dimension


def shapes_of(sweep: Sweep) -> dict[tuple[str, str], dict[str, float]]:
    """Return dimension and magnitude of paths of weights, and magnitude of those of predictions, by group and run."""
    blind = {cell.name for cell in sweep.cells}
    runs = {key: records for key, records in by_run(log_records(folder_of(sweep) / "data")).items() if key[1] in blind}
    found = {}
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress,
        ProcessPoolExecutor(os.cpu_count()) as pool,
    ):
        task = progress.add_task("shapes of paths", total=len(runs))
        jobs = {key: pool.submit(_shape, key, [(each.kind, each.payload) for each in runs[key]]) for key in runs}
        for (_, group, run), job in jobs.items():
            found[group, run] = job.result()
            progress.advance(task)
    return found


def _shape(key: Key, records: list[tuple[int, bytes]]) -> dict[str, float]:
    run = follow(key, records)
    weights = _distances(run.path)
    dimension = ph_dimension(weights, least=LEAST).value
    return {
        "dimension": float("nan") if dimension is None else dimension,
        "magnitude": positive_magnitude(weights),
        "representation_magnitude": positive_magnitude(_distances(run.representation)),
    }


def _distances(path: PathState) -> np.ndarray:
    row = path._tree.distance_rows()
    return np.stack([row(position) for position in range(path.points)])
