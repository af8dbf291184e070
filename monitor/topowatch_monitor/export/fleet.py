"""All runs in memory, as page, JSON and metrics show them: the engine's views merged with ingest's counts."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from topowatch_monitor.engine.view import FORGOTTEN, RunView, no_class, no_forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from topowatch_monitor.engine.forecast_view import GroupForecastView
    from topowatch_monitor.engine.group_view import GroupView
    from topowatch_monitor.engine.path_state import PathView

Key = tuple[str, str, str]  # tenant, group, run
GroupKey = tuple[str, str]  # tenant, group


@dataclass(frozen=True)
class IngestSummary:
    """What ingest knows of a run, which may be more recent than what the engine has analysed.

    Times are Unix seconds. `ended` is true while the newest life of the lowest rank is one that has ended.
    """

    tenant: str
    group: str
    run: str
    samples: int
    labels: Mapping[str, str] = field(default_factory=dict)
    rejected: int = 0
    dropped: int = 0
    step: int | None = None
    started_at: float | None = None
    last_received_at: float | None = None
    ended: bool = False


@dataclass(frozen=True)
class DaemonStats:
    """The daemon's own figures at one moment; counters count from its start."""

    ingest_ready: bool = True
    samples_total: int = 0
    rejected_total: Mapping[str, int] = field(default_factory=dict)  # by reason
    bytes_total: int = 0
    denied_total: Mapping[str, int] = field(default_factory=dict)  # by what they came over: grpc or http
    acks_total: Mapping[str, int] = field(default_factory=dict)  # by status
    ack_seconds_buckets: tuple[tuple[float, int], ...] = ()  # (upper bound, batches at or below it), the last bound inf
    ack_seconds_sum: float = 0.0
    shard_lag_samples: int = 0
    shards: int = 0  # that carry runs
    shards_wanted: int = 0
    shard_restarts_total: int = 0
    log_bytes: int = 0
    disk_free_bytes: int | None = None  # of the data directory's file system; None where it does not answer
    disk_size_bytes: int | None = None
    certificate_ends_at: float | None = None  # Unix time; None without TLS
    records_lost_total: int = 0  # of the log: could not be read, decoded or analysed
    homology_timeouts_total: int = 0  # computations that took too long and were dropped
    homology_refused_total: int = 0  # computations that were too large to be begun


class FleetRun(RunView):
    """A run as the daemon tells it: the engine's view, with ingest's counts and the clock.

    Attributes:
        analysed: samples that are in the view; `samples` counts those stored.
        verdict: see `verdict`.
    """

    analysed: int
    verdict: str


class RunNotFoundError(LookupError):
    """No run of that name (in that group)."""


class AmbiguousRunError(LookupError):
    """Several groups, or groups of that name of several tenants, have a run of that name.

    Attributes:
        asked: what would tell them apart: group or tenant.
        names: that it may have.
    """

    def __init__(self, run: str, keys: list[Key]) -> None:
        groups = sorted({key[1] for key in keys})
        self.asked = "group" if len(groups) > 1 else "tenant"
        self.names = groups if len(groups) > 1 else sorted({key[0] for key in keys})
        where = ", ".join(self.names)
        super().__init__(f"run {run!r} exists in {len(self.names)} {self.asked}s: {where}; name one of them")


class GroupNotFoundError(LookupError):
    """No run has named that group (of that tenant)."""


class AmbiguousGroupError(LookupError):
    """Several tenants have a group of that name; `tenants` are theirs."""

    def __init__(self, group: str, tenants: list[str]) -> None:
        named = ", ".join(map(repr, tenants))
        super().__init__(f"group {group!r} exists for {len(tenants)} tenants: {named}; name one of them")
        self.tenants = tenants


def verdict(run: RunView) -> str:
    """Sum a run up in one word: unstable, lost, warning, starting or healthy; the first that holds.

    A run whose path is outside its siblings' classes is worth a look, so it is at least `warning`.
    """
    severities = {flag["severity"] for flag in run["flags"]}
    if run["minimum_unstable"] or "critical" in severities:
        return "unstable"
    if run["state"] == "lost":
        return "lost"
    if severities or run["path_class"]["outlier"]:
        return "warning"
    return "healthy" if run["step"] is not None else "starting"


class Fleet:
    """Latest view and ingest summary of every run, latest view of every group. Safe to use from several threads.

    Args:
        at: what a view says at a Unix time: adds what depends on the clock (stalled, lost).
        lost_seconds: silence after which `at` calls a live run lost.
        ended_series_seconds: how long runs that ended or were lost stay in `exported`.
    """

    def __init__(
        self,
        at: Callable[[RunView, float], RunView],
        *,
        lost_seconds: float = 900.0,
        ended_series_seconds: float = 300.0,
    ) -> None:
        self._at = at
        self._grace = {"live": math.inf, "ended": ended_series_seconds, "lost": lost_seconds + ended_series_seconds}
        self._lock = threading.Lock()
        self._views: dict[Key, RunView] = {}
        self._summaries: dict[Key, IngestSummary] = {}
        self._groups: dict[GroupKey, GroupView] = {}
        self._forecasts: dict[GroupKey, GroupForecastView] = {}
        self.changes = 0  # views that the engine has told so far

    def of(self, tenant: str | None) -> Fleet:
        """Return what there is of one tenant now; all of it for None."""
        if tenant is None:
            return self
        theirs = Fleet(self._at)
        theirs._grace = self._grace
        with self._lock:
            theirs._views = {key: view for key, view in self._views.items() if key[0] == tenant}
            theirs._summaries = {key: summary for key, summary in self._summaries.items() if key[0] == tenant}
            theirs._groups = {key: view for key, view in self._groups.items() if key[0] == tenant}
            theirs._forecasts = {key: view for key, view in self._forecasts.items() if key[0] == tenant}
        return theirs

    def update(self, views: Iterable[RunView], *, behind: bool = False) -> None:
        """Take newer views from the engine.

        Args:
            views: of runs that changed.
            behind: whether the engine makes again what it told before: then views of earlier moments are no newer ones.
        """
        newer = {(view["tenant"], view["group"], view["run"]): view for view in views}
        with self._lock:
            if behind:
                newer = {key: view for key, view in newer.items() if not self._is_newer_than(key, view)}
            self._views.update(newer)
            self.changes += len(newer)
            for key in [key for key, view in newer.items() if view["state"] == FORGOTTEN]:
                self._forget(key)

    def update_ingest(self, summaries: Iterable[IngestSummary]) -> None:
        """Take newer summaries from ingest."""
        newer = {(summary.tenant, summary.group, summary.run): summary for summary in summaries}
        with self._lock:
            self._summaries.update(newer)

    def update_groups(self, views: Iterable[GroupView]) -> None:
        """Take newer views of groups from the engine."""
        newer = {(view["tenant"], view["group"]): view for view in views}
        with self._lock:
            self._groups.update(newer)
            self.changes += len(newer)

    def update_forecasts(self, views: Iterable[GroupForecastView]) -> None:
        """Take newer views of what can be forecast in groups from the engine."""
        newer = {(view["tenant"], view["group"]): view for view in views}
        with self._lock:
            self._forecasts.update(newer)
            self.changes += len(newer)

    def told(self) -> tuple[list[RunView], list[GroupView], list[GroupForecastView]]:
        """Return everything that the engine has told of runs, groups and what can be forecast in them."""
        with self._lock:
            return list(self._views.values()), list(self._groups.values()), list(self._forecasts.values())

    def forecasts(self) -> dict[GroupKey, GroupForecastView]:
        """Return what the engine has told of the forecasts of every group, by tenant and name."""
        with self._lock:
            return dict(self._forecasts)

    def groups(self, name: str | None = None) -> dict[GroupKey, GroupView]:
        """Return what the engine has told of every group (of that name), by tenant and name, in order."""
        with self._lock:
            found = sorted(self._groups.items(), key=lambda item: (item[0][1], item[0][0]))
        return {key: view for key, view in found if name in (None, key[1])}

    def group(self, name: str, now: float, tenant: str | None = None) -> tuple[GroupView, list[FleetRun]]:
        """Return a group's view and its runs as of `now`; a view that abstains where the engine has told none yet.

        Raises:
            GroupNotFoundError: no run is in such a group.
            AmbiguousGroupError: several tenants have one.
        """
        members = [run for run in self.runs(now, name) if tenant in (None, run["tenant"])]
        tenants = sorted({run["tenant"] for run in members})
        if not members:
            raise GroupNotFoundError(f"there is no group {name!r}" + (f" of tenant {tenant!r}" if tenant else ""))
        if len(tenants) > 1:
            raise AmbiguousGroupError(name, tenants)
        return self.groups(name).get((tenants[0], name)) or unfitted(members), members

    def runs(self, now: float, group: str | None = None) -> list[FleetRun]:
        """Every run (of a group) as of Unix time `now`, ordered by group and name."""
        with self._lock:
            views, summaries = dict(self._views), dict(self._summaries)
        keys = sorted(views.keys() | summaries.keys(), key=lambda key: (key[1], key[2], key[0]))
        return [
            self._merged(views.get(key), summaries.get(key), now) for key in keys if group is None or key[1] == group
        ]

    def run(self, name: str, now: float, group: str | None = None) -> FleetRun:
        """Return one run as of `now`; raises RunNotFoundError or AmbiguousRunError."""
        with self._lock:
            keys = self._views.keys() | self._summaries.keys()
            found = sorted(key for key in keys if key[2] == name and group in (None, key[1]))
            if not found:
                raise RunNotFoundError(f"there is no run {name!r}" + (f" in group {group!r}" if group else ""))
            if len(found) > 1:
                raise AmbiguousRunError(name, found)
            view, summary = self._views.get(found[0]), self._summaries.get(found[0])
        return self._merged(view, summary, now)

    def exported(self, now: float) -> list[FleetRun]:
        """Return the runs that have series in /metrics at `now`: live ones, and ended or lost ones for a while."""
        return [run for run in self.runs(now) if now - (run["last_received_at"] or now) <= self._grace[run["state"]]]

    def _is_newer_than(self, key: Key, view: RunView) -> bool:
        """Whether more of a run has been told than this view says."""
        known = self._views.get(key)
        return known is not None and view["state"] != FORGOTTEN and _extent(known) > _extent(view)

    def _forget(self, key: Key) -> None:
        """Let a run go, and its group with the last of its runs."""
        self._views.pop(key, None)
        self._summaries.pop(key, None)
        if not any(other[:2] == key[:2] for other in self._views.keys() | self._summaries.keys()):
            self._groups.pop(key[:2], None)
            self._forecasts.pop(key[:2], None)

    def _merged(self, view: RunView | None, summary: IngestSummary | None, now: float) -> FleetRun:
        """Put what ingest has seen since over what the engine has analysed, then apply the clock."""
        merged = view.copy() if view is not None else unseen(summary)
        analysed = merged["samples"]
        if summary is not None:
            # Either may be the fresher one: a summary is as old as the last look at ingest.
            merged["samples"] = max(analysed, summary.samples)
            merged["rejected"] = max(merged["rejected"], summary.rejected)
            merged["dropped"] = summary.dropped  # net of what came through or was reported twice
            if (summary.last_received_at or 0.0) > (merged["last_received_at"] or 0.0):
                merged["last_received_at"] = summary.last_received_at
                merged["state"] = "ended" if summary.ended else "live"
        seen = self._at(merged, now)
        return cast("FleetRun", seen | {"analysed": analysed, "verdict": verdict(seen)})


def _extent(view: RunView) -> tuple[float, int]:
    """How much of a run's records a view has seen: when the latest came, and how many samples they are."""
    return view["last_received_at"] or 0.0, view["samples"]


def unfitted(members: Sequence[RunView]) -> GroupView:
    """Return the view of a group whose classes the engine has told nothing of."""
    why = "the classes of this group have not been computed yet"
    return {
        "tenant": members[0]["tenant"],
        "group": members[0]["group"],
        "version": 0,
        "fitted_at": None,
        "ended": sum(run["state"] == "ended" for run in members),
        "live": sum(run["state"] == "live" for run in members),
        "abstained": True,
        "reason": why,
        "best_p": None,
        "explained": None,
        "resolution": None,
        "scale": None,
        "bars": [],
        "p_values": [],
        "classes": [],
        "runs": [],
        "merges": [],
        "outliers": [],
        "spread": {
            "metric": None,
            "within": None,
            "between": None,
            "p_value": None,
            "strata": [],
            "runs": 0,
            "verdict": "abstained",
            "reason": why,
        },
        "fits": 0,
        "timeouts": 0,
        "refused": 0,
    }


def unseen(summary: IngestSummary | None) -> RunView:
    """Return the view of a run that the engine has not looked at yet; everything in it that can be unknown is."""
    if summary is None:
        raise ValueError("a run has a view or a summary")
    why = "nothing of this run has been analysed yet"
    path: PathView = {
        "length": None,
        "h0_total_persistence": None,
        "h1_total_persistence": None,
        "dimension": None,
        "dimension_lower": None,
        "dimension_upper": None,
        "e_alpha": None,
        "magnitude": None,
        "betti_drift": None,
        "betti_drift_wasserstein": None,
        "points": 0,
        "resolution": None,
        "ignored": 0,
        "unbridged": 0,
    }
    return {
        "tenant": summary.tenant,
        "group": summary.group,
        "run": summary.run,
        "labels": dict(summary.labels),
        "incarnation": None,
        "step": None,
        "samples": 0,
        "superseded": 0,
        "incomplete": 0,
        "ranks": None,
        "dropped": 0,
        "rejected": 0,
        "state": "ended" if summary.ended else "live",
        "started_at": summary.started_at,
        "last_received_at": summary.last_received_at,
        "longest_pause": None,
        "results": None,
        "loss": None,
        "probe_loss": None,
        "scalars": {},
        "overhead_ratio": None,
        "interval": None,
        "coverage": None,
        "path": path,
        "representation": None,
        "loss_path": None,
        "critical_lr_ratio": None,
        "secant_curvature": None,
        "gradient_flow_consistency": None,
        "landscape": None,
        "flags": [],
        "events": [],
        "minimum_unstable": False,
        "instability_score": None,
        "path_class": no_class(why),
        "forecast": no_forecast(why),
    }
