"""What forecasts are made from: the features of a run at one moment, and how those of many become rows of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Family = Literal["loss", "curve", "path", "topology", "landscape", "probes", "siblings", "weights"]


class Feature(NamedTuple):
    """A number that is known of a run at a moment.

    Attributes:
        name: of it.
        family: what kind of knowledge it is; forecasts are also made without a family, to see what it adds.
        ratios: whether it is positive and ratios of it count, so that its logarithm is taken.
    """

    name: str
    family: Family
    ratios: bool = False


FEATURES = (
    Feature("loss", "loss", ratios=True),  # mean of the newest 32
    Feature("loss_lowest", "loss", ratios=True),  # lowest mean of 32 so far
    Feature("loss_fall", "loss"),  # logarithm of the loss at the beginning over that now
    Feature("loss_slope", "loss"),  # logarithm of the loss at half of the steps so far over that now
    Feature("loss_noise", "loss", ratios=True),  # of single values, over the loss
    Feature("curve_last", "curve"),  # newest value of the metric that is forecast, where it is logged on the way
    Feature("curve_level", "curve"),  # mean of its newest four
    Feature("curve_rise", "curve"),  # newest value less that at half of the steps so far
    Feature("curve_drawn", "curve"),  # drawn on to the end by a power law
    Feature("path_length", "path", ratios=True),
    Feature("representation_length", "path", ratios=True),
    Feature("h0_total_persistence", "topology", ratios=True),
    Feature("h1_total_persistence", "topology"),  # over that of H₀
    Feature("e_alpha_half", "topology", ratios=True),
    Feature("e_alpha_two", "topology", ratios=True),
    Feature("dimension", "topology"),
    Feature("magnitude", "topology", ratios=True),
    Feature("representation_h0", "topology", ratios=True),
    Feature("representation_h1", "topology"),  # over that of H₀
    Feature("representation_dimension", "topology"),
    Feature("representation_magnitude", "topology", ratios=True),
    Feature("landscape_total_persistence", "landscape", ratios=True),
    Feature("basin_depth", "landscape", ratios=True),
    Feature("critical_lr_ratio", "landscape", ratios=True),
    Feature("gradient_flow_consistency", "landscape"),
    Feature("confidence", "probes"),  # mean over the probes of the probability of the class that is predicted
    Feature("confidence_low", "probes"),  # its tenth percentile
    Feature("confidence_spread", "probes"),  # its standard deviation
    Feature(
        "confidence_loss", "probes", ratios=True
    ),  # mean over the probes of minus the logarithm of that probability
    Feature("doubt_over_loss", "probes"),  # logarithm of that over the training loss: what is sure only of its own data
    Feature("class_entropy", "probes"),  # of the predicted classes, over the most that there can be
    Feature("representation_rank", "probes", ratios=True),
    Feature("agreement", "siblings"),  # share of the probes on which the run says what most finished siblings say
    Feature("agreement_mean", "siblings"),  # share of siblings that say what it says, averaged over the probes
    Feature("agreement_sure", "siblings"),  # the same share where the run is surest: the upper half of its confidences
    Feature("agreement_best", "siblings"),  # as `agreement`, with the siblings whose results were the best
    Feature("agreement_best_mean", "siblings"),  # as `agreement_mean`, with these
    Feature("weight_norm", "weights", ratios=True),
    Feature("update_ratio_max", "weights", ratios=True),
    Feature("gradient_norm", "weights", ratios=True),
)
NAMES = tuple(feature.name for feature in FEATURES)
TOPOLOGICAL = frozenset(feature.name for feature in FEATURES if feature.family in ("topology", "landscape"))
# Share of the runs for which a feature has to be known to be used.
KNOWN = 0.8
# Share of the used features that has to be known of a run for a forecast.
ENOUGH = 0.7
NO_FEATURE = "no feature is known of enough runs and differs among them"


class UnusableError(ValueError):
    """Nothing can be learned from these runs, or forecast of this one; says why."""


class Table:
    """How rows of features become standardised ones: those of the runs that were learned from have mean 0 and spread 1.

    A feature that is known of too few runs, or is the same in all, is left out. What is missing of a run is taken to be
    as usual, the median.

    Args:
        raw: n × F features by FEATURES, NaN where unknown.
        without: names of features to leave out.

    Raises:
        UnusableError: no feature is left.
    """

    def __init__(self, raw: NDArray[np.float64], without: frozenset[str] = frozenset()) -> None:
        ratios = np.array([feature.ratios for feature in FEATURES])
        values = np.where(np.isfinite(raw), raw, np.nan)
        positive = np.where(values > 0, values, np.nan)
        known = np.isfinite(values).mean(axis=0) >= KNOWN
        known &= np.array([name not in without for name in NAMES])
        floors = np.full(values.shape[1], 1.0)
        there = ratios & np.isfinite(positive).any(axis=0)
        # What is 0, as a noise may be, lies half below the least that was seen.
        floors[there] = np.nanmin(positive[:, there], axis=0) / 2
        self._floors = floors
        changed = self._changed(values, ratios)
        with np.errstate(invalid="ignore"):
            spreads = np.array([np.nanstd(column) if np.isfinite(column).any() else 0.0 for column in changed.T])
        chosen = known & (spreads > 1e-9)
        if not chosen.any():
            raise UnusableError(NO_FEATURE)
        self._ratios = ratios
        self._chosen = np.flatnonzero(chosen)
        self._medians = np.nanmedian(changed[:, self._chosen], axis=0)
        filled = np.where(np.isfinite(changed[:, self._chosen]), changed[:, self._chosen], self._medians)
        # Share of the used features that is known of each run.
        self.known: NDArray[np.float64] = np.isfinite(changed[:, self._chosen]).mean(axis=1)
        self._means, self._spreads = filled.mean(axis=0), filled.std(axis=0)
        self.rows: NDArray[np.float64] = (filled - self._means) / self._spreads

    @property
    def names(self) -> list[str]:
        """Names of the features that are used."""
        return [NAMES[index] for index in self._chosen]

    @property
    def families(self) -> list[Family]:
        """Families of the features that are used."""
        return [FEATURES[index].family for index in self._chosen]

    def row(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardise the features of one run, F numbers by FEATURES.

        Raises:
            UnusableError: too few of them are known.
        """
        values = self._changed(np.where(np.isfinite(raw), raw, np.nan)[None], self._ratios)[0, self._chosen]
        known = np.isfinite(values)
        if known.mean() < ENOUGH:
            missing = ", ".join(np.array(self.names)[~known].tolist())
            raise UnusableError(f"too little is known of the run: not {missing}")
        row: NDArray[np.float64] = (np.where(known, values, self._medians) - self._means) / self._spreads
        return row

    def _changed(self, values: NDArray[np.float64], ratios: NDArray[np.bool_]) -> NDArray[np.float64]:
        changed = values.copy()
        with np.errstate(invalid="ignore"):
            changed[:, ratios] = np.log(np.maximum(values[:, ratios], self._floors[ratios]))
        return changed


def raw_row(known: dict[str, float]) -> NDArray[np.float64]:
    """Lay out what is known of a run by name: F numbers by FEATURES, NaN where unknown; other names are left out."""
    return np.array([known.get(name, np.nan) for name in NAMES], dtype=np.float64)
