"""Forecasts of what was not learned from: other data, another architecture, a new group, images that are shifted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from replication.forecasts.holding_out import METRIC, accuracies, features_of, fit_at
from topowatch_monitor.engine.finished import LEVELS
from topowatch_monitor.engine.forecasting import forecast
from topowatch_monitor.engine.group_forecast import SCORED
from topowatch_monitor.engine.group_prior import LEAST_GROUPS, MOST_GROUPS, MOST_RUNS, fit_prior
from topowatch_monitor.forecast.scores import score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor, Future

    from rich.progress import Progress

    from replication.forecasts.sweep import Cell
    from topowatch_monitor.engine.finished import Finished
    from topowatch_monitor.engine.group_forecast import ForecastFit


def strangers(
    pool: Executor,
    progress: Progress,
    cells: Sequence[Cell],
    groups: Mapping[str, Sequence[Finished]],
    shifts: Sequence[str],
) -> list[dict[str, Any]]:
    """Score forecasters on runs of other kinds than those that they were fitted on.

    Args:
        pool: where is learned.
        progress: where it is shown.
        cells: that there are.
        groups: ended runs by group.
        shifts: of probes and test images.
    """
    fits = {cell.name: pool.submit(fit_at, groups[cell.name]) for cell in cells}
    asked: dict[str, list[tuple[Future[ForecastFit], Sequence[Finished]]]] = {
        "another data set, same architecture": [
            (fits[a.name], groups[b.name]) for a in cells for b in cells if a.architecture == b.architecture and a != b
        ],
        "another architecture, same data set": [
            (fits[a.name], groups[b.name]) for a in cells for b in cells if a.data == b.data and a != b
        ],
    }
    for shift in shifts:
        asked[f"images {shift}"] = [
            (pool.submit(_without, groups[cell.name], of), of)
            for cell in cells
            if (of := groups.get(cell.shifted(shift)))
        ]
    if len(cells) > LEAST_GROUPS:
        for suffix, kind in (("", "a new group, from the others"), ("-validated", "the same, with validation")):
            asked[kind] = [
                (pool.submit(fit_prior, *_of_others(cell, cells, groups, suffix)), groups[cell.name + suffix])
                for cell in cells
            ]
    jobs = {id(job): job for pairs in asked.values() for job, _ in pairs}
    task = progress.add_task("forecasting strangers", total=len(jobs))
    for job in jobs.values():
        job.result()
        progress.advance(task)
    found = []
    for kind, pairs in asked.items():
        learned = [(job.result(), of) for job, of in pairs]
        if not learned:
            continue
        found.append(_score(kind, learned))
        if found[-1]["levels"][0]["abstained"] == 1:
            found.append(_score(f"{kind}, were it forecast", learned, disguised=True))
    return found


def _of_others(
    cell: Cell, cells: Sequence[Cell], groups: Mapping[str, Sequence[Finished]], suffix: str
) -> list[Sequence[Finished]]:
    """Runs of other groups, chosen as the daemon does where all have as many."""
    names = sorted(other.name + suffix for other in cells if other != cell)[:MOST_GROUPS]
    return [groups[name][-(MOST_RUNS // len(names)) :] for name in names]


def _without(runs: Sequence[Finished], shifted: Sequence[Finished]) -> ForecastFit:
    """Learn from the runs of a group that are not the same trainings as those with a shift."""
    asked = {run.run for run in shifted}
    return fit_at([run for run in runs if run.run not in asked])


def _score(
    kind: str, pairs: Sequence[tuple[ForecastFit, Sequence[Finished]]], *, disguised: bool = False
) -> dict[str, Any]:
    """Score at each level; disguised are runs whose probes pass for those of the runs that were learned from."""
    levels = []
    for level in SCORED:
        errors, covered, widths, spreads, taus, abstained, runs = [], [], [], [], [], 0, 0
        for fit, asked in pairs:
            told = []
            for run in asked:
                runs += 1
                digest = fit.siblings.digest if disguised else run.digest
                said = forecast(fit, features_of(run, level, fit.siblings), digest=digest, step=0, level=level)
                if said["abstained"] or said["value"] is None or said["lower"] is None or said["upper"] is None:
                    abstained += 1
                    continue
                result = run.results[METRIC]
                told.append((result, said["value"]))
                errors.append(result - said["value"])
                covered.append(said["lower"] <= result <= said["upper"])
                widths.append(said["upper"] - said["lower"])
                spreads.append(result - accuracies(asked).mean())
            if len(told) > 2:
                taus.append(score(*np.array(told).T).tau or 0.0)
        levels.append(
            {
                "level": level / LEVELS,
                "runs": runs,
                "abstained": abstained / runs,
                "r2": float(1 - np.square(errors).sum() / np.square(spreads).sum()) if len(errors) > 1 else None,
                "error": float(np.abs(errors).mean()) if errors else None,
                "tau": float(np.mean(taus)) if taus else None,
                "coverage": float(np.mean(covered)) if covered else None,
                "width": float(np.median(widths)) if widths else None,
            }
        )
    return {"kind": kind, "pairs": len(pairs), "levels": levels}
