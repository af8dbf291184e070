"""Forecasts of what was not learned from: other data, another architecture, a new group, images that are shifted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from replication.forecasts.holding_out import METRIC, accuracies, features_of, fit_at
from topowatch_monitor.engine.finished import LEVELS
from topowatch_monitor.engine.forecasting import forecast
from topowatch_monitor.engine.group_forecast import SCORED
from topowatch_monitor.engine.group_prior import LEAST_GROUPS, MOST_RUNS, fit_prior
from topowatch_monitor.forecast.scores import score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from replication.forecasts.sweep import Cell
    from topowatch_monitor.engine.finished import Finished
    from topowatch_monitor.engine.group_forecast import ForecastFit

TAUGHT = MOST_RUNS // LEAST_GROUPS  # runs of a group that are handed out, at most


def strangers(
    cells: Sequence[Cell], groups: Mapping[str, Sequence[Finished]], shifts: Sequence[str], pool: Executor
) -> list[dict[str, Any]]:
    """Score forecasters on runs of other kinds than those that they were fitted on.

    Args:
        cells: that there are.
        groups: ended runs by group.
        shifts: of probes and test images.
        pool: where new groups are learned about.
    """
    fits = {cell.name: fit_at(groups[cell.name]) for cell in cells}
    found = []
    pairs: dict[str, list[tuple[ForecastFit, Sequence[Finished]]]] = {
        "another data set, same architecture": [
            (fits[a.name], groups[b.name]) for a in cells for b in cells if a.architecture == b.architecture and a != b
        ],
        "another architecture, same data set": [
            (fits[a.name], groups[b.name]) for a in cells for b in cells if a.data == b.data and a != b
        ],
    }
    for shift in shifts:
        pairs[f"images {shift}"] = [
            (_without(groups[cell.name], groups[cell.shifted(shift)]), groups[cell.shifted(shift)])
            for cell in cells
            if cell.shifted(shift) in groups
        ]
    found += [_score(kind, of) for kind, of in pairs.items() if of]
    if len(cells) > 3:
        for suffix, kind in (("", "a new group, from the others"), ("-validated", "the same, with validation")):
            jobs = {}
            for cell in cells:
                others = [groups[other.name + suffix][-TAUGHT:] for other in cells if other != cell]
                jobs[cell.name + suffix] = pool.submit(fit_prior, *others)
            found.append(_score(kind, [(job.result(), groups[name]) for name, job in jobs.items()]))
    return found


def _without(runs: Sequence[Finished], shifted: Sequence[Finished]) -> ForecastFit:
    """Learn from the runs of a group that are not the same trainings as those with a shift."""
    asked = {run.run for run in shifted}
    return fit_at([run for run in runs if run.run not in asked])


def _score(kind: str, pairs: Sequence[tuple[ForecastFit, Sequence[Finished]]]) -> dict[str, Any]:
    """Score at each level; width is the median over that of the intervals of runs of the group's own kind."""
    levels = []
    for level in SCORED:
        errors, covered, widths, spreads, taus, abstained, runs = [], [], [], [], [], 0, 0
        for fit, asked in pairs:
            told = []
            for run in asked:
                runs += 1
                said = forecast(fit, features_of(run, level, fit.siblings), step=0, level=level)
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
