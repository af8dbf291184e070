"""What the engine tells of a run, and what the clock adds to it when somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from topowatch_monitor.detect.catalogue import STALLED_RUN
from topowatch_monitor.detect.stalled_run import StalledRunThresholds, detect, is_lost
from topowatch_monitor.engine.terrain import TerrainView

if TYPE_CHECKING:
    from topowatch_monitor.engine.events import EventView
    from topowatch_monitor.engine.loss_path import LossPathView
    from topowatch_monitor.engine.path_state import PathView

# Why nothing is forecast in a group.
FORGOTTEN = "forgotten"
NO_LIVE_RUN = "none of its runs is live"


class Flag(TypedDict):
    """A detector that is on, since which step, and why."""

    detector: str
    severity: str
    since_step: int | None
    reason: str


class ClassView(TypedDict):
    """Where the run's path stands among its siblings.

    Attributes:
        label: name of the class; of a live run, that of the one class it is compatible with.
        p_value: smallest p-value of the bars that part the run from the majority, 1 if none does.
        outlier: whether the run is outside its siblings' classes, for as long as an alert needs.
        provisional: whether the run is live, so that all this may change.
        compatible: classes that a live run may still belong to.
        distance: of a live run's present point to the map of its siblings, in representation distance; 0 on the map.
        outside: refits in a row, each with new samples, at which the run was outside.
    """

    label: int | None
    p_value: float | None
    outlier: bool | None
    abstained: bool
    reason: str
    provisional: bool
    compatible: list[int]
    distance: float | None
    outside: int


class GapView(TypedDict):
    """By how much training will do better than held-out data, with a 90 % interval, in the unit of the metric."""

    value: float
    lower: float
    upper: float


class ForecastView(TypedDict):
    """How well the run will do.

    Attributes:
        metric: that is forecast.
        value: at the end of the run.
        lower: of the 90 % interval.
        upper: of it.
        gap: None where ended siblings have none, or nothing is forecast of it.
        drivers: by how much each family of features raises the value above that of a run where they are as usual, the
            largest effect first.
        others: how many other groups this was learned from, where its own has too few ended runs; else 0.
        target: that the run is to reach, as its label says.
        misses_target: whether the whole interval lies on the wrong side of it; None without a target or a forecast.
        step: at whose end the run was as the forecast sees it.
        early: whether the run has to go on for a while before anything can be forecast.
        reason: why nothing is forecast.
    """

    metric: str | None
    value: float | None
    lower: float | None
    upper: float | None
    gap: GapView | None
    drivers: dict[str, float]
    others: int
    target: float | None
    misses_target: bool | None
    step: int | None
    early: bool
    abstained: bool
    reason: str


class RanksView(TypedDict):
    """Which ranks of the job send what makes up the whole model.

    Attributes:
        contributing: how many there are; 1 unless the model is sharded.
        heard: how many of them have been heard of since the job began, or began again.
        missing: those of them that have stopped sending while others go on, ascending.
    """

    contributing: int
    heard: int
    missing: list[int]


class RunView(TerrainView):
    """Everything that is told of a run; None where nothing is known. Times are Unix seconds, floats may be NaN.

    Attributes:
        state: live or ended; `at` also says lost; FORGOTTEN in the last view that there is of a run.
        samples: stored samples of all ranks and incarnations.
        dropped: items that the client's full spool dropped.
        rejected: items refused by the daemon.
        superseded: stored samples that are not on the path, because a newer incarnation covered their step when they
            arrived.
        incomplete: steps of a sharded model without a point, although all ranks were to sample at them: a part never
            came or came too late.
        ranks: who sends; None before anyone was heard of.
        scalars: newest value by name.
        path: the path of the weights; `representation` that of the predictions on the probes, `loss_path` that of the
            probes' losses.
        longest_pause: seconds between samples, at most, lately.
        events: when flags went on and off, the newest last; not of the flag that `at` adds.
    """

    tenant: str
    group: str
    run: str
    labels: dict[str, str]
    incarnation: int | None
    step: int | None
    samples: int
    dropped: int
    rejected: int
    superseded: int
    incomplete: int
    ranks: RanksView | None
    state: str
    started_at: float | None
    last_received_at: float | None
    longest_pause: float | None
    results: dict[str, float] | None
    loss: float | None
    probe_loss: float | None
    scalars: dict[str, float]
    overhead_ratio: float | None
    interval: int | None
    coverage: float | None
    path: PathView
    representation: PathView | None
    loss_path: LossPathView | None
    flags: list[Flag]
    events: list[EventView]
    minimum_unstable: bool
    instability_score: float | None
    path_class: ClassView
    forecast: ForecastView


def no_class(reason: str) -> ClassView:
    """Say that the path's class is unknown, and why."""
    return {
        "label": None,
        "p_value": None,
        "outlier": None,
        "abstained": True,
        "reason": reason,
        "provisional": False,
        "compatible": [],
        "distance": None,
        "outside": 0,
    }


def no_forecast(reason: str, *, early: bool = False) -> ForecastView:
    """Say that nothing is forecast, or nothing yet, and why."""
    return {
        "metric": None,
        "value": None,
        "lower": None,
        "upper": None,
        "gap": None,
        "drivers": {},
        "others": 0,
        "target": None,
        "misses_target": None,
        "step": None,
        "early": early,
        "abstained": True,
        "reason": reason,
    }


def at(view: RunView, now: float, thresholds: StalledRunThresholds | None = None) -> RunView:
    """Add what depends on the clock: the state `lost`, and the flag of a stalled run.

    Args:
        view: what the engine said; it is not changed.
        now: Unix seconds.
        thresholds: when silence counts.
    """
    heard = view["last_received_at"]
    if view["state"] != "live" or heard is None:
        return view
    limits = thresholds or StalledRunThresholds()
    silence, pause = now - heard, view.get("longest_pause")
    seen = view.copy()
    if is_lost(silence, pause, limits):
        seen["state"] = "lost"
    reason = detect(silence, pause, limits)
    if reason is not None:
        stalled: Flag = {
            "detector": STALLED_RUN.name,
            "severity": STALLED_RUN.severity,
            "since_step": view["step"],
            "reason": reason,
        }
        seen["flags"] = [*view["flags"], stalled]
    return seen
