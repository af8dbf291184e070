"""The engine's main loop: follow the log as far as the front says it is durable, hand results back."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from topowatch_monitor.engine.ledger import CHUNK_RECORDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from topowatch_monitor.engine.forecast_view import GroupForecastView
    from topowatch_monitor.engine.forecasts import NewForecast
    from topowatch_monitor.engine.group_view import GroupView
    from topowatch_monitor.engine.look import CloseUp, Subject
    from topowatch_monitor.engine.parts import Parts
    from topowatch_monitor.engine.view import RunView

IDLE_SECONDS = 1.0


class EngineReport(TypedDict):
    """What the engine tells the front, at least once a second while it is well.

    Attributes:
        views: of the runs that changed.
        applied: every log record below this offset is part of them.
        carriers: that there are.
        trouble: what keeps them from carrying all that they should, in a sentence; empty if nothing does.
        restarts: carriers that were lost since the last report, and their runs made again.
        lost_records: log records that could not be read, decoded or taken in since the last report.
        groups: views of the groups that changed.
        group_forecasts: views of the groups that something was learned from.
        forecasts: that were made since the last report, to be kept in the log.
        close_ups: of what somebody looks at, since the last report.
        homology_timeouts: comparisons of a group's paths that took too long and were dropped, since the last report.
        homology_refused: those that were too large, since the last report.
    """

    views: list[RunView]
    applied: int
    carriers: int
    trouble: str
    restarts: int
    lost_records: int
    groups: list[GroupView]
    group_forecasts: list[GroupForecastView]
    forecasts: list[NewForecast]
    close_ups: list[CloseUp]
    homology_timeouts: int
    homology_refused: int


class _Counts(NamedTuple):
    """What a report tells the increase of."""

    restarts: int = 0
    lost_records: int = 0
    timeouts: int = 0
    refused: int = 0


class FrontLink(ABC):
    """The engine's end of its connection to the front; what comes from the front may come in any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._durable = 0
        self._closed = False
        self._wanted: list[Subject] = []

    @property
    def durable(self) -> int:
        """Log offset below which everything is on disk."""
        return self._durable

    @property
    def closed(self) -> bool:
        """Whether the front has gone or asked the engine to end."""
        return self._closed

    def wait(self, timeout: float) -> None:
        """Return when `durable` or `closed` changed or somebody looks, or after `timeout` seconds."""
        with self._changed:
            seen = self._durable
            self._changed.wait_for(lambda: self._closed or self._wanted or self._durable != seen, timeout)

    def advance(self, durable: int) -> None:
        """Take in that the log is on disk below `durable`."""
        with self._changed:
            self._durable = durable
            self._changed.notify_all()

    def look(self, subject: Subject) -> None:
        """Take in that somebody looks at a run or a group."""
        with self._changed:
            self._wanted.append(subject)
            self._changed.notify_all()

    def take_wanted(self) -> list[Subject]:
        """Return what somebody came to look at since the last call."""
        with self._changed:
            wanted, self._wanted = self._wanted, []
        return wanted

    def close(self) -> None:
        """Take in that the front has gone or wants the engine to end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @abstractmethod
    def report(self, report: EngineReport) -> None:
        """Send a report to the front."""


def run_engine(parts: Parts, link: FrontLink, clock: Callable[[], float]) -> None:
    """Restore the shards, then follow the log until the link closes; saves all shards at the end."""
    dispatcher, groups, forecasts, close_ups = parts
    found = link.durable  # what the log holds from before
    dispatcher.restore(found)
    groups.restore()
    reported_at = -IDLE_SECONDS
    told = _Counts()
    try:
        while not link.closed:
            moved = dispatcher.pump(link.durable) or dispatcher.wait(timeout=0.0)
            moved = dispatcher.tend() or moved
            dispatcher.save_due(clock())
            # What a whole group is asked about would be answered by a part of it while its runs are made again.
            caught_up = dispatcher.applied >= found and link.durable - dispatcher.position < CHUNK_RECORDS
            views, applied = dispatcher.take_views(), dispatcher.applied  # what follows may bring newer ones
            groups.see(views)
            forecasts.see(views)
            groups.tick(clock(), caught_up=caught_up)
            forecasts.tick(clock(), caught_up=caught_up)
            close_ups.want(link.take_wanted())
            close_ups.tick(clock(), caught_up=caught_up)
            changed, made, learned = groups.take_views(), forecasts.take_made(), forecasts.take_views()
            drawn = close_ups.take_answers()
            if views or changed or made or learned or drawn or clock() - reported_at >= IDLE_SECONDS:
                reported_at = clock()
                now = _Counts(dispatcher.restarts, dispatcher.lost_records, groups.timeouts, groups.refused)
                link.report(
                    {
                        "views": views,
                        "applied": applied,
                        "carriers": dispatcher.carriers,
                        "trouble": dispatcher.trouble,
                        "restarts": now.restarts - told.restarts,
                        "lost_records": now.lost_records - told.lost_records,
                        "groups": changed,
                        "group_forecasts": learned,
                        "forecasts": made,
                        "close_ups": drawn,
                        "homology_timeouts": now.timeouts - told.timeouts,
                        "homology_refused": now.refused - told.refused,
                    }
                )
                told = now
            if not moved and not dispatcher.wait(timeout=0.05):
                soon = close_ups.busy or dispatcher.applied < dispatcher.position
                link.wait(0.05 if soon else IDLE_SECONDS)
    finally:
        groups.close()
        forecasts.close()
        close_ups.close()
    dispatcher.settle()
    dispatcher.save()
