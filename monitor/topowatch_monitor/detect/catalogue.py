"""All detectors: their names, what they mean, and how grave they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from topowatch_monitor.detect import (
    exploding_update,
    gradient_growth,
    loss_jump,
    loss_not_decreasing,
    loss_rise,
    non_finite_loss,
    norm_drift,
    orbiting,
    untested_rate,
    update_growth,
    violent_start,
)
from topowatch_monitor.detect.exploding_update import ExplodingUpdateThresholds
from topowatch_monitor.detect.graded import is_on
from topowatch_monitor.detect.gradient_growth import GradientGrowthThresholds
from topowatch_monitor.detect.loss_jump import LossJumpThresholds
from topowatch_monitor.detect.loss_not_decreasing import LossNotDecreasingThresholds
from topowatch_monitor.detect.loss_rise import LossRiseThresholds
from topowatch_monitor.detect.missing_rank import MissingRankThresholds
from topowatch_monitor.detect.non_finite_loss import NonFiniteLossThresholds
from topowatch_monitor.detect.norm_drift import NormDriftThresholds
from topowatch_monitor.detect.orbiting import OrbitingThresholds
from topowatch_monitor.detect.stalled_run import StalledRunThresholds
from topowatch_monitor.detect.superseded_samples import SupersededSamplesThresholds
from topowatch_monitor.detect.untested_rate import UntestedRateThresholds
from topowatch_monitor.detect.update_growth import UpdateGrowthThresholds
from topowatch_monitor.detect.violent_start import ViolentStartThresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from topowatch_monitor.detect.graded import Measure
    from topowatch_monitor.detect.history import History

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of all detectors that have any; the field of each is its name."""

    non_finite_loss: NonFiniteLossThresholds = field(default_factory=NonFiniteLossThresholds)
    exploding_update: ExplodingUpdateThresholds = field(default_factory=ExplodingUpdateThresholds)
    untested_rate: UntestedRateThresholds = field(default_factory=UntestedRateThresholds)
    update_growth: UpdateGrowthThresholds = field(default_factory=UpdateGrowthThresholds)
    gradient_growth: GradientGrowthThresholds = field(default_factory=GradientGrowthThresholds)
    norm_drift: NormDriftThresholds = field(default_factory=NormDriftThresholds)
    violent_start: ViolentStartThresholds = field(default_factory=ViolentStartThresholds)
    loss_jump: LossJumpThresholds = field(default_factory=LossJumpThresholds)
    loss_rise: LossRiseThresholds = field(default_factory=LossRiseThresholds)
    orbiting: OrbitingThresholds = field(default_factory=OrbitingThresholds)
    loss_not_decreasing: LossNotDecreasingThresholds = field(default_factory=LossNotDecreasingThresholds)
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
        detect: function of (history, whether it is active, its thresholds) to a reason, or to None while it is off.
        measure: function of (history, its thresholds) instead, of one that tells how far something has gone. Neither,
            for one that looks at something else: the clock, the incarnations, the ranks, the analysis itself.
    """

    name: str
    severity: Severity
    meaning: str
    detect: Callable[[History, bool, Any], str | None] | None = None
    measure: Callable[[History, Any], Measure | None] | None = None


class Findings(NamedTuple):
    """What all detectors say at one moment.

    Attributes:
        reasons: of those that are on, by name.
        levels: how far each of the others has gone as well: from 1 on it is on.
    """

    reasons: dict[str, str]
    levels: dict[str, float]


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
    Detector(
        "untested_rate",
        "critical",
        "The learning rate has left the range in which the run was stable.",
        measure=untested_rate.measure,
    ),
    Detector(
        "update_growth",
        "critical",
        "Updates have grown beyond all recent ones, at the same learning rate.",
        measure=update_growth.measure,
    ),
    Detector(
        "gradient_growth",
        "critical",
        "Gradients have grown beyond all recent ones.",
        measure=gradient_growth.measure,
    ),
    Detector(
        "norm_drift",
        "critical",
        "The statistics of batch norm run away from where they were.",
        measure=norm_drift.measure,
    ),
    Detector(
        "violent_start",
        "critical",
        "The first updates change a large share of the weights.",
        measure=violent_start.measure,
    ),
    Detector("loss_jump", "critical", "The loss has jumped from one step to the next.", measure=loss_jump.measure),
    Detector("loss_rise", "critical", "The loss has left its lowest level and stays above it.", loss_rise.detect),
    Detector(
        "orbiting",
        "warning",
        "The path of the weights goes round in loops instead of getting anywhere.",
        measure=orbiting.measure,
    ),
    Detector(
        "loss_not_decreasing",
        "warning",
        "The loss has not come down since the run began.",
        loss_not_decreasing.detect,
    ),
    ANALYSIS_FAILED,
    SUPERSEDED_SAMPLES,
    MISSING_RANK,
    STALLED_RUN,
)


def detect_all(history: History, active: Container[str], thresholds: Thresholds) -> Findings:
    """Run every detector that looks at the history."""
    reasons, levels = {}, {}
    for detector in DETECTORS:
        its: Any = getattr(thresholds, detector.name, None)
        on = detector.name in active
        if detector.measure is not None:
            measured = detector.measure(history, its)
            levels[detector.name] = 0.0 if measured is None else measured.level
            if measured is not None and is_on(measured, its, active=on):
                reasons[detector.name] = measured.reason
        elif detector.detect is not None:
            reason = detector.detect(history, on, its)
            levels[detector.name] = 0.0 if reason is None else 1.0
            if reason is not None:
                reasons[detector.name] = reason
    return Findings(reasons, levels)
