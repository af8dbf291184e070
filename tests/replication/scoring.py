"""From scores and verdicts to thresholds, precision, recall and area under the curve."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import roc_auc_score

if TYPE_CHECKING:
    from collections.abc import Sequence

FALLBACK_RATE = 1 / 24  # false positives that a baseline is allowed where the path classes had none


def threshold(healthy: np.ndarray, allowed: float) -> float:
    """Return the score above which a run is an outlier, such that at most the share `allowed` of the healthy are."""
    descending = np.sort(healthy)[::-1]
    return float(descending[int(allowed * len(healthy) + 1e-9)])


@dataclass
class Tally:
    """Counts over several groups; a run is of the kind "healthy" or spoiled."""

    flagged: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    scores: list[np.ndarray] = field(default_factory=list)
    truth: list[np.ndarray] = field(default_factory=list)
    groups: Counter[bool] = field(default_factory=Counter)  # by whether a spoiled run is among them
    abstained: Counter[bool] = field(default_factory=Counter)

    def add(self, kinds: Sequence[str], verdict: np.ndarray, scores: np.ndarray, *, abstained: bool = False) -> None:
        """Count a group."""
        self.seen.update(kinds)
        self.flagged.update(kind for kind, flagged in zip(kinds, verdict, strict=True) if flagged)
        self.scores.append(scores)
        self.truth.append(np.array([kind != "healthy" for kind in kinds]))
        spoiled = bool(self.truth[-1].any())
        self.groups[spoiled] += 1
        self.abstained[spoiled] += abstained

    def summary(self) -> dict[str, Any]:
        """Return what is published; a ratio without a denominator is None."""
        false, healthy = self.flagged["healthy"], self.seen["healthy"]
        found, spoiled = self.flagged.total() - false, self.seen.total() - healthy
        truth, scores = np.concatenate(self.truth), np.concatenate(self.scores)
        return {
            "groups": {"healthy": self.groups[False], "spoiled": self.groups[True]},
            "abstained": {"healthy": self.abstained[False], "spoiled": self.abstained[True]},
            "healthy": healthy,
            "false_positives": false,
            "spoiled": spoiled,
            "found": found,
            "precision": found / (found + false) if found + false else None,
            "recall": found / spoiled if spoiled else None,
            "auc": float(roc_auc_score(truth, scores)) if 0 < truth.sum() < len(truth) else None,
            "by_kind": {k: [self.flagged[k], self.seen[k]] for k in sorted(self.seen) if k != "healthy"},
        }
