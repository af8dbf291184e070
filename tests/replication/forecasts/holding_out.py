"""What is forecast of runs that were not learned from: each fifth of a group from the other four, as a shard would.

No configuration is on both sides, as no two runs of a sweep have the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.engine.features import curve_for
from topowatch_monitor.engine.finished import LEVELS, Siblings, at_level, features_at, siblings_of
from topowatch_monitor.engine.forecasting import forecast
from topowatch_monitor.engine.group_forecast import SCORED, ForecastFit, Held, Target, raw_at, worth_telling
from topowatch_monitor.engine.results import gap_of
from topowatch_monitor.forecast import UnusableError, learn
from topowatch_monitor.forecast.baselines import LOSS_ONLY, NORM_AND_LENGTH
from topowatch_monitor.forecast.table import NAMES, TOPOLOGICAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from topowatch_monitor.engine.finished import Finished
    from topowatch_monitor.forecast import Learned

METRIC = "test_accuracy"
FOLDS = 5
# Ways to forecast from features, by what each leaves out; the forecaster itself is `FORECAST`.
FORECAST = "forecast"
WAYS = {
    FORECAST: frozenset[str](),
    "without topology": TOPOLOGICAL,
    "topology alone": frozenset(NAMES) - TOPOLOGICAL,
    "loss only": LOSS_ONLY,
    "weight norm and path length": NORM_AND_LENGTH,
}
CURVES = {"last value": "curve_last", "power law": "curve_drawn"}
_NOT_LOOKED_AT = Held(None, "it was not looked at")


@dataclass
class Said:
    """What was forecast of n runs at one level; NaN where nothing was.

    Attributes:
        values: by way, n.
        lower, upper: of the forecaster's intervals.
    """

    values: dict[str, np.ndarray]
    lower: np.ndarray
    upper: np.ndarray

    @property
    def abstained(self) -> np.ndarray:
        """Which runs nothing was forecast of."""
        return np.isnan(self.values[FORECAST])

    @classmethod
    def nothing(cls, runs: int) -> Said:
        """Return what was forecast of so many runs before anything was."""
        empty = np.full((2, runs), math.nan)
        return cls({name: np.full(runs, math.nan) for name in (*WAYS, *CURVES)}, *empty)


def accuracies(runs: Sequence[Finished]) -> np.ndarray:
    """Return what runs ended with."""
    return np.array([run.results[METRIC] for run in runs])


def gaps(runs: Sequence[Finished]) -> np.ndarray:
    """Return by how much each did better on its training data."""
    return np.array([gap_of(run.results, METRIC, higher=True) for run in runs])


def hold_out(runs: Sequence[Finished]) -> dict[str, dict[int, Said]]:
    """Forecast each run from those of the other folds: `accuracy` and `gap`, by level."""
    folds = np.random.default_rng(0).permutation(len(runs)) % FOLDS
    found = {target: {level: Said.nothing(len(runs)) for level in SCORED} for target in ("accuracy", "gap")}
    for fold in range(FOLDS):
        taught, held = ([run for run, of in zip(runs, folds, strict=True) if (of == fold) == out] for out in (0, 1))
        places = np.flatnonzero(folds == fold)
        siblings = siblings_of(taught, accuracies(taught))
        for level in SCORED:
            raw = raw_at(taught, level, siblings, METRIC)
            asked = [features_of(run, level, siblings) for run in held]
            for target, results in (("accuracy", accuracies(taught)), ("gap", gaps(taught))):
                said = found[target][level]
                _ask(raw, results, asked, places, said)
                for name, feature in CURVES.items() if target == "accuracy" else ():
                    said.values[name][places] = [row[NAMES.index(feature)] for row in asked]
    return found


def features_of(run: Finished, level: int, siblings: Siblings) -> np.ndarray:
    """Return the features of a run at a level, compared with siblings that it is not one of."""
    milestone = at_level(run.milestones, run.steps, level)
    if milestone is None:
        return np.full(len(NAMES), math.nan)
    curve = curve_for(run.curves, METRIC)
    return features_at(milestone, siblings, digest=run.digest, curve=curve, steps=run.steps)


def fit_at(runs: Sequence[Finished], levels: Sequence[int] = SCORED) -> ForecastFit:
    """Learn from runs as the daemon does, at some levels only."""
    siblings = siblings_of(runs, accuracies(runs))
    held = [_NOT_LOOKED_AT] * LEVELS
    for level in levels:
        held[level - 1] = Held(learn(raw_at(runs, level, siblings, METRIC), accuracies(runs)), "")
    return _fit(worth_telling(Target(accuracies(runs), held)), siblings)


def _fit(target: Target, siblings: Siblings | None = None) -> ForecastFit:
    return ForecastFit(
        metric=METRIC,
        reason="",
        higher_is_better=True,
        steps=None,
        of_metric=target,
        of_gap=None,
        siblings=siblings or Siblings("", [], None),
    )


def _ask(raw: np.ndarray, results: np.ndarray, asked: Sequence[np.ndarray], places: np.ndarray, said: Said) -> None:
    for name, without in WAYS.items():
        try:
            learned = learn(raw, results, without)
        except UnusableError:
            continue
        for place, row in zip(places, asked, strict=True):
            if name != FORECAST:  # baselines do not abstain
                said.values[name][place] = _value(learned, row)
                continue
            told = forecast(_fit(worth_telling(Target(results, [Held(learned, "")]))), row, digest="", step=0, level=1)
            if not told["abstained"]:
                said.values[name][place] = told["value"]
                said.lower[place], said.upper[place] = told["lower"], told["upper"]


def _value(learned: Learned, row: np.ndarray) -> float:
    try:
        return learned.predict(row).value
    except UnusableError:
        return float(learned.regressor.targets.mean()) if learned.offset is None else math.nan
