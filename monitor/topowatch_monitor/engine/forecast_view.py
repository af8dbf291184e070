"""What is told of the forecasts of a group: what is forecast, from how many runs, and how good that has been."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from topowatch_monitor.engine.finished import LEVELS
from topowatch_monitor.engine.group_forecast import NOT_SCORED, SCORED
from topowatch_monitor.forecast.scores import halve, score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from topowatch_monitor.engine.group_forecast import ForecastFit, Held, Target
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


class HeldView(TypedDict):
    """How good forecasts of one number are after a share of the steps.

    Attributes:
        made: forecasts as they were made while runs went on, held against what these ended with.
        left_out: what the others forecast of each ended run.
        without_topology: R² of the same, from features that have nothing to do with topology.
        baselines: R² of plain forecasts of the same runs, by name.
    """

    made: ScoreView
    left_out: ScoreView
    without_topology: float | None
    baselines: dict[str, float | None]


class LevelView(HeldView):
    """How good forecasts of the metric are after a share of the steps.

    Attributes:
        share: of the steps.
        topological: whether the forecaster uses topology; None where there is none.
        halving: what it would have brought to stop the worse half of the ended runs then, by `left_out`; None for what
            was learned from other groups.
        plain_of_made: R² of the best plain forecast of the runs that `made` is of.
        gap: the same of the gap; None where it is not forecast.
    """

    share: float
    topological: bool | None
    halving: HalvingView | None
    plain_of_made: float | None
    gap: HeldView | None


class GroupForecastView(TypedDict):
    """What was learned from the ended runs of a group.

    Attributes:
        metric: that is forecast; None where nothing is, for this `reason`.
        runs: ended ones that were learned from.
        others: groups that this was learned from, where its own has too few ended runs.
        steps: that a run of the group takes; None where they differ, and runs have to say it.
        levels: of a quarter and half of the steps, and of the end.
    """

    tenant: str
    group: str
    metric: str | None
    reason: str
    higher_is_better: bool
    runs: int
    others: list[str]
    steps: int | None
    levels: list[LevelView]


def forecast_view(group: GroupKey, fit: ForecastFit) -> GroupForecastView:
    """Tell of what was learned from a group."""
    return {
        "tenant": group[0],
        "group": group[1],
        "metric": fit.metric,
        "reason": fit.reason,
        "higher_is_better": fit.higher_is_better,
        "runs": len(fit.of_metric.results),
        "others": list(fit.others),
        "steps": fit.steps,
        "levels": [_level_view(level, fit) for level in SCORED if fit.of_metric.levels],
    }


def _level_view(level: int, fit: ForecastFit) -> LevelView:
    held = fit.of_metric.levels[level - 1]
    return {
        "share": level / LEVELS,
        **_held_view(level, fit.of_metric),
        "topological": None if held.learned is None else held.learned.topological,
        "halving": None if held.learned is None or fit.others else _halving_view(level, held.learned.left_out, fit),
        "plain_of_made": _plain_of_made(fit.of_metric.results, held),
        "gap": None if fit.of_gap is None else _held_view(level, fit.of_gap),
    }


def _held_view(level: int, target: Target) -> HeldView:
    held, results = target.levels[level - 1], target.results
    plain = held.without_topology
    return {
        "made": _score_view(held.made),
        "left_out": _score_view(NOT_SCORED if held.learned is None else score(results, held.learned.left_out)),
        "without_topology": None if plain is None else score(results, plain).r2,
        "baselines": {name: score(results, said).r2 for name, said in held.baselines.items()},
    }


def _plain_of_made(results: NDArray[np.float64], held: Held) -> float | None:
    if len(held.made_of) != len(results):
        return None
    found = [score(results[held.made_of], said[held.made_of]).r2 for said in held.baselines.values()]
    return max((r2 for r2 in found if r2 is not None), default=None)


def _halving_view(level: int, said: NDArray[np.float64], fit: ForecastFit) -> HalvingView:
    found = halve(fit.of_metric.results, said, level / LEVELS, higher_is_better=fit.higher_is_better)
    return {"saved": found.saved, "regret": found.regret, "kept_best": found.kept_best}


def _score_view(found: Score) -> ScoreView:
    return {"runs": found.runs, "r2": found.r2, "error": found.error, "tau": found.tau, "coverage": found.coverage}
