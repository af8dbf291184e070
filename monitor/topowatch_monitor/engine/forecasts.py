"""Keeps what can be forecast in each group up to date: one job at a time beside the shards, never waited for."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from topowatch_monitor.engine.forecast_view import forecast_view
from topowatch_monitor.engine.group_forecast import MIN_RUNS, fit_forecasts, nothing
from topowatch_monitor.engine.group_prior import LEAST_GROUPS, MOST_GROUPS, MOST_RUNS, fit_prior
from topowatch_monitor.engine.pool import JobFailedError, JobLostError
from topowatch_monitor.engine.results import GAP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from topowatch_monitor.engine.dispatcher import Dispatcher
    from topowatch_monitor.engine.forecast_view import GroupForecastView
    from topowatch_monitor.engine.group_forecast import ForecastFit
    from topowatch_monitor.engine.groups import GroupSettings
    from topowatch_monitor.engine.placing import GroupKey, Key
    from topowatch_monitor.engine.pool import Job, ShardPool
    from topowatch_monitor.engine.view import RunView

# How long a group rests after something was learned from it, in times of what that took: each costs at most a twentieth
# of a core, however many runs of it end.
REST = 20.0

log = logging.getLogger("topowatch.engine")


class NewForecast(TypedDict):
    """A forecast that was made, for the log."""

    tenant: str
    group: str
    run: str
    step: int
    metric: str
    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class _Learning:
    group: GroupKey
    job: Job
    began: float
    deadline: float


class Forecasts:
    """Learns anew from a group after runs of it have ended, and hands on what comes of it.

    Args:
        dispatcher: of the shards.
        pool: where jobs run.
        settings: how often, and how long a job may take.
        learn: the job; see `fit_forecasts`.
        learn_prior: the job for groups with too few ended runs; see `fit_prior`.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        pool: ShardPool,
        *,
        settings: GroupSettings,
        learn: Callable[..., ForecastFit] = fit_forecasts,
        learn_prior: Callable[..., ForecastFit] = fit_prior,
    ) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._settings = settings
        self._learn, self._learn_prior = learn, learn_prior
        self._ended: dict[GroupKey, dict[str, int]] = {}  # samples of each ended run that has a result
        self._live: dict[GroupKey, set[str]] = {}
        self._wanting: dict[GroupKey, float] = {}  # not before when, in the order in which they came to want it
        self._rich: set[GroupKey] = set()  # groups that are learned from by themselves
        self._rests: dict[GroupKey, float] = {}  # not before when, after something was learned
        self._failures: dict[GroupKey, int] = {}
        self._learning: _Learning | None = None
        self._newest: dict[Key, int] = {}  # step of the newest forecast of each run
        self._made: list[NewForecast] = []
        self._untold: dict[GroupKey, GroupForecastView] = {}

    def see(self, views: Iterable[RunView]) -> None:
        """Take in the views of runs that changed."""
        for view in views:
            key = view["tenant"], view["group"]
            ended, live = self._ended.setdefault(key, {}), self._live.setdefault(key, set())
            if view["state"] == "live" and not live:
                self._wanting.setdefault(key, 0.0)
            (live.add if view["state"] == "live" else live.discard)(view["run"])
            counted = view["samples"] if view["state"] == "ended" and view["results"] else None
            if ended.get(view["run"]) != counted:
                if counted is None:
                    del ended[view["run"]]
                else:
                    ended[view["run"]] = counted
                self._wanting.setdefault(key, 0.0)
            self._note(view)

    def take_made(self) -> list[NewForecast]:
        """The forecasts that were made since the last call."""
        made, self._made = self._made, []
        return made

    def take_views(self) -> list[GroupForecastView]:
        """Newest views of the groups that something was learned from since the last call."""
        views, self._untold = list(self._untold.values()), {}
        return views

    def tick(self, now: float, *, caught_up: bool) -> None:
        """Do what is due.

        Args:
            now: seconds of the clock.
            caught_up: whether the shards are at the log's end, or near it; before, nothing is begun.
        """
        if self._learning is not None:
            self._watch(self._learning, now)
        if caught_up and self._learning is None:
            due = (group for group, since in self._wanting.items() if now >= max(since, self._rests.get(group, 0.0)))
            group = next(due, None)
            if group is not None:
                del self._wanting[group]
                self._begin(group, now)

    def close(self) -> None:
        """End what is under way."""
        if self._learning is not None:
            self._pool.cancel(self._learning.job)
            self._learning = None

    def _note(self, view: RunView) -> None:
        """Note a forecast that is of a later step than those before; after a rewind it may be of an earlier one."""
        told, key = view["forecast"], (view["tenant"], view["group"], view["run"])
        step = told["step"]
        newest = self._newest[key] = min(self._newest.get(key, -1), -1 if view["step"] is None else view["step"])
        if step is None or step <= newest:
            return
        self._newest[key] = step
        for metric, said in ((told["metric"], told), (GAP, told["gap"])):
            if metric is None or said is None:
                continue
            value, lower, upper = said["value"], said["lower"], said["upper"]
            if value is None or lower is None or upper is None:
                continue
            self._made.append(NewForecast(
                tenant=key[0], group=key[1], run=key[2], step=step, metric=metric, value=value, lower=lower, upper=upper
            ))  # fmt: skip

    def _begin(self, group: GroupKey, now: float) -> None:
        learned_from = self._call(group)
        if isinstance(learned_from, str):  # no need of a job to say so
            self._tell(group, nothing(learned_from), now)
            return
        try:
            job = self._pool.submit(*learned_from())
        except JobLostError as error:
            self._fail(group, now, str(error))
        else:
            self._learning = _Learning(group, job, now, now + self._settings.timeout_seconds)

    def _call(self, group: GroupKey) -> Callable[[], tuple[Any, ...]] | str:
        """What learns about a group: from its own ended runs, else from other groups; or why nothing does."""
        ended = len(self._ended[group])
        if ended >= MIN_RUNS:
            return lambda: (self._learn, *self._dispatcher.ask("finished_runs", group))
        others = [key for key, runs in self._ended.items() if key[0] == group[0] and len(runs) >= MIN_RUNS]
        if len(others) < LEAST_GROUPS or not self._live[group]:
            return f"{ended} runs have ended with a result: forecasts need at least {MIN_RUNS}"
        chosen = sorted(others, key=lambda key: (-len(self._ended[key]), key))[:MOST_GROUPS]
        most = MOST_RUNS // len(chosen)
        return lambda: (
            self._learn_prior,
            group[1],
            *(call for key in (group, *chosen) for call in self._dispatcher.ask("finished_runs", key, most)),
        )

    def _watch(self, learning: _Learning, now: float) -> None:
        if not self._pool.ended(learning.job):
            if now >= learning.deadline:
                self._learning = None
                self._pool.cancel(learning.job)
                self._fail(learning.group, now, f"it took over {self._settings.timeout_seconds:g} s and was dropped")
            return
        self._learning = None
        try:
            fit = self._pool.outcome(learning.job)
        except JobLostError as error:
            self._dispatcher.check()  # what died may have been a carrier that has nothing else to do
            self._fail(learning.group, now, f"it was lost ({error})")
        except JobFailedError as error:
            self._fail(learning.group, now, f"it failed ({error}); this is a fault of topowatch")
        else:
            self._failures.pop(learning.group, None)
            self._rests[learning.group] = now + max(self._settings.atlas_seconds, REST * (now - learning.began))
            self._tell(learning.group, fit, now)

    def _tell(self, group: GroupKey, fit: ForecastFit, now: float) -> None:
        self._untold[group] = forecast_view(group, fit)
        self._dispatcher.publish_forecast(group, fit)
        if len(self._ended[group]) >= MIN_RUNS and group not in self._rich:
            self._rich.add(group)  # there is more that groups with few ended runs may learn from
            for poor in [key for key, live in self._live.items() if live and key not in self._rich]:
                self._wanting.setdefault(poor, now + self._settings.atlas_seconds)

    def _fail(self, group: GroupKey, now: float, trouble: str) -> None:
        """Tell what went wrong, and try again after a while that doubles every time."""
        failures = self._failures.get(group, 0)
        pause = self._settings.pause_after(failures)
        self._failures[group] = failures + 1
        self._wanting[group] = now + pause
        log.warning("group %s: nothing was learned for forecasts: %s; again in %g s", "/".join(group), trouble, pause)
