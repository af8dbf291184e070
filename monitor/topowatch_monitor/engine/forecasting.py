"""What the forecasts learned from ended siblings say of the runs of a shard."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from topowatch_monitor.engine.features import curve_for, curves_of
from topowatch_monitor.engine.finished import LEVELS, at_level, features_at, level_of
from topowatch_monitor.engine.results import TARGET_LABEL, TOTAL_LABEL, number_of
from topowatch_monitor.engine.view import no_forecast
from topowatch_monitor.forecast import UnusableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from topowatch_monitor.engine.group_forecast import ForecastFit
    from topowatch_monitor.engine.milestones import Milestone
    from topowatch_monitor.engine.placing import GroupKey, Key
    from topowatch_monitor.engine.run_state import RunState
    from topowatch_monitor.engine.view import ForecastView, GapView
    from topowatch_monitor.forecast import Learned, Prediction

UNKNOWN_LENGTH = (
    "how many steps the run will take is not known, as its siblings differ: "
    f"tell it by attach(…, labels={{'{TOTAL_LABEL}': 5000}})"
)
ENDED = "it has ended"
TOO_EARLY = f"too early: the first forecast is made at a {LEVELS}th of the steps"
NO_SAMPLE = "it has sent no sample near the share of its steps that siblings are compared at"
NO_NUMBER = "what would be forecast is no finite number"
OTHER_PROBES = "its probes are not those of the runs that were learned from: what it says on them cannot be compared"
STRANGE = "it is unlike all runs that were learned from"


class _Made(NamedTuple):
    """A forecast, and what it rests on: as long as that is the same, so is the forecast."""

    fit: ForecastFit
    milestone: Milestone
    asked: tuple[float, int, float | None]  # steps, level, target
    view: ForecastView


class Forecasting:
    """What was learned by group, and the newest forecast of each run."""

    def __init__(self) -> None:
        self._fits: dict[GroupKey, ForecastFit] = {}
        self._made: dict[Key, _Made] = {}

    def publish(self, group: GroupKey, fit: ForecastFit) -> None:
        """Take over what was learned from a group."""
        self._fits[group] = fit

    def forget(self, key: Key) -> None:
        """Let a run go."""
        self._made.pop(key, None)

    def forget_group(self, group: GroupKey) -> None:
        """Let what was learned from a group go."""
        self._fits.pop(group, None)

    def view(self, run: RunState) -> ForecastView | None:
        """What is forecast of a run; None where nothing was learned from its group yet."""
        fit = self._fits.get(run.key[:2])
        if fit is None:
            return None
        if run.ended:
            self._made.pop(run.key, None)
            return no_forecast(ENDED)
        return no_forecast(fit.reason) if fit.metric is None else self._of_live(run, fit)

    def _of_live(self, run: RunState, fit: ForecastFit) -> ForecastView:
        steps = total_steps(run) or fit.steps
        if steps is None:
            return no_forecast(UNKNOWN_LENGTH)
        level = 0 if run.step is None else level_of(run.step, steps)
        if level == 0:
            return no_forecast(TOO_EARLY, early=True)
        milestone = at_level(run.told.milestones.known, steps, level)
        if milestone is None:
            return no_forecast(NO_SAMPLE)
        asked = steps, level, number_of(run.told.labels, TARGET_LABEL)
        made = self._made.get(run.key)
        if made is None or made.fit is not fit or made.milestone is not milestone or made.asked != asked:
            curve = None if fit.metric is None else curve_for(curves_of(run.history, [fit.metric]), fit.metric)
            digest = run.told.probed.digest.hex()
            raw = features_at(milestone, fit.siblings, digest=digest, curve=curve, steps=steps)
            view = forecast(fit, raw, digest=digest, step=milestone.step, level=level, target=asked[2])
            made = self._made[run.key] = _Made(fit, milestone, asked, view)
        return made.view


def total_steps(run: RunState) -> float | None:
    """How many steps a run says that it will take, by its label; None where it does not say so."""
    told = number_of(run.told.labels, TOTAL_LABEL)
    return told if told is not None and told >= 1 else None


def forecast(
    fit: ForecastFit,
    raw: NDArray[np.float64],
    *,
    digest: str,
    step: int,
    level: int,
    target: float | None = None,
) -> ForecastView:
    """Forecast a run.

    Args:
        fit: what was learned from its siblings.
        raw: its F features by `forecast.FEATURES`, NaN where unknown; see `features_at`.
        digest: of its probe set, in hex; empty without one.
        step: at whose end they are of.
        level: sixteenths of its steps, the first of which is 1.
        target: that it is to reach.
    """
    held = fit.of_metric.levels[level - 1]
    if held.learned is None:
        return no_forecast(held.reason)
    # Confidence on other inputs says nothing of the result, and no distance of features shows that (measured).
    if 2 * len(fit.siblings.runs) > len(fit.of_metric.results) and digest != fit.siblings.digest:
        return no_forecast(OTHER_PROBES)
    try:
        found = held.learned.predict(raw)
    except UnusableError as error:
        return no_forecast(str(error))
    if not found.strangeness <= 1:
        return no_forecast(f"{STRANGE} ({found.strangeness:.2g} times what is least alike among them)")
    if not all(map(math.isfinite, (found.value, found.lower, found.upper))):
        return no_forecast(NO_NUMBER)
    return {
        "metric": fit.metric,
        "value": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "gap": None if fit.of_gap is None else _gap(fit.of_gap.levels[level - 1].learned, raw),
        "drivers": held.learned.drivers(raw),
        "others": len(fit.others),
        "target": target,
        "misses_target": None if target is None else _misses(found, target, higher=fit.higher_is_better),
        "step": step,
        "early": False,
        "abstained": False,
        "reason": "",
    }


def _misses(found: Prediction, target: float, *, higher: bool) -> bool:
    return found.upper < target if higher else found.lower > target


def _gap(learned: Learned | None, raw: NDArray[np.float64]) -> GapView | None:
    if learned is None:
        return None
    try:
        found = learned.predict(raw)
    except UnusableError:
        return None
    told = found.strangeness <= 1 and all(map(math.isfinite, found))
    return {"value": found.value, "lower": found.lower, "upper": found.upper} if told else None
