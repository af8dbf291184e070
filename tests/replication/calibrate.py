"""Groups of known truth: how often path classes split one without a hole, and how often they find a hole.

`make calibrate` runs it on all cores, keeps the results and writes the page of tables.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, NamedTuple

import numpy as np
from rich.progress import MofNCompleteColumn, Progress

from bench.machine import machine
from planted_paths import HOLE_FREE, around, hole_free, same
from replication import calibration_page
from topowatch_monitor.topology import classify_paths
from topowatch_monitor.topology.loops import find_loops

SIZES = (12, 24, 100)
NULL_SEEDS = 50  # of each layout: 8 layouts, so 400 groups of each size
LATERAL = (1, 2)  # dimensions in which paths without a hole scatter
SEEDS = 30
FIRST_SEED = 10_000  # those below were looked at while thresholds were chosen
RADII = (0.08, 0.12, 0.18, 0.27, 0.4, 0.6, 0.9)
NOISES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
NOISY_RADIUS = 0.5
LEVELS = (0.5, 0.2, 0.1, 0.05, 0.01, 1e-3, 1e-4)


class Null(NamedTuple):
    """A group without a hole."""

    runs: int
    kind: str
    lateral: int
    seed: int


class Planted(NamedTuple):
    """A group around one hole; see `planted_paths.around`."""

    runs: int
    radius: float
    width: float
    noise: float
    seed: int


def main() -> int:
    """Look at all groups."""
    jobs: list[Null | Planted] = [
        Null(runs, kind, lateral, seed)
        for runs in SIZES
        for kind in HOLE_FREE
        for lateral in LATERAL
        for seed in range(FIRST_SEED, FIRST_SEED + NULL_SEEDS)
    ]
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        for radius in RADII:
            jobs += [Planted(runs, radius, 0.25, 0.02, seed) for runs in SIZES]
            jobs.append(Planted(24, radius, 0.5, 0.02, seed))
        jobs += [Planted(24, NOISY_RADIUS, 0.25, noise, seed) for noise in NOISES]
    found: dict[Null | Planted, dict[str, Any]] = {}
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress, ProcessPoolExecutor() as pool:
        task = progress.add_task("groups", total=len(jobs))
        futures = {pool.submit(_look, job): job for job in jobs}
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            progress.advance(task)
    results = {
        "machine": machine(),
        "null": [_null(runs, found) for runs in SIZES],
        "levels": _levels(found),
        "power": _power(found),
        "noise": _noise(found),
    }
    calibration_page.RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return calibration_page.main()


def _look(job: Null | Planted) -> dict[str, Any]:
    """One group, by the law of noise alone and as it is shipped."""
    if isinstance(job, Null):
        paths = hole_free(job.kind, job.runs, job.seed, lateral=job.lateral)
        loops = find_loops(paths, landmarks=400, dims=3, prime=41, relative=True)
        assert loops is not None
        law = 1.0 if loops.p_values is None else float(loops.p_values.min(initial=1.0))
        parting = [] if loops.p_values is None else loops.p_values[loops.alive] < 1e-4
        split = any(loops.parted(int(number)) > 0 for number in np.flatnonzero(parting))
        classes = classify_paths(paths)
        return {"law_p": law, "law_split": split, "p": classes.best_p, "split": bool(classes.labels.any())}
    paths, truth = around(job.runs, job.seed, radius=job.radius, width=job.width, noise=job.noise)
    classes = classify_paths(paths)
    ours, theirs = same([int(label) for label in classes.labels]), same(truth)
    return {
        "found": not classes.abstained,
        "agree": bool((ours == theirs).all()),
        "spurious": bool((theirs & ~ours).any()),
        "size": job.radius / classes.resolution,
    }


def _null(runs: int, found: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    groups = {job: result for job, result in found.items() if isinstance(job, Null) and job.runs == runs}
    by_layout: dict[str, int] = defaultdict(int)
    for job, result in groups.items():
        by_layout[f"{job.kind} {job.lateral}-D"] += result["split"]
    return {
        "runs": runs,
        "groups": len(groups),
        "law_splits": sum(result["law_split"] for result in groups.values()),
        "splits": sum(result["split"] for result in groups.values()),
        "by_layout": dict(by_layout),
        "of_each": NULL_SEEDS,
    }


def _levels(found: dict[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    """How often p-values of groups without a hole are below each level."""
    lines = []
    for level in LEVELS:
        line: dict[str, Any] = {"level": level}
        for runs in SIZES:
            groups = [result for job, result in found.items() if isinstance(job, Null) and job.runs == runs]
            line[f"law {runs}"] = float(np.mean([result["law_p"] <= level for result in groups]))
            line[f"shipped {runs}"] = float(np.mean([result["p"] <= level for result in groups]))
        lines.append(line)
    return lines


def _power(found: dict[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    cells = [(runs, 0.25) for runs in SIZES] + [(24, 0.5)]
    return [
        {"runs": runs, "width": width, "radius": radius} | _rates(found, Planted(runs, radius, width, 0.02, 0))
        for runs, width in cells
        for radius in RADII
    ]


def _noise(found: dict[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    # After the reduction the noise has three coordinates.
    return [
        {"noise": noise, "drowned": noise * 3**0.5 / NOISY_RADIUS}
        | _rates(found, Planted(24, NOISY_RADIUS, 0.25, noise, 0))
        for noise in NOISES
    ]


def _rates(found: dict[Any, dict[str, Any]], cell: Planted) -> dict[str, Any]:
    groups = [found[cell._replace(seed=FIRST_SEED + seed)] for seed in range(SEEDS)]
    rates = {name: float(np.mean([group[name] for group in groups])) for name in ("found", "agree", "spurious")}
    return rates | {"size": float(np.median([group["size"] for group in groups])), "groups": SEEDS}


if __name__ == "__main__":
    sys.exit(main())
