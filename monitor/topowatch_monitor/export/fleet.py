"""All runs in memory, as the page, the JSON API and the collector see them: engine's views merged with ingest's counts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RunView = dict[str, Any]
Key = tuple[str, str, str]  # tenant, group, run


@dataclass(frozen=True)
class IngestSummary:
    """What ingest knows of a run, which may be more recent than what the engine has analysed.

    Times are Unix seconds. `ended` is true once every rank that was heard of has ended.
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
    ack_seconds_buckets: tuple[tuple[float, int], ...] = ()  # (upper bound, batches at or below it), the last bound inf
    ack_seconds_sum: float = 0.0
    shard_lag_samples: int = 0
    shard_restarts_total: int = 0
    log_bytes: int = 0
    series_dropped_total: int = 0


class RunNotFoundError(LookupError):
    """No run of that name (in that group)."""


class AmbiguousRunError(LookupError):
    """Several groups have a run of that name; `groups` are their names."""

    def __init__(self, run: str, groups: list[str]) -> None:
        super().__init__(f"run {run!r} exists in {len(groups)} groups: {', '.join(groups)}; name one of them")
        self.groups = groups


def verdict(run: Mapping[str, Any]) -> str:
    """Sum a run up in one word: unstable, lost, warning, starting or healthy; the first that holds."""
    severities = {flag["severity"] for flag in run["flags"]}
    if run["minimum_unstable"] or "critical" in severities:
        return "unstable"
    if run["state"] == "lost":
        return "lost"
    if severities:
        return "warning"
    return "healthy" if run["step"] is not None else "starting"


class Fleet:
    """Latest view and ingest summary of every run. Safe to use from several threads.

    Args:
        at: applies the clock to a view (stalled, lost).
        ended_series_seconds: how long runs that ended or were lost stay in `exported`.
    """

    def __init__(self, at: Callable[[RunView, float], RunView], *, ended_series_seconds: float = 300.0) -> None:
        self._at = at
        self._ended_series_seconds = ended_series_seconds
        self._lock = threading.Lock()
        self._views: dict[Key, RunView] = {}
        self._summaries: dict[Key, IngestSummary] = {}

    def update(self, views: Iterable[RunView]) -> None:
        """Take newer views from the engine."""
        newer = {(view["tenant"], view["group"], view["run"]): view for view in views}
        with self._lock:
            self._views.update(newer)

    def update_ingest(self, summaries: Iterable[IngestSummary]) -> None:
        """Take newer summaries from ingest."""
        newer = {(summary.tenant, summary.group, summary.run): summary for summary in summaries}
        with self._lock:
            self._summaries.update(newer)

    def runs(self, now: float, group: str | None = None) -> list[RunView]:
        """Every run (of a group) as of Unix time `now`, ordered by group and name."""
        with self._lock:
            views, summaries = dict(self._views), dict(self._summaries)
        keys = sorted(views.keys() | summaries.keys(), key=lambda key: (key[1], key[2], key[0]))
        return [
            self._merge(views.get(key), summaries.get(key), now) for key in keys if group is None or key[1] == group
        ]

    def run(self, name: str, now: float, group: str | None = None) -> RunView:
        """Return one run as of `now`; raises RunNotFoundError or AmbiguousRunError."""
        with self._lock:
            keys = self._views.keys() | self._summaries.keys()
            found = sorted(key for key in keys if key[2] == name and group in (None, key[1]))
            if not found:
                raise RunNotFoundError(f"no run {name!r}" + (f" in group {group!r}" if group is not None else ""))
            if len(found) > 1:
                raise AmbiguousRunError(name, [key[1] for key in found])
            view, summary = self._views.get(found[0]), self._summaries.get(found[0])
        return self._merge(view, summary, now)

    def exported(self, now: float) -> list[RunView]:
        """Return the runs that have series in /metrics at `now`: live ones, and others for a while."""
        return [
            run
            for run in self.runs(now)
            if run["state"] == "live" or now - (run["last_received_at"] or 0.0) <= self._grace(run)
        ]
