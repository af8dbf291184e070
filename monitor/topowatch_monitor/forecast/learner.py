"""Learns a target from features: of several ways to do so, the one that errs least on runs that are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from topowatch_monitor.forecast.regressor import Prediction, Regressor, all_same, fit
from topowatch_monitor.forecast.table import ENOUGH, KNOWN, NAMES, NO_FEATURE, TOPOLOGICAL, Table, UnusableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What a target may be learned as the rest of: where the metric is logged on the way, it ends near its newest values.
OFFSETS = (None, "curve_level", "curve_drawn")


class Learned(NamedTuple):
    """What was learned from n runs.

    Attributes:
        offset: name of the feature that the target was learned as the rest of; None: as it is.
        usual: mean of that feature over the runs; 0 without one.
        left_out: what the runs outside its block forecast of each run: n numbers in the unit of the target, NaN of a
            run of which too little was known to learn from it.
    """

    offset: str | None
    usual: float
    table: Table
    regressor: Regressor
    left_out: NDArray[np.float64]

    @property
    def topological(self) -> bool:
        """Whether topological features are used."""
        return not TOPOLOGICAL.isdisjoint(self.table.names)

    def predict(self, raw: NDArray[np.float64], level: float = 0.9) -> Prediction:
        """Forecast a run from its F features by `table.FEATURES`.

        Args:
            raw: NaN where unknown.
            level: of the interval, between 0 and 1.

        Raises:
            UnusableError: too few of them are known.
        """
        found = self.regressor.predict(self.table.row(raw), level)
        if self.offset is None:
            return found
        known = float(raw[NAMES.index(self.offset)])
        if not np.isfinite(known):
            raise UnusableError("it has not logged the metric that is forecast, as its siblings have")
        return Prediction(known + found.value, known + found.lower, known + found.upper, found.strangeness)

    def drivers(self, raw: NDArray[np.float64]) -> dict[str, float]:
        """By how much each family of features raises the forecast above what it would be, were they as usual.

        Args:
            raw: F features by `table.FEATURES`, of a run that something is forecast of.

        Returns:
            Effects in the unit of the target by family, the largest first; they need not add up.
        """
        row, families = self.table.row(raw), np.array(self.table.families)
        names = sorted(set(self.table.families))
        usual = np.array([np.where(families == name, 0.0, row) for name in names])
        effects = self.regressor.values(row[None]) - self.regressor.values(usual)
        if self.offset is not None:  # what the target lies above comes with the curve, too
            above = float(raw[NAMES.index(self.offset)]) - self.usual
            if "curve" not in names:
                names, effects = [*names, "curve"], np.append(effects, 0.0)
            effects[names.index("curve")] += above
        return {names[place]: float(effects[place]) for place in np.argsort(-np.abs(effects), kind="stable")}


def learn(
    raw: NDArray[np.float64],
    targets: NDArray[np.float64],
    without: frozenset[str] = frozenset(),
    blocks: NDArray[np.integer[Any]] | None = None,
) -> Learned:
    """Learn from finished runs: with topological features or without them, and as the rest of which offset.

    Args:
        raw: n × F features by `table.FEATURES`, NaN where unknown.
        targets: n finite numbers that are not all the same.
        without: names of features to leave out.
        blocks: n numbers, the same of runs that are left out together; None: each by itself.

    Raises:
        UnusableError: no feature is known of enough runs and differs among them.
    """
    left = (without,) if without >= TOPOLOGICAL else (without, without | TOPOLOGICAL)
    tables = [table for names in left if (table := _table(raw, names)) is not None]
    offsets = [offset for offset in OFFSETS if offset not in without]
    tried = [_learn(raw, targets, table, offset, blocks) for offset in offsets for table in tables]
    ways = [way for way in tried if way is not None]
    if not ways:
        raise UnusableError(NO_FEATURE)
    common = np.isfinite([way.left_out for way in ways]).all(axis=0)
    return min(ways, key=lambda way: float(((way.left_out - targets)[common] ** 2).sum()))


def _table(raw: NDArray[np.float64], without: frozenset[str]) -> Table | None:
    try:
        return Table(raw, without)
    except UnusableError:
        return None


def _learn(
    raw: NDArray[np.float64],
    targets: NDArray[np.float64],
    table: Table,
    offset: str | None,
    blocks: NDArray[np.integer[Any]] | None,
) -> Learned | None:
    """Learn in one way; None where too little is known of too many runs, or the offset leaves nothing over."""
    known = np.zeros(len(targets)) if offset is None else raw[:, NAMES.index(offset)]
    taught = np.isfinite(known) & (table.known >= ENOUGH)
    if taught.sum() < max(2, KNOWN * len(targets)) or all_same((targets - known)[taught]):
        return None
    regressor = fit(table.rows[taught], (targets - known)[taught], None if blocks is None else blocks[taught])
    left_out = np.full(len(targets), np.nan)
    left_out[taught] = known[taught] + regressor.left_out
    return Learned(offset, float(known[taught].mean()), table, regressor, left_out)
