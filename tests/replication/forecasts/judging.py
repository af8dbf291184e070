"""Scores of what was forecast of runs that were held out: of a group and of all, and what stopping the worse costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from replication.forecasts.data import parts_of
from replication.forecasts.holding_out import CURVES, FORECAST, METRIC, WAYS, accuracies, gaps
from topowatch_monitor.engine.finished import LEVELS, at_level
from topowatch_monitor.engine.group_forecast import SCORED, score_made
from topowatch_monitor.forecast.scores import halve, score
from topowatch_monitor.forecast.table import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replication.forecasts.holding_out import Said
    from replication.forecasts.sweep import Cell, Configuration
    from topowatch_monitor.engine.finished import Finished

ABOVE_CHANCE = 0.05  # a run that ends nearer to always naming the commonest class has failed
_DRAWS = 1000


class Group:
    """The runs of a group, and what was forecast of each from others.

    Attributes:
        results: of the targets `accuracy` and `gap`.
        said: see `hold_out`.
        sound: which runs neither failed nor learned from wrong labels.
    """

    def __init__(
        self,
        name: str,
        cell: Cell,
        runs: Sequence[Finished],
        configurations: Sequence[Configuration],
        said: dict[str, dict[int, Said]],
    ) -> None:
        self.name, self.runs, self.said = name, list(runs), said
        by_name = {each.run: each for each in configurations if each.cell == cell}
        self.configurations = [by_name[run.run] for run in runs]
        self.results = {"accuracy": accuracies(runs), "gap": gaps(runs)}
        noisy = np.array([each.noise > 0 for each in self.configurations])
        self.sound = ~noisy & (self.results["accuracy"] > chance(cell.data) + ABOVE_CHANCE)


def chance(data: str) -> float:
    """Return how often the commonest class is right on the test set."""
    targets = parts_of(data).test[1].flatten()
    return float(targets.bincount().max() / len(targets))


def table_of(groups: Sequence[Group], target: str) -> list[dict[str, Any]]:
    """Score a target at each level, over the groups together and in each."""
    return [
        {
            "level": level / LEVELS,
            "all": _scores(groups, target, level),
            "sound": _scores(groups, target, level, sound=True),
            "groups": {group.name: _scores([group], target, level) for group in groups},
        }
        for level in SCORED
    ]


def made_of(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Score the forecasts that the daemon itself made while the runs went on, each newest up to a level."""
    found = []
    for level in SCORED:
        each = {group.name: score_made(group.runs, METRIC, level, group.results["accuracy"]) for group in groups}
        runs = sum(one.runs for one in each.values())
        covered = [one.coverage * one.runs for one in each.values() if one.coverage is not None]
        errors = [one.error * one.runs for one in each.values() if one.error is not None]
        found.append(
            {
                "level": level / LEVELS,
                "runs": runs,
                "coverage": sum(covered) / runs if runs else None,
                "error": sum(errors) / runs if runs else None,
                "groups": {name: one._asdict() for name, one in each.items()},
            }
        )
    return found


def _scores(groups: Sequence[Group], target: str, level: int, *, sound: bool = False) -> dict[str, Any]:
    """Score all ways to forecast; R² of several groups is within them: their means explain nothing."""
    chosen = [group.sound if sound else np.ones(len(group.runs), bool) for group in groups]
    true = np.concatenate([group.results[target][of] for group, of in zip(groups, chosen, strict=True)])
    which = np.concatenate([np.full(of.sum(), number) for number, of in enumerate(chosen)])
    spread = np.concatenate(
        [
            (group.results[target][of] - group.results[target][of].mean())
            for group, of in zip(groups, chosen, strict=True)
        ]
    )
    said = [group.said[target][level] for group in groups]
    lower, upper, abstained = (
        np.concatenate([getattr(each, name)[of] for each, of in zip(said, chosen, strict=True)])
        for name in ("lower", "upper", "abstained")
    )
    told = ~abstained
    ways: dict[str, Any] = {}
    for name in (*WAYS, *(CURVES if target == "accuracy" else ())):
        values = np.concatenate([each.values[name][of] for each, of in zip(said, chosen, strict=True)])
        known = told & np.isfinite(values)
        if known.sum() < 2:
            continue
        ways[name] = {
            "r2": _r2(true - values, spread, known),
            "error": float(np.abs(true - values)[known].mean()),
            "tau": _tau(true, values, which, known),
        }
        if name == FORECAST:
            ways[name]["r2_interval"] = _interval(true - values, spread, known)
    return {
        "runs": len(true),
        "abstained": float(abstained.mean()),
        "coverage": float(((lower <= true) & (true <= upper))[told].mean()) if told.any() else None,
        "width": float(np.median((upper - lower)[told])) if told.any() else None,
        "ways": ways,
    }


def _r2(errors: np.ndarray, spread: np.ndarray, known: np.ndarray) -> float:
    return float(1 - (errors[known] ** 2).sum() / (spread[known] ** 2).sum())


def _interval(errors: np.ndarray, spread: np.ndarray, known: np.ndarray) -> list[float]:
    """Return the 95 % interval of the bootstrap over runs."""
    places = np.flatnonzero(known)
    drawn = np.random.default_rng(0).choice(places, (_DRAWS, len(places)))
    found = 1 - (errors[drawn] ** 2).sum(axis=1) / (spread[drawn] ** 2).sum(axis=1)
    return [float(value) for value in np.quantile(found, (0.025, 0.975))]


def _tau(true: np.ndarray, values: np.ndarray, which: np.ndarray, known: np.ndarray) -> float | None:
    """Return Kendall's τ, the mean over the groups."""
    found = [score(true[of], values[of]).tau for group in np.unique(which) if (of := known & (which == group)).any()]
    told = [tau for tau in found if tau is not None]
    return float(np.mean(told)) if told else None


def stopping(blind: Sequence[Group], validated: Sequence[Group]) -> list[dict[str, Any]]:
    """What stopping the worse half costs: by forecast with and without validation, by validation, by training loss."""
    found = []
    for level in SCORED[:-1]:
        by: dict[str, list[np.ndarray]] = {}
        for without, group in zip(blind, validated, strict=True):
            ways = {
                "forecast, nothing validated": without.said["accuracy"][level].values[FORECAST],
                "forecast, with validation": group.said["accuracy"][level].values[FORECAST],
                "validation metric (successive halving)": group.said["accuracy"][level].values["last value"],
                "validation metric, drawn on": group.said["accuracy"][level].values["power law"],
                "training loss": -_losses(without, level),
                "at random": np.random.default_rng(level).random(len(group.runs)),
            }
            for name, values in ways.items():
                by.setdefault(name, []).append(np.array(halve(group.results["accuracy"], values, level / LEVELS)))
        ways_found = {
            name: {
                "saved": float(np.mean(each, axis=0)[0]),
                "regret": float(np.mean(each, axis=0)[1]),
                "worst": float(np.max(each, axis=0)[1]),
                "kept_best": float(np.mean(each, axis=0)[2]),
            }
            for name, each in by.items()
        }
        found.append({"level": level / LEVELS, "ways": ways_found})
    return found


def _losses(group: Group, level: int) -> np.ndarray:
    milestones = [at_level(run.milestones, run.steps, level) for run in group.runs]
    losses = np.array([np.nan if each is None else each.features[NAMES.index("loss")] for each in milestones])
    return np.where(np.isfinite(losses), losses, np.inf)  # whoever diverged is stopped
