"""All detectors: their names, what they mean, and how grave they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from topowatch_monitor.detect import (
    activation_kurtosis,
    all_zero,
    attention_collapse,
    critical_learning_rate,
    dead_relu,
    exploding_tensor,
    exploding_update,
    gradient_growth,
    gradient_norm,
    loss_jump,
    loss_not_decreasing,
    loss_rise,
    non_finite_loss,
    norm_drift,
    orbiting,
    overfit,
    overtraining,
    poor_initialisation,
    rank_collapse,
    saturated_activation,
    shallow_basin,
    unchanged_tensor,
    untested_rate,
    update_growth,
    vanishing_gradient,
    variance_growth,
    violent_start,
    weight_update_ratio,
)
from topowatch_monitor.detect.activation_kurtosis import ActivationKurtosisThresholds
from topowatch_monitor.detect.all_zero import AllZeroThresholds
from topowatch_monitor.detect.attention_collapse import AttentionCollapseThresholds
from topowatch_monitor.detect.critical_learning_rate import CriticalLearningRateThresholds
from topowatch_monitor.detect.dead_relu import DeadReluThresholds
from topowatch_monitor.detect.exploding_tensor import ExplodingTensorThresholds
from topowatch_monitor.detect.exploding_update import ExplodingUpdateThresholds
from topowatch_monitor.detect.graded import is_on
from topowatch_monitor.detect.gradient_growth import GradientGrowthThresholds
from topowatch_monitor.detect.gradient_norm import GradientNormThresholds
from topowatch_monitor.detect.level import LowLossThresholds
from topowatch_monitor.detect.loss_jump import LossJumpThresholds
from topowatch_monitor.detect.loss_not_decreasing import LossNotDecreasingThresholds
from topowatch_monitor.detect.loss_rise import LossRiseThresholds
from topowatch_monitor.detect.missing_rank import MissingRankThresholds
from topowatch_monitor.detect.non_finite_loss import NonFiniteLossThresholds
from topowatch_monitor.detect.norm_drift import NormDriftThresholds
from topowatch_monitor.detect.orbiting import OrbitingThresholds
from topowatch_monitor.detect.overfit import OverfitThresholds
from topowatch_monitor.detect.overtraining import OvertrainingThresholds
from topowatch_monitor.detect.poor_initialisation import PoorInitialisationThresholds
from topowatch_monitor.detect.rank_collapse import RankCollapseThresholds
from topowatch_monitor.detect.saturated_activation import SaturatedActivationThresholds
from topowatch_monitor.detect.shallow_basin import ShallowBasinThresholds
from topowatch_monitor.detect.stalled_run import StalledRunThresholds
from topowatch_monitor.detect.superseded_samples import SupersededSamplesThresholds
from topowatch_monitor.detect.unchanged_tensor import UnchangedTensorThresholds
from topowatch_monitor.detect.untested_rate import UntestedRateThresholds
from topowatch_monitor.detect.update_growth import UpdateGrowthThresholds
from topowatch_monitor.detect.vanishing_gradient import VanishingGradientThresholds
from topowatch_monitor.detect.variance_growth import VarianceGrowthThresholds
from topowatch_monitor.detect.violent_start import ViolentStartThresholds
from topowatch_monitor.detect.weight_update_ratio import WeightUpdateRatioThresholds

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from topowatch_monitor.detect.graded import Measure
    from topowatch_monitor.detect.history import History

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of all detectors that have any; the field of each is its name. Then what several of them mean."""

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
    critical_learning_rate: CriticalLearningRateThresholds = field(default_factory=CriticalLearningRateThresholds)
    shallow_basin: ShallowBasinThresholds = field(default_factory=ShallowBasinThresholds)
    superseded_samples: SupersededSamplesThresholds = field(default_factory=SupersededSamplesThresholds)
    vanishing_gradient: VanishingGradientThresholds = field(default_factory=VanishingGradientThresholds)
    exploding_tensor: ExplodingTensorThresholds = field(default_factory=ExplodingTensorThresholds)
    dead_relu: DeadReluThresholds = field(default_factory=DeadReluThresholds)
    saturated_activation: SaturatedActivationThresholds = field(default_factory=SaturatedActivationThresholds)
    poor_initialisation: PoorInitialisationThresholds = field(default_factory=PoorInitialisationThresholds)
    weight_update_ratio: WeightUpdateRatioThresholds = field(default_factory=WeightUpdateRatioThresholds)
    unchanged_tensor: UnchangedTensorThresholds = field(default_factory=UnchangedTensorThresholds)
    all_zero: AllZeroThresholds = field(default_factory=AllZeroThresholds)
    overfit: OverfitThresholds = field(default_factory=OverfitThresholds)
    overtraining: OvertrainingThresholds = field(default_factory=OvertrainingThresholds)
    activation_kurtosis: ActivationKurtosisThresholds = field(default_factory=ActivationKurtosisThresholds)
    attention_collapse: AttentionCollapseThresholds = field(default_factory=AttentionCollapseThresholds)
    rank_collapse: RankCollapseThresholds = field(default_factory=RankCollapseThresholds)
    gradient_norm: GradientNormThresholds = field(default_factory=GradientNormThresholds)
    variance_growth: VarianceGrowthThresholds = field(default_factory=VarianceGrowthThresholds)
    missing_rank: MissingRankThresholds = field(default_factory=MissingRankThresholds)
    stalled_run: StalledRunThresholds = field(default_factory=StalledRunThresholds)
    low_loss: LowLossThresholds = field(default_factory=LowLossThresholds)


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
        "The learning rate leaves the range in which the run was stable: it had settled, and rises or leaps.",
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
    Detector("vanishing_gradient", "warning", "The gradient hardly reaches some layers.", vanishing_gradient.detect),
    Detector(
        "exploding_tensor",
        "warning",
        "Outputs of a layer are NaN or infinite, or have grown out of all proportion.",
        exploding_tensor.detect,
    ),
    Detector("dead_relu", "warning", "A rectifier lets nothing through any more.", dead_relu.detect),
    Detector(
        "saturated_activation",
        "warning",
        "A bounded activation sits at its bounds, where it passes no gradient.",
        saturated_activation.detect,
    ),
    Detector(
        "poor_initialisation",
        "warning",
        "The weights that training began with blow signals up, let them die out, or make wild guesses.",
        poor_initialisation.detect,
    ),
    Detector(
        "weight_update_ratio",
        "warning",
        "Some layers do not learn beside the others, or are turned over by every update.",
        weight_update_ratio.detect,
    ),
    Detector(
        "unchanged_tensor",
        "warning",
        "Weights that have a gradient do not change, while others do.",
        unchanged_tensor.detect,
    ),
    Detector("all_zero", "warning", "Weights or outputs of a layer are all zero.", all_zero.detect),
    Detector("overfit", "warning", "The training loss goes down while the loss on the probes goes up.", overfit.detect),
    Detector(
        "overtraining",
        "warning",
        "The loss on the probes has long been lower than it is, and training goes on.",
        overtraining.detect,
    ),
    Detector(
        "activation_kurtosis",
        "warning",
        "A few outputs of a layer have suddenly become far larger than the rest.",
        activation_kurtosis.detect,
    ),
    Detector(
        "attention_collapse",
        "warning",
        "Attention of a layer looks at one position only, and used not to.",
        attention_collapse.detect,
    ),
    Detector("rank_collapse", "warning", "Representations have fallen into very few dimensions.", rank_collapse.detect),
    Detector(
        "gradient_norm", "warning", "The gradient has become far larger than it was of late.", gradient_norm.detect
    ),
    Detector(
        "variance_growth", "warning", "The loss swings ever wider and slower around its level.", variance_growth.detect
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
