"""What ended runs hand out to be learned from, and the features that are made of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from topowatch_monitor.engine.group_fit import commonest
from topowatch_monitor.engine.results import TOTAL_LABEL, number_of
from topowatch_monitor.forecast.consensus import Consensus
from topowatch_monitor.forecast.curve import curve_features
from topowatch_monitor.forecast.table import raw_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from topowatch_monitor.engine.features import Curve
    from topowatch_monitor.engine.made_forecasts import MadeForecast
    from topowatch_monitor.engine.milestones import Milestone

# A forecast is made each time that a run passes a sixteenth of its steps.
LEVELS = 16
# Runs whose lengths differ by no more are taken to be of one length, which those that do not say theirs will have too.
SAME_LENGTH = 1.1
_AGREEMENT = ("agreement", "agreement_mean", "agreement_sure", "agreement_best", "agreement_best_mean")


class Finished(NamedTuple):
    """What a shard hands out of an ended run.

    Attributes:
        labels: of the run.
        digest: of its probe set, in hex; empty without one.
        classes: that predictions on it are of; 0 where they are of none.
        results: that it ended with.
        steps: that it took.
        milestones: on its way; the last is its end.
        curves: what it logged on the way of what is measured on held-out data; see `features.curves_of`.
        forecasts: that were made of it while it went on, ascending in step.
    """

    run: str
    group: str
    labels: dict[str, str]
    digest: str
    classes: int
    results: dict[str, float]
    steps: int
    milestones: list[Milestone]
    curves: dict[str, Curve]
    forecasts: list[MadeForecast]

    @property
    def cut_short(self) -> bool:
        """Whether it took far fewer steps than it had said: what it ended with is not what it was forecast to."""
        told = number_of(self.labels, TOTAL_LABEL)
        return told is not None and told > SAME_LENGTH * self.steps


class Siblings(NamedTuple):
    """What the ended runs of a group predict on their common probe set.

    Attributes:
        digest: of the probe set; empty without one.
        runs: whose predictions make up the consensus, in its order.
        consensus: None without two of them.
    """

    digest: str
    runs: list[str]
    consensus: Consensus | None


def level_of(step: int, steps: float) -> int:
    """The sixteenths of its steps that a run has passed at the end of `step`, at most LEVELS."""
    return min(LEVELS, math.floor(LEVELS * (step + 1) / steps + 1e-9))


def at_level(milestones: Sequence[Milestone], steps: float, level: int) -> Milestone | None:
    """The newest milestone up to a level of a run, which knows nothing of later steps; None where it is a level old."""
    wanted = steps * level / LEVELS - 1
    newest = next((each for each in reversed(milestones) if each.step <= wanted + 1e-9), None)
    return None if newest is None or wanted - newest.step > max(1.0, steps / LEVELS) else newest


def siblings_of(runs: Sequence[Finished], merits: NDArray[np.float64]) -> Siblings:
    """Take together what ended runs predict on the probe set that most of them have.

    Args:
        runs: n of them.
        merits: n numbers, higher of better runs.
    """
    digest = str(commonest(run.digest for run in runs if run.classes > 1 and len(run.milestones[-1].predicted)) or "")
    best_first = [runs[place] for place in np.argsort(-merits, kind="stable")]
    alike = [run for run in best_first if digest and run.digest == digest]
    probes = commonest(len(run.milestones[-1].predicted) for run in alike)
    alike = [run for run in alike if probes and len(run.milestones[-1].predicted) == probes]
    if len(alike) < 2:
        return Siblings(digest, [], None)
    stacked = np.stack([run.milestones[-1].predicted for run in alike]).astype(np.int64)
    classes = max(int(stacked.max()) + 1, *(run.classes for run in alike))
    return Siblings(digest, [run.run for run in alike], Consensus(stacked, classes))


def features_at(
    milestone: Milestone, siblings: Siblings, *, digest: str, curve: Curve | None, steps: float, run: str | None = None
) -> NDArray[np.float64]:
    """Features of a milestone, with how far it agrees with the siblings and what the curve of the metric shows.

    Args:
        milestone: of a run.
        siblings: of the run.
        digest: of its probe set.
        curve: of the metric that is forecast, where it was logged on the way.
        steps: that the run takes.
        run: its name, where it is one of the siblings: its own predictions are left out.
    """
    known: dict[str, float] = {}
    if siblings.consensus is not None and digest == siblings.digest and len(milestone.predicted):
        own = siblings.runs.index(run) if run in siblings.runs else None
        predicted = milestone.predicted.astype(np.int64)
        found = siblings.consensus.agreement(predicted, milestone.confidence, own=own)
        known |= zip(_AGREEMENT, found, strict=True)
    if curve is not None:
        seen = curve[0] < milestone.step  # what is logged at the step itself comes after the sample
        known |= curve_features(curve[0][seen], curve[1][seen], steps - 1)
    added = raw_row(known)
    return np.where(np.isfinite(added), added, milestone.features)
