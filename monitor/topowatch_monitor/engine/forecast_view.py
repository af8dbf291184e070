"""What is told of the forecasts of a group: what is forecast, from how many runs, and how good that has been."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from topowatch_monitor.engine.group_forecast import LEVELS, NOT_SCORED, SCORED, higher_is_better
from topowatch_monitor.forecast.scores import halve, score

if TYPE_CHECKING:
    from topowatch_monitor.engine.group_forecast import ForecastFit, Level
    from topowatch_monitor.engine.placing import GroupKey
    from topowatch_monitor.forecast.scores import Score


class ScoreView(TypedDict):
    """See `forecast.scores.Score`."""

    runs: int
    r2: float | None
    error: float | None
    tau: float | None
    coverage: float | None


class HalvingView(TypedDict):
    """See `forecast.scores.Halving`."""

    saved: float
    regret: float
    kept_best: bool


class LevelView(TypedDict):
    """How good forecasts are after a share of the steps.

    Attributes:
        share: of the steps.
        made: forecasts as they were made while runs went on, held against what these ended with.
        left_out: what the others forecast of each ended run.
        without_topology: R² of the same, from features that have nothing to do with topology.
        halving: what it would have brought to stop the worse half of the ended runs then, by `left_out`.
        baselines: R² of plain forecasts of the same runs, by name.
    """

    share: float
    made: ScoreView
    left_out: ScoreView
    without_topology: float | None
    halving: HalvingView | None
    baselines: dict[str, float | None]


class GroupForecastView(TypedDict):
    """What was learned from the ended runs of a group.

    Attributes:
        metric: that is forecast; None where nothing is, for this `reason`.
        runs: ended ones that were learned from.
        steps: that a run of the group takes; None where they differ, and runs have to say it.
        levels: of a quarter and half of the steps, and of the end.
    """

    tenant: str
    group: str
    metric: str | None
    reason: str
    higher_is_better: bool
    runs: int
    steps: int | None
    levels: list[LevelView]


def forecast_view(group: GroupKey, fit: ForecastFit) -> GroupForecastView:
    """Tell of what was learned from a group."""
    return {
        "tenant": group[0],
        "group": group[1],
        "metric": fit.metric,
        "reason": fit.reason,
        "higher_is_better": higher_is_better(fit.metric or ""),
        "runs": len(fit.runs),
        "steps": fit.steps,
        "levels": [_level_view(level, fit.levels[level - 1], fit) for level in SCORED if fit.levels],
    }


def _level_view(number: int, level: Level, fit: ForecastFit) -> LevelView:
    left_out = NOT_SCORED if level.with_topology is None else fit.score_at(number)
    plain = level.without_topology
    return {
        "share": number / LEVELS,
        "made": _score_view(level.made),
        "left_out": _score_view(left_out),
        "without_topology": None if plain is None else score(fit.results, plain).r2,
        "halving": _halving_view(number, level, fit),
        "baselines": {name: score(fit.results, said).r2 for name, said in level.baselines.items()},
    }


def _halving_view(number: int, level: Level, fit: ForecastFit) -> HalvingView | None:
    if level.with_topology is None or fit.metric is None:
        return None
    better = higher_is_better(fit.metric)
    found = halve(fit.results, level.with_topology, number / LEVELS, higher_is_better=better)
    return {"saved": found.saved, "regret": found.regret, "kept_best": found.kept_best}


def _score_view(found: Score) -> ScoreView:
    return {
        "runs": found.runs,
        "r2": found.r2,
        "error": found.error,
        "tau": found.tau,
        "coverage": found.coverage,
    }
