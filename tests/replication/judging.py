"""The verdict of path classes on a group of ended runs, in the form in which baselines give theirs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from replication.dtw import joining_heights

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Verdict:
    """What path classes say.

    Attributes:
        outlier: Which runs lie outside the majority's class.
        score: Merge scale of each run with the majority, over the resolution: for areas under curves only.
        merge_scale: Runs × runs, finite.
        seconds: Wall time of the classification.
    """

    labels: np.ndarray
    outlier: np.ndarray
    score: np.ndarray
    merge_scale: np.ndarray
    abstained: bool
    best_p: float
    seconds: float


def judge(paths: Sequence[np.ndarray]) -> Verdict:
    """Classify the paths of a group."""
    from topowatch_monitor.topology import classify_paths, outliers

    began = time.perf_counter()
    classes = classify_paths(list(paths))
    seconds = time.perf_counter() - began
    scale = finite(np.asarray(classes.merge_scale, dtype=float))
    return Verdict(
        labels=np.asarray(classes.labels),
        outlier=outliers(classes)[1],
        score=joining_heights(scale, "single") / max(float(classes.resolution), np.finfo(float).tiny),
        merge_scale=scale,
        abstained=bool(classes.abstained),
        best_p=float(classes.best_p),
        seconds=seconds,
    )


def finite(scale: np.ndarray) -> np.ndarray:
    """Put bars that never die above all others, so that scales can be ranked; a run agrees with itself at scale 0."""
    bounded = np.isfinite(scale)
    changed = np.where(bounded, scale, 2 * scale[bounded].max(initial=0.5))
    np.fill_diagonal(changed, 0)
    return changed
