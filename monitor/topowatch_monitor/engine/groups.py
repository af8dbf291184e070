"""Keeps the classes of all groups up to date: refits in jobs beside the shards, evaluations of the runs that live."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.engine.codec import CodecError, decode, encode
from topowatch_monitor.engine.group_fit import Refused, fit_group
from topowatch_monitor.engine.group_state import GroupState
from topowatch_monitor.engine.pool import JobFailedError, JobLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from topowatch_monitor.engine.checkpoints import Checkpoints
    from topowatch_monitor.engine.dispatcher import Dispatcher
    from topowatch_monitor.engine.group_fit import GroupFit
    from topowatch_monitor.engine.group_view import GroupView
    from topowatch_monitor.engine.placing import GroupKey
    from topowatch_monitor.engine.pool import Job, ShardPool
    from topowatch_monitor.engine.view import RunView

log = logging.getLogger("topowatch.engine")

STATE = 1  # the version of what is saved
LOOK_SECONDS = 0.25  # between two looks at the groups
LONGEST_PAUSE = 3600.0  # between two attempts, in seconds, after many that failed
MOST_DOUBLINGS = 30  # of that pause; the longest is reached long before
# Points of all ended runs together that a refit looks at: 128 MiB as float32, half of Ray's object store.
MOST_POINTS = 1 << 15
LEAST_POINTS = 16  # of each run, however many there are


@dataclass(frozen=True)
class GroupSettings:
    """How often groups are looked at, and how long a refit may take, in seconds."""

    atlas_seconds: float = 60.0
    timeout_seconds: float = 120.0

    def pause_after(self, failures: int) -> float:
        """Seconds before the next attempt after so many in a row that failed before this one: it doubles every time."""
        return min(self.atlas_seconds * 2.0 ** min(failures, MOST_DOUBLINGS), LONGEST_PAUSE)


@dataclass(frozen=True)
class _Refit:
    """A refit that is under way, the ended runs that it looks at, and when it has taken too long."""

    group: GroupState
    job: Job
    tried: dict[str, int]
    deadline: float


class Groups:
    """Decides when a group is looked at, begins one refit at a time, and hands on what comes of it. Never waits for it.

    Args:
        dispatcher: of the shards.
        pool: where jobs run.
        checkpoints: where what has to outlive the engine is kept.
        settings: how often, and how long.
        wall: Unix seconds.
        fit: the job; see `fit_group`.

    Attributes:
        timeouts: refits so far that took too long and were dropped.
        refused: refits so far that were too large.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        pool: ShardPool,
        checkpoints: Checkpoints,
        *,
        settings: GroupSettings,
        wall: Callable[[], float],
        fit: Callable[..., GroupFit | Refused] = fit_group,
    ) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._checkpoints = checkpoints
        self._settings = settings
        self._wall = wall
        self._fit = fit
        self._groups: dict[GroupKey, GroupState] = {}
        self._changed: set[GroupKey] = set()
        self._due_at: dict[GroupKey, float] = {}  # the next evaluation
        self._retry_at: dict[GroupKey, float] = {}  # the next refit after one that failed
        self._wanting: dict[GroupKey, None] = {}  # a refit; in the order in which they came to want it
        self._refit: _Refit | None = None
        self._untold: set[GroupKey] = set()
        self._next_look_at = 0.0
        self.timeouts = self.refused = 0

    def restore(self) -> None:
        """Take over what was saved."""
        saved = self._checkpoints.load_groups()
        if saved is None:
            return
        try:
            self._groups = {group.key: group for group in _restored(saved)}
        except Exception as error:  # noqa: BLE001 - as in `Shard.load`
            log.warning(
                "what was saved of the groups cannot be used (%s: %s): their classes are named anew",
                type(error).__name__,
                error,
            )

    def see(self, views: Iterable[RunView]) -> None:
        """Take in the views of runs that changed."""
        for view in views:
            key = view["tenant"], view["group"]
            self._groups.setdefault(key, GroupState(key)).see(view)
            self._changed.add(key)

    def tick(self, now: float, *, caught_up: bool) -> None:
        """Do what is due.

        Args:
            now: seconds of the clock.
            caught_up: whether the shards are at the log's end, or near it; before, no refit is begun.
        """
        if now < self._next_look_at:
            return
        self._next_look_at = now + LOOK_SECONDS
        if caught_up:
            self._forget_empty()
        if self._refit is not None:
            self._watch(self._refit, now)
        due = [key for key in self._changed if now >= self._due_at.get(key, now)]
        evaluated = [self._evaluate(key, now) for key in due]
        if any(evaluated):
            self._save()
        if caught_up and self._refit is None:
            ready = (key for key in self._wanting if now >= self._retry_at.get(key, now))
            key = next(ready, None)
            if key is not None:
                self._begin(key, now)

    def take_views(self) -> list[GroupView]:
        """Newest views of the groups that changed since the last call and have a run."""
        views = [self._groups[key].view() for key in sorted(self._untold) if not self._groups[key].empty]
        self._untold.clear()
        return views

    def close(self) -> None:
        """End what is under way."""
        if self._refit is not None:
            self._pool.cancel(self._refit.job)
            self._refit = None

    def _forget_empty(self) -> None:
        """Let groups go that have no run any more, and all that was found of them."""
        gone = [key for key, group in self._groups.items() if group.empty]
        for key in gone:
            if self._refit is not None and self._refit.group.key == key:
                self.close()
            for known in (self._groups, self._due_at, self._retry_at, self._wanting):
                known.pop(key, None)
            self._changed.discard(key)
            self._untold.discard(key)
            self._dispatcher.forget_group(key)
        if gone:
            self._save()

    def _evaluate(self, key: GroupKey, now: float) -> bool:
        """Evaluate the live runs of a group; return whether there is something to be saved."""
        group = self._groups[key]
        self._changed.remove(key)
        self._untold.add(key)
        self._due_at[key] = now + self._settings.atlas_seconds
        if group.wants_refit:
            self._wanting[key] = None
        changed = group.evaluate()
        if changed and group.fit is not None:
            self._dispatcher.stand(key, group.outside)
        return changed

    def _begin(self, key: GroupKey, now: float) -> None:
        del self._wanting[key]
        group = self._groups[key]
        if not group.wants_refit:
            return
        tried = group.ended
        found = self._dispatcher.ask("ended_runs", key, max(LEAST_POINTS, MOST_POINTS // max(1, len(tried))))
        try:
            job = self._pool.submit(self._fit, dict(group.names), group.free, *found)
        except JobLostError as error:
            self._untold.add(key)
            self._fail(group, now, f"its latest comparison was lost ({error})")
        else:
            self._refit = _Refit(group, job, tried, now + self._settings.timeout_seconds)

    def _watch(self, refit: _Refit, now: float) -> None:
        """See what has become of a refit."""
        if not self._pool.ended(refit.job):
            if now >= refit.deadline:
                self._drop(refit, now)
            return
        self._refit = None
        self._untold.add(refit.group.key)
        try:
            outcome = self._pool.outcome(refit.job)
        except JobLostError as error:
            self._dispatcher.check()  # what died may have been a carrier that has nothing else to do
            self._fail(refit.group, now, f"its latest comparison was lost ({error})")
        except JobFailedError as error:
            self._fail(refit.group, now, f"its latest comparison failed ({error}); this is a fault of topowatch")
        else:
            self._take(refit, outcome, now)

    def _take(self, refit: _Refit, outcome: GroupFit | Refused, now: float) -> None:
        group = refit.group
        if isinstance(outcome, Refused):
            self.refused += 1
            group.refused += 1
            group.give_up(refit.tried)
            self._fail(group, now, f"its latest comparison was too large: {outcome.reason}")
            return
        self._retry_at.pop(group.key, None)
        group.take(outcome, refit.tried, self._wall())
        self._save()  # before anybody hears of the names
        self._dispatcher.publish(group.key, outcome, group.outside)

    def _drop(self, refit: _Refit, now: float) -> None:
        """End a refit that has taken too long."""
        self._refit = None
        self._untold.add(refit.group.key)
        self._pool.cancel(refit.job)
        self.timeouts += 1
        refit.group.timeouts += 1
        took = f"took over {self._settings.timeout_seconds:g} s and was dropped"
        self._fail(refit.group, now, f"its latest comparison {took}")

    def _fail(self, group: GroupState, now: float, trouble: str) -> None:
        """Tell what went wrong, and try again after a while that doubles every time."""
        pause = self._settings.pause_after(group.failures)
        group.failures += 1
        group.trouble = trouble
        self._retry_at[group.key] = now + pause
        if group.wants_refit:
            self._wanting[group.key] = None
        log.warning("group %s: %s; not before %g s from now, another one", "/".join(group.key), trouble, pause)
        self._save()

    def _save(self) -> None:
        state = {"state": STATE, "groups": [group.state_dict() for group in self._groups.values()]}
        self._checkpoints.save_groups(self._dispatcher.position, encode(state))


def _restored(data: bytes) -> list[GroupState]:
    """The groups that were saved; raises whatever is wrong with them."""
    saved = decode(data)
    if saved["state"] != STATE:
        raise CodecError(f"its version is {saved['state']}, this daemon's is {STATE}")
    return [GroupState.from_state(group) for group in saved["groups"]]
