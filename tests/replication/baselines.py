"""Plain answers to: is this ended run an outlier among its siblings? One score a run, fixed formulas, no labels.

Every score is larger for stranger runs and free of units, so that one threshold serves for all groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.ensemble import IsolationForest

from replication.dtw import dtw_distances, joining_heights, thin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from replication.runs import Plan

_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_TREES = 100


@dataclass(frozen=True)
class Siblings:
    """What is known of the ended runs of a group, without the truth.

    Attributes:
        paths: Representation points of each run, T × d.
        train_loss: Loss at the end on the run's own training data, one a run.
        probe_loss: Mean loss on the probes at the end, one a run.
        predictions: Classes of the probes at the end, runs × probes.
    """

    paths: list[np.ndarray]
    train_loss: np.ndarray
    probe_loss: np.ndarray
    predictions: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        """Last points, runs × d."""
        return np.stack([path[-1] for path in self.paths])


def read(plans: Sequence[Plan], *, every: bool = False) -> Siblings:
    """Read a group; paths as a client with a fixed interval samples them, or with `every` look that was taken."""
    runs = [plan.read("points", "regular", "train_loss", "probe_loss", "argmax") for plan in plans]
    return Siblings(
        paths=[run["points"] if every else run["points"][run["regular"]] for run in runs],
        train_loss=np.array([run["train_loss"] for run in runs]),
        probe_loss=np.array([run["probe_loss"] for run in runs]),
        predictions=np.stack([run["argmax"][-1] for run in runs]),
    )


def robust_z(values: np.ndarray) -> np.ndarray:
    """Return |value − median| in robust standard deviations (scaled median absolute deviation)."""
    away = np.abs(values - np.median(values))
    return away / max(_MAD_TO_DEVIATION * float(np.median(away)), np.finfo(float).tiny)


def disagreement(predictions: np.ndarray) -> np.ndarray:
    """Return for each run the share of probes on which the others predict something else more often."""
    classes = int(predictions.max()) + 1
    votes = np.stack([(predictions == kind).sum(0) for kind in range(classes)])  # classes × probes
    shares = []
    for own in predictions:
        others = votes.copy()
        others[own, np.arange(len(own))] -= 1
        shares.append(float(np.mean(others[own, np.arange(len(own))] < others.max(0))))
    return np.array(shares)


def _loneliness(distances: np.ndarray, method: str) -> np.ndarray:
    heights = joining_heights(distances, method)
    return heights / max(float(np.median(heights)), np.finfo(float).tiny)


def _isolation(points: np.ndarray) -> np.ndarray:
    forest = IsolationForest(n_estimators=_TREES, random_state=0).fit(points)
    return np.asarray(-forest.score_samples(points))


# Losses are positive and span orders of magnitude, so their logarithms are compared.
BASELINES: dict[str, Callable[[Siblings], np.ndarray]] = {
    "training loss, robust z": lambda group: robust_z(np.log(group.train_loss)),
    "probe loss, robust z": lambda group: robust_z(np.log(group.probe_loss)),
    "disagreement on probes": lambda group: disagreement(group.predictions),
    "endpoints, single linkage": lambda group: _loneliness(cdist(group.ends, group.ends), "single"),
    "endpoints, isolation forest": lambda group: _isolation(group.ends),
    "paths, DTW and average linkage": lambda group: _loneliness(
        dtw_distances([thin(path) for path in group.paths]), "average"
    ),
}
