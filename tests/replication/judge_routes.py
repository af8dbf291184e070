"""Runs that took a detour and end where the others end: does only what looks at the route see them?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist

from replication.baselines import BASELINES, read
from replication.judging import judge
from replication.lessons import DETOURS
from replication.routes import FORKS, STRAIGHT
from replication.scoring import Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from replication.baselines import Siblings
    from replication.routes import Fork


def judge_routes(thresholds: dict[str, float], advance: Callable[[str], None]) -> list[dict[str, Any]]:
    """Judge every fork and detour, baselines at the thresholds of the tune sweeps; `advance` is told of each."""
    found = []
    for fork in FORKS:
        for detour in [kind for kind in DETOURS if kind != "straight"]:
            advance(f"{fork.data} {fork.name} {detour}")
            found.append(_judge(fork, detour, thresholds))
    return found


def _judge(fork: Fork, detour: str, thresholds: dict[str, float]) -> dict[str, Any]:
    plans = fork.group(detour)
    siblings = read(plans)
    kinds = ["healthy"] * STRAIGHT + [detour] * (len(plans) - STRAIGHT)
    verdict = judge(siblings.paths)
    ours = Tally()
    ours.add(kinds, verdict.outlier, verdict.score, abstained=verdict.abstained)
    methods = {"path classes": ours.summary()}
    for name, score in BASELINES.items():
        tally, scores = Tally(), score(siblings)
        tally.add(kinds, scores > thresholds[name], scores)
        methods[name] = tally.summary()
    return {
        "fork": f"{fork.data} {fork.network}",
        "detour": detour,
        "best_p": verdict.best_p,
        "classes": len(np.unique(verdict.labels)),
        "accuracy": _means(np.array([plan.read("test_accuracy")["test_accuracy"] for plan in plans])),
        "ends": how_ends_agree(siblings, STRAIGHT),
        "methods": methods,
    }


def how_ends_agree(siblings: Siblings, straight: int) -> dict[str, float]:
    """Compare ends of detoured runs (the last ones) with straight ones, and straight ones with each other.

    Returns:
        Mean share of probes with different predictions, and mean distance of end points: `straight` between two
        straight runs, `detour` between a detoured and a straight one. And the share of pairs of a detoured and a
        straight run that differ in no more predictions than 95 % of the pairs of straight ones do.
    """
    differ = (siblings.predictions[:, None] != siblings.predictions[None]).mean(2)
    apart = cdist(siblings.ends, siblings.ends)
    pairs = np.triu_indices(straight, 1)
    return {
        "disagreement_straight": float(differ[pairs].mean()),
        "disagreement_detour": float(differ[straight:, :straight].mean()),
        "alike": float(np.mean(differ[straight:, :straight] <= np.quantile(differ[pairs], 0.95))),
        "distance_straight": float(apart[pairs].mean()),
        "distance_detour": float(apart[straight:, :straight].mean()),
    }


def _means(values: np.ndarray) -> dict[str, float]:
    return {"straight": float(values[:STRAIGHT].mean()), "detour": float(values[STRAIGHT:].mean())}
