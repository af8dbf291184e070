"""Keeps what can be forecast in each group up to date: one job at a time beside the shards, never waited for."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from topowatch_monitor.engine.forecast_view import forecast_view
from topowatch_monitor.engine.group_forecast import MIN_RUNS, fit_forecasts, length_of, nothing
from topowatch_monitor.engine.group_prior import LEAST_GROUPS, MOST_GROUPS, fit_prior
from topowatch_monitor.engine.group_prior import MOST_RUNS as RUNS_OF_ALL
from topowatch_monitor.engine.pool import JobFailedError, JobLostError
from topowatch_monitor.engine.results import GAP
from topowatch_monitor.engine.view import FORGOTTEN, NO_LIVE_RUN
from topowatch_monitor.forecast.regressor import MOST_RUNS as RUNS_OF_A_GROUP

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
SHARE = 20.0
ALL = ""  # no group is called that: in its place, what the groups of a tenant teach together

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


@dataclass
class _Group:
    """What is known of a group.

    Attributes:
        ended: samples and steps of each ended run that has a result.
        results: names of results that runs of it have.
        runs: names of all its runs.
        live: names of live runs.
        metric: that was learned from its own ended runs; None where nothing was.
    """

    ended: dict[str, tuple[int, int]] = field(default_factory=dict)
    results: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)
    metric: str | None = None


class Forecasts:
    """Learns anew from a group after runs of it have ended, and hands on what comes of it.

    What groups of a tenant teach about those that have too few ended runs is learned once for all of these.

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
        self._groups: dict[GroupKey, _Group] = {}
        self._priors: dict[str, ForecastFit] = {}  # by tenant
        self._wanting: dict[GroupKey, float] = {}  # not before when, in the order in which they came to want it
        self._rests: dict[GroupKey, float] = {}  # not before when, after something was learned
        self._failures: dict[GroupKey, int] = {}
        self._learning: _Learning | None = None
        self._newest: dict[Key, int] = {}  # step of the newest forecast of each run
        self._made: list[NewForecast] = []
        self._untold: dict[GroupKey, GroupForecastView] = {}

    def see(self, views: Iterable[RunView]) -> None:
        """Take in the views of runs that changed."""
        for view in views:
            key, run = (view["tenant"], view["group"]), view["run"]
            group = self._groups.setdefault(key, _Group())
            results = view["results"] if view["state"] == "ended" else None
            counted = (view["samples"], (view["step"] or 0) + 1) if results else None
            if group.ended.get(run) != counted:
                if counted is None:
                    del group.ended[run]
                else:
                    group.ended[run] = counted
                    group.results |= set(results or ())
                self._wanting.setdefault(key, 0.0)
            had = bool(group.live)
            (group.live.add if view["state"] == "live" else group.live.discard)(run)
            if group.live and not had:
                self._wanting.setdefault(key, 0.0)
            elif had and not group.live:
                self._dispatcher.publish_forecast(key, nothing(NO_LIVE_RUN))  # what was learned may be large
            if view["state"] == FORGOTTEN:
                self._newest.pop((*key, run), None)
                group.runs.discard(run)
                if not group.runs:
                    self._forget(key)
            else:
                group.runs.add(run)
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
        if not caught_up:
            return
        for group, since in list(self._wanting.items()):
            if group[1] != ALL and len(self._groups[group].ended) < MIN_RUNS and now >= since:
                del self._wanting[group]  # there is no need of a job
                self._tell(group, self._of_others(group))
        if self._learning is None:
            due = (group for group, since in self._wanting.items() if now >= max(since, self._rests.get(group, 0.0)))
            if (chosen := next(due, None)) is not None:
                del self._wanting[chosen]
                self._begin(chosen, now)

    def close(self) -> None:
        """End what is under way."""
        if self._learning is not None:
            self._pool.cancel(self._learning.job)
            self._learning = None

    def _forget(self, key: GroupKey) -> None:
        """Let a group go that has no run any more, and with a tenant's last one what its groups taught together."""
        if self._learning is not None and self._learning.group == key:
            self.close()
        for known in (self._groups, self._wanting, self._rests, self._failures, self._untold):
            known.pop(key, None)
        if key[1] != ALL and not any(tenant == key[0] for tenant, _ in self._groups):
            self._priors.pop(key[0], None)
            self._forget((key[0], ALL))

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
        learn, asked = self._learn, [(group, RUNS_OF_A_GROUP)]
        if group[1] == ALL:
            learn, teachers = self._learn_prior, self._teachers(group[0])
            asked = [(key, RUNS_OF_ALL // len(teachers)) for key in teachers]
        try:
            calls = [call for key, most in asked for call in self._dispatcher.ask("finished_runs", key, most)]
            job = self._pool.submit(learn, *calls)
        except JobLostError as error:
            self._fail(group, now, str(error))
        else:
            self._learning = _Learning(group, job, now, now + self._settings.timeout_seconds)

    def _teachers(self, tenant: str) -> list[GroupKey]:
        """Groups of a tenant that new ones may learn from: the largest of those whose metric is that of most."""
        metrics = {key: group.metric for key, group in self._groups.items() if key[0] == tenant and group.metric}
        commonest = max(sorted(metrics.values()), key=list(metrics.values()).count, default=None)
        alike = [key for key, metric in metrics.items() if metric == commonest]
        return sorted(alike, key=lambda key: (-len(self._groups[key].ended), key))[:MOST_GROUPS]

    def _of_others(self, key: GroupKey) -> ForecastFit:
        """What other groups teach about one, or why they do not."""
        group, prior = self._groups[key], self._priors.get(key[0])
        few = f"{len(group.ended)} runs have ended with a result: forecasts need at least {MIN_RUNS}"
        if prior is None:
            return nothing(few)
        if prior.metric is None:
            return nothing(f"{few}; {prior.reason}")
        if group.results and prior.metric not in group.results:
            return nothing(f"{few}; other groups tell {prior.metric}, its own runs {', '.join(sorted(group.results))}")
        return (
            prior._replace(steps=length_of([steps for _, steps in group.ended.values()]))
            if group.live
            else nothing(NO_LIVE_RUN)
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
            rest = SHARE * (now - learning.began)
            self._rests[learning.group] = now + max(self._settings.atlas_seconds, rest)
            if learning.group[1] == ALL:
                self._take_prior(learning.group[0], fit)
            else:
                self._take_own(learning.group, fit)

    def _take_own(self, key: GroupKey, fit: ForecastFit) -> None:
        self._groups[key].metric = fit.metric
        if fit.metric is not None:
            self._tell(key, fit)
            if len(self._teachers(key[0])) >= LEAST_GROUPS:
                self._wanting.setdefault((key[0], ALL), 0.0)
            return
        others = self._of_others(key)
        self._tell(key, others if others.metric is not None else fit)

    def _take_prior(self, tenant: str, fit: ForecastFit) -> None:
        self._priors[tenant] = fit
        for key, group in self._groups.items():
            if key[0] == tenant and group.live and group.metric is None:
                self._tell(key, self._of_others(key))

    def _tell(self, key: GroupKey, fit: ForecastFit) -> None:
        self._untold[key] = forecast_view(key, fit)
        self._dispatcher.publish_forecast(key, fit if self._groups[key].live else nothing(NO_LIVE_RUN))

    def _fail(self, group: GroupKey, now: float, trouble: str) -> None:
        """Tell what went wrong, and try again after a while that doubles every time."""
        failures = self._failures.get(group, 0)
        pause = self._settings.pause_after(failures)
        self._failures[group] = failures + 1
        self._wanting[group] = now + pause
        log.warning("group %s: nothing was learned for forecasts: %s; again in %g s", "/".join(group), trouble, pause)
