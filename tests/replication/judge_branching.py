"""Path classes and merge scales of children of one run, beside the loss barriers between their ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from replication.baselines import read
from replication.branching import CHILDREN, FAMILIES, TURNS
from replication.dtw import dtw_distances, thin
from replication.judging import judge
from replication.runs import CACHE, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from replication.branching import Family


def judge_branching(advance: Callable[[str], None]) -> list[dict[str, Any]]:
    """Judge every family; `advance` is told of each."""
    found = []
    for family in FAMILIES:
        advance(f"{family.data} {family.name}")
        plans = family.plans()
        siblings = read(plans)
        verdict = judge(siblings.paths)
        barriers = _kept_barriers(family)
        children = len(TURNS) * CHILDREN
        rulers = {
            "merge scale": verdict.merge_scale,
            "distance of ends": cdist(siblings.ends, siblings.ends),
            "DTW": dtw_distances([thin(path) for path in siblings.paths]),
        }
        entry = {
            "family": f"{family.data} {family.network} {family.parent}",
            "abstained": verdict.abstained,
            "best_p": verdict.best_p,
            "classes": len(np.unique(verdict.labels)),
            "turns": [*_turns(barriers, verdict.labels, verdict.merge_scale)],
            "children": _halves(barriers[:children, :children], verdict.labels[:children]),
            "all": _halves(barriers, verdict.labels),
            "rank_correlation_children": {
                name: rank_correlation(ruler[:children, :children], barriers[:children, :children])
                for name, ruler in rulers.items()
            },
            "rank_correlation_all": {name: rank_correlation(ruler, barriers) for name, ruler in rulers.items()},
        }
        found.append(entry)
    return found


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return Spearman's correlation over all pairs of runs; None where one side is the same for all."""
    pairs = np.triu_indices(len(first), 1)
    left, right = rankdata(first[pairs]), rankdata(second[pairs])
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(np.corrcoef(left, right)[0, 1])


def _turns(barriers: np.ndarray, labels: np.ndarray, scale: np.ndarray) -> list[dict[str, Any]]:
    """Return for each turn, and for strangers (turn None), what holds between the runs that part there."""
    lines = []
    for number, turn in enumerate([*TURNS, None]):
        first = CHILDREN * number
        own = slice(first, first + CHILDREN) if turn is not None else slice(first, None)
        pairs = np.triu_indices(len(labels[own]), 1)
        same = labels[own][pairs[0]] == labels[own][pairs[1]]
        lines.append(
            {
                "turn": turn,
                "barrier": float(np.mean(barriers[own, own][pairs])),
                "merge_scale": float(np.mean(scale[own, own][pairs])),
                "same_class": float(np.mean(same)),
            }
        )
    return lines


def _halves(barriers: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Return the mean barrier between runs of one class and between runs of two."""
    pairs = np.triu_indices(len(labels), 1)
    same = labels[pairs[0]] == labels[pairs[1]]
    values = barriers[pairs]
    return {
        "within": float(values[same].mean()) if same.any() else None,
        "between": float(values[~same].mean()) if (~same).any() else None,
    }


def _kept_barriers(family: Family) -> np.ndarray:
    """Measure the barriers once: it takes longer than all else together."""
    path = CACHE / family.data / family.name / "barriers.npz"
    jobs = repr([plan.job for plan in family.plans()])
    if path.exists():
        with np.load(path) as kept:
            if str(kept["jobs"]) == jobs:
                return np.asarray(kept["barriers"])
    barriers = family.barriers()
    write(path, {"barriers": barriers, "jobs": np.array(jobs)})
    return barriers
