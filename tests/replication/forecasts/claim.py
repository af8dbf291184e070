"""What the paper claims: that topology tells the generalisation gap. Tested beside what it may only stand for.

Kendall's τ; granulated τ (Jiang et al., "Fantastic generalization measures", ICLR 2020), here the mean of τ within runs
that share one setting, over the settings; the partial rank correlation given learning rate, batch size, path length,
weight norm and final loss; and R² out of sample of a Gaussian process on the measure, on these five, and on both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import kendalltau, rankdata

from topowatch_monitor.forecast.regressor import fit
from topowatch_monitor.forecast.scores import score
from topowatch_monitor.forecast.table import NAMES
from topowatch_monitor.topology import sublevel_persistence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from replication.forecasts.judging import Group
    from replication.forecasts.sweep import Configuration

# The first is made from the loss slice that was kept beside the run; it is zero where the slice has one basin.
SLICES = "total persistence of the loss slice"
SHAPES = {
    "PH dimension of the path": "dimension",
    "magnitude of the path": "magnitude",
    "magnitude of the path of predictions": "representation_magnitude",
}
# Features of the run at its end.
FEATURES = {
    "E₀.₅ of the path": "e_alpha_half",
    "E₁ of the path (H₀ persistence)": "h0_total_persistence",
    "E₂ of the path": "e_alpha_two",
    "H₀ persistence of the path of predictions": "representation_h0",
}
MEASURES = (SLICES, *SHAPES, *FEATURES)
LEAST_STRATUM = 6  # runs that share a setting


def slice_persistence(losses: Sequence[Sequence[float]]) -> float:
    """Return the sum of the finite lifetimes of the sublevel filtration of a plane of losses; NaN where one is not."""
    grid = np.array(losses, dtype=np.float64)
    if not np.isfinite(grid).all():
        return float("nan")
    diagram = sublevel_persistence(grid)
    lifetimes = diagram[:, 1] - diagram[:, 0]
    return float(lifetimes[np.isfinite(lifetimes)].sum())


def claim_of(
    group: Group, kept: Mapping[str, Mapping[str, Any]], shapes: Mapping[tuple[str, str], Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Test every measure against the gap of a group's runs.

    Args:
        group: whose runs.
        kept: what `train` returned of each.
        shapes: see `shapes_of`.
    """
    gap = group.results["gap"]
    given = _given(group)
    found = []
    for name in MEASURES:
        values = _measure(group, kept, shapes, name)
        known = np.isfinite(values) & np.isfinite(given).all(axis=1)
        if known.sum() < 2 * LEAST_STRATUM or np.ptp(values[known]) == 0:
            found.append({"measure": name, "runs": int(known.sum())})
            continue
        chosen = [each for each, is_known in zip(group.configurations, known, strict=True) if is_known]
        of, rest, target = _scaled(values[known][:, None]), _scaled(given[known]), gap[known]
        found.append(
            {
                "measure": name,
                "runs": int(known.sum()),
                "tau": float(kendalltau(values[known], target).statistic),
                "granulated": granulated(values[known], target, chosen),
                "partial": partial(values[known], target, given[known]),
                "r2": score(target, fit(of, target).left_out).r2,
                "r2_given": score(target, fit(rest, target).left_out).r2,
                "r2_both": score(target, fit(np.hstack([rest, of]), target).left_out).r2,
            }
        )
    return found


def granulated(values: np.ndarray, gap: np.ndarray, configurations: Sequence[Configuration]) -> float | None:
    """Return the mean over settings of the mean τ within runs that share that setting."""
    rates = np.array([each.rate for each in configurations])
    thirds = np.searchsorted(np.quantile(rates, (1 / 3, 2 / 3)), rates)
    settings: dict[str, list[Any]] = {
        name: [getattr(each, name) for each in configurations]
        for name in ("optimiser", "batch", "decay", "width", "noise")
    } | {"rate": thirds.tolist()}
    means = []
    for shared in settings.values():
        inside = [np.array([one == value for one in shared]) for value in sorted(set(shared))]
        found = [kendalltau(values[of], gap[of]).statistic for of in inside if of.sum() >= LEAST_STRATUM]
        told = [tau for tau in found if np.isfinite(tau)]
        if told:
            means.append(float(np.mean(told)))
    return float(np.mean(means)) if means else None


def partial(values: np.ndarray, gap: np.ndarray, given: np.ndarray) -> float:
    """Return the partial Spearman correlation of a measure and the gap, given n × k others: of the rests of ranks."""
    ranks = np.column_stack([np.ones(len(gap)), *(rankdata(column) for column in given.T)])

    def rest(of: np.ndarray) -> np.ndarray:
        ranked = rankdata(of)
        left: np.ndarray = ranked - ranks @ np.linalg.lstsq(ranks, ranked, rcond=None)[0]
        return left

    return float(np.corrcoef(rest(values), rest(gap))[0, 1])


def _measure(
    group: Group,
    kept: Mapping[str, Mapping[str, Any]],
    shapes: Mapping[tuple[str, str], Mapping[str, float]],
    name: str,
) -> np.ndarray:
    if name == SLICES:
        return np.array([slice_persistence(kept[run.run]["slice"]) for run in group.runs])
    if name in SHAPES:
        values = np.array([shapes[group.name, run.run][SHAPES[name]] for run in group.runs])
    else:
        values = _at_end(group, FEATURES[name])
    return np.log(np.where(values > 0, values, np.nan))


def _given(group: Group) -> np.ndarray:
    """Logarithms of what the measures may only stand for, n × 5."""
    columns = [
        np.array([each.rate for each in group.configurations]),
        np.array([each.batch for each in group.configurations], dtype=np.float64),
        *(_at_end(group, name) for name in ("path_length", "weight_norm", "loss")),
    ]
    values = np.column_stack(columns)
    logarithms: np.ndarray = np.log(np.where(values > 0, values, np.nan))
    return logarithms


def _at_end(group: Group, feature: str) -> np.ndarray:
    return np.array([run.milestones[-1].features[NAMES.index(feature)] for run in group.runs])


def _scaled(columns: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (columns - columns.mean(axis=0)) / np.maximum(columns.std(axis=0), 1e-12)
    return scaled
