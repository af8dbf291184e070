"""All detectors: their names, what they mean, and how grave they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from topowatch_monitor.detect import (
    critical_learning_rate,
    exploding_update,
    loss_not_decreasing,
    loss_rise,
    non_finite_loss,
    shallow_basin,
)
from topowatch_monitor.detect.critical_learning_rate import CriticalLearningRateThresholds
from topowatch_monitor.detect.exploding_update import ExplodingUpdateThresholds
from topowatch_monitor.detect.loss_not_decreasing import LossNotDecreasingThresholds
from topowatch_monitor.detect.loss_rise import LossRiseThresholds
from topowatch_monitor.detect.missing_rank import MissingRankThresholds
from topowatch_monitor.detect.non_finite_loss import NonFiniteLossThresholds
from topowatch_monitor.detect.shallow_basin import ShallowBasinThresholds
from topowatch_monitor.detect.stalled_run import StalledRunThresholds
from topowatch_monitor.detect.superseded_samples import SupersededSamplesThresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from topowatch_monitor.detect.history import History

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of all detectors that have any; the field of each is its name."""

    non_finite_loss: NonFiniteLossThresholds = field(default_factory=NonFiniteLossThresholds)
    exploding_update: ExplodingUpdateThresholds = field(default_factory=ExplodingUpdateThresholds)
    loss_rise: LossRiseThresholds = field(default_factory=LossRiseThresholds)
    loss_not_decreasing: LossNotDecreasingThresholds = field(default_factory=LossNotDecreasingThresholds)
    critical_learning_rate: CriticalLearningRateThresholds = field(default_factory=CriticalLearningRateThresholds)
    shallow_basin: ShallowBasinThresholds = field(default_factory=ShallowBasinThresholds)
    superseded_samples: SupersededSamplesThresholds = field(default_factory=SupersededSamplesThresholds)
    missing_rank: MissingRankThresholds = field(default_factory=MissingRankThresholds)
    stalled_run: StalledRunThresholds = field(default_factory=StalledRunThresholds)


@dataclass(frozen=True)
class Detector:
    """One detector.

    Attributes:
        name: its name in flags, metrics and thresholds.
        severity: critical if it says that a minimum is being lost.
        meaning: one sentence for people.
        detect: function of (history, whether it is active, its thresholds) to a reason, or to None while it is off;
            None for one that looks at something else: the clock, the incarnations, the ranks, the analysis itself.
    """

    name: str
    severity: Severity
    meaning: str
    detect: Callable[[History, bool, Any], str | None] | None = None


ANALYSIS_FAILED = Detector(
    "analysis_failed", "warning", "Part of the run could not be analysed; what is shown of it may lack something."
)
SUPERSEDED_SAMPLES = Detector(
    "superseded_samples", "warning", "Samples keep arriving that a newer, silent incarnation of the run supersedes."
)
MISSING_RANK = Detector(
    "missing_rank", "warning", "A rank that holds a part of the model has stopped sending, or never began."
)
STALLED_RUN = Detector("stalled_run", "warning", "No sample has come for longer than the run usually pauses.")
DETECTORS = (
    Detector("non_finite_loss", "critical", "The loss or the weights are NaN or infinite.", non_finite_loss.detect),
    Detector(
        "exploding_update",
        "critical",
        "Updates have become large beside the weights that they change.",
        exploding_update.detect,
    ),
    Detector("loss_rise", "critical", "The loss has left its lowest level and stays above it.", loss_rise.detect),
    Detector(
        "loss_not_decreasing",
        "warning",
        "The loss has not come down since the run began.",
        loss_not_decreasing.detect,
    ),
    Detector(
        "critical_learning_rate",
        "warning",
        "The learning rate stays farther above the critical one than the run is used to.",
        critical_learning_rate.detect,
    ),
    Detector(
        "shallow_basin",
        "warning",
        "The newest slice of the loss shows a basin that is shallow beside what the loss has come down by.",
        shallow_basin.detect,
    ),
    ANALYSIS_FAILED,
    SUPERSEDED_SAMPLES,
    MISSING_RANK,
    STALLED_RUN,
)


def detect_all(history: History, active: Container[str], thresholds: Thresholds) -> dict[str, str]:
    """Run every detector that looks at the history; return the reason of each that is on, by name."""
    found = {}
    for detector in DETECTORS:
        if detector.detect is not None:
            reason = detector.detect(history, detector.name in active, getattr(thresholds, detector.name))
            if reason is not None:
                found[detector.name] = reason
    return found
