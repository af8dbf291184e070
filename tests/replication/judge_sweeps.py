"""Spoiled runs among healthy siblings: path classes beside baselines at equal false positives.

Thresholds are set on the tune sweeps and used as they are on the report sweeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from replication.baselines import BASELINES, read
from replication.judging import judge
from replication.scoring import FALLBACK_RATE, Tally, threshold
from replication.sweeps import HALVES, SWEEPS

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = {"path classes": False, "path classes, every look": True}  # name → whether all samples are used


def judge_sweeps(advance: Callable[[str], None]) -> dict[str, Any]:
    """Judge all groups; `advance` is told of each. Returns tables as plain values, thresholds among them."""
    tallies = {half: {name: Tally() for name in [*OURS, *BASELINES]} for half in HALVES}
    scores: dict[str, list[tuple[list[str], dict[str, np.ndarray]]]] = {half: [] for half in HALVES}
    groups = []
    for sweep in SWEEPS:
        for number, plans in enumerate(sweep.groups()):
            name = f"{sweep.data} {sweep.name} {number}"
            advance(name)
            kinds = [plan.job.kind for plan in plans]
            siblings = read(plans)
            for ours, every in OURS.items():
                verdict = judge(read(plans, every=True).paths if every else siblings.paths)
                tallies[sweep.half][ours].add(kinds, verdict.outlier, verdict.score, abstained=verdict.abstained)
                groups.append(_line(name, ours, verdict, [plan.name for plan in plans]))
            scores[sweep.half].append((kinds, {name: score(siblings) for name, score in BASELINES.items()}))
    thresholds = _thresholds(tallies["tune"]["path classes"], scores["tune"])
    for half in HALVES:
        for kinds, found in scores[half]:
            for name, values in found.items():
                tallies[half][name].add(kinds, values > thresholds[name], values)
    return {
        "thresholds": thresholds,
        "groups": groups,
        **{half: {name: tally.summary() for name, tally in tallies[half].items()} for half in HALVES},
    }


def _line(group: str, method: str, verdict: Any, names: list[str]) -> dict[str, Any]:
    """One group as path classes see it, small enough to be kept."""
    return {
        "group": group,
        "method": method,
        "classes": len(np.unique(verdict.labels)),
        "abstained": verdict.abstained,
        "best_p": verdict.best_p,
        "outliers": [name for name, outlier in zip(names, verdict.outlier, strict=True) if outlier],
        "seconds": round(verdict.seconds, 2),
    }


def _thresholds(ours: Tally, groups: list[tuple[list[str], dict[str, np.ndarray]]]) -> dict[str, float]:
    """Allow every baseline as many false positives on the tune sweeps as path classes had there."""
    rate = ours.flagged["healthy"] / ours.seen["healthy"]
    healthy = {
        name: np.concatenate([found[name][np.array(kinds) == "healthy"] for kinds, found in groups])
        for name in BASELINES
    }
    return {name: threshold(values, rate or FALLBACK_RATE) for name, values in healthy.items()}
