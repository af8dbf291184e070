"""What the engine told last, on disk: a daemon that is started again shows it until its engine is there again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from topowatch_monitor.engine.group_view import GroupView
from topowatch_monitor.engine.view import RunView

if TYPE_CHECKING:
    from collections.abc import Iterable

    from topowatch_monitor.engine.forecast_view import GroupForecastView
    from topowatch_monitor.export.fleet import Fleet
    from topowatch_monitor.store.snapshots import SnapshotStore

log = logging.getLogger("topowatch")

_ALL = 0  # there is one snapshot, of everything


class Recalled(NamedTuple):
    """Views as they were told when the engine had analysed the log below `offset`."""

    offset: int
    runs: list[RunView]
    groups: list[GroupView]
    forecasts: list[GroupForecastView]


class LastViews:
    """Keeps the views of a fleet; trouble with the disk costs a few seconds after a start, and no more.

    Args:
        store: where they lie.
        made_by: what makes views what they are: the daemon's version and its engine's settings. Those that another
            daemon has kept are left out.
    """

    def __init__(self, store: SnapshotStore, made_by: str) -> None:
        self._store = store
        fields = [*sorted(RunView.__annotations__), *sorted(GroupView.__annotations__)]
        self._mark = hashlib.sha256(json.dumps([made_by, fields]).encode()).hexdigest()
        self._one_at_a_time = threading.Lock()
        self._kept: tuple[int, int] | None = None
        self._trouble = False

    def keep(self, offset: int, fleet: Fleet) -> None:
        """Write down what a fleet shows, unless the engine has told nothing since; may run in any thread."""
        with self._one_at_a_time:
            told = offset, fleet.changes
            if told == self._kept:
                return
            runs, groups, forecasts = fleet.told()
            lines = [json.dumps({"mark": self._mark}), *_lines("run", runs), *_lines("group", groups)]
            try:
                self._store.save(_ALL, offset, "\n".join([*lines, *_lines("forecast", forecasts)]).encode())
            except OSError as error:
                if not self._trouble:
                    log.warning("what is shown cannot be kept (%s): a start would show nothing for a while", error)
                self._trouble = True
            else:
                self._kept, self._trouble = told, False

    async def keep_aside(self, offset: int, fleet: Fleet) -> None:
        """As `keep`, in a thread that the end of the process does not wait for: a disk may never answer."""
        loop = asyncio.get_running_loop()
        kept = asyncio.Event()

        def work() -> None:
            try:
                self.keep(offset, fleet)
            finally:
                with contextlib.suppress(RuntimeError):  # nobody waits any more
                    loop.call_soon_threadsafe(kept.set)

        threading.Thread(target=work, name="last-views", daemon=True).start()
        await kept.wait()

    def recall(self, durable: int) -> Recalled | None:
        """Return what was kept last; None if there is nothing that this daemon would say of its log.

        Args:
            durable: the log's end. Views from beyond it are of a log that lost its tail.
        """
        offset, kept = self._store.load(_ALL) or (0, b"")
        lines = kept.decode().splitlines()
        if offset > durable or not lines or json.loads(lines[0]) != {"mark": self._mark}:
            return None
        found: dict[str, list[Any]] = {"run": [], "group": [], "forecast": []}
        for line in lines[1:]:
            ((kind, view),) = json.loads(line).items()
            found[kind].append(view)
        return Recalled(offset, found["run"], found["group"], found["forecast"])


def _lines(kind: str, views: Iterable[object]) -> list[str]:
    """One line a view: other threads get their turn between two of them."""
    return [json.dumps({kind: view}) for view in views]
