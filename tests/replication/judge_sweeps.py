"""Spoiled runs among healthy siblings: path classes beside baselines at equal false positives.

Thresholds are set on the tune sweeps and used as they are on the report sweeps. A second, strict threshold lets no
healthy run of the tune sweeps pass; where path classes have no false positives either, it is the fairer one.
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
    ours = tallies["tune"]["path classes"]
    rate = ours.flagged["healthy"] / ours.seen["healthy"]
    thresholds = _thresholds(scores["tune"], rate or FALLBACK_RATE)
    strict = _thresholds(scores["tune"], 0)
    tables: dict[str, Any] = {}
    for half in HALVES:
        cautious = {name: Tally() for name in BASELINES}
        for kinds, found in scores[half]:
            for name, values in found.items():
                tallies[half][name].add(kinds, values > thresholds[name], values)
                cautious[name].add(kinds, values > strict[name], values)
        tables[half] = {name: tally.summary() for name, tally in tallies[half].items()}
        for name, tally in cautious.items():
            summary = tally.summary()
            tables[half][name]["strict"] = {key: summary[key] for key in ("false_positives", "recall")}
    return {"thresholds": thresholds, "strict_thresholds": strict, "groups": groups, **tables}


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


def _thresholds(groups: list[tuple[list[str], dict[str, np.ndarray]]], allowed: float) -> dict[str, float]:
    """Return a threshold for every baseline that the share `allowed` of the healthy runs of these groups exceeds."""
    healthy = {
        name: np.concatenate([found[name][np.array(kinds) == "healthy"] for kinds, found in groups])
        for name in BASELINES
    }
    return {name: threshold(values, allowed) for name, values in healthy.items()}
