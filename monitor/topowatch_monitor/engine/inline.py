"""The engine within the daemon's own process, without Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from topowatch_monitor.engine.loop import FrontLink, run_engine
from topowatch_monitor.engine.parts import parts_of, run_settings
from topowatch_monitor.engine.pool import InlinePool
from topowatch_monitor.engine.shard import Shard
from topowatch_monitor.engine.supervisor import FAREWELL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from topowatch_monitor.engine.look import Subject
    from topowatch_monitor.engine.loop import EngineReport
    from topowatch_monitor.engine.settings import HostSettings
    from topowatch_monitor.store.disk import Disk


class InlineLink(FrontLink):
    """The connection within one process: a thread runs the engine, the front is called back with its reports."""

    def __init__(self, on_report: Callable[[EngineReport], None]) -> None:
        super().__init__()
        self._on_report = on_report

    def report(self, report: EngineReport) -> None:
        """Hand a report to the front."""
        self._on_report(report)


class InlineEngine:
    """The engine as a thread of the daemon.

    Args:
        settings: see `HostSettings`.
        disk: where the data directory is.
        on_report: called in the event loop with each report.
    """

    def __init__(self, settings: HostSettings, disk: Disk, on_report: Callable[[EngineReport], None]) -> None:
        self._parts = parts_of(settings, InlinePool(lambda: Shard(run_settings(settings))), disk)
        self._on_report = on_report
        self._loop: asyncio.AbstractEventLoop | None = None
        self.restarts = 0  # a thread that fails ends the daemon
        self.carriers = 1
        self.trouble = ""
        self._link = InlineLink(self._pass_on)

    def advance(self, durable: int) -> None:
        """The log is on disk below this offset; called from any thread."""
        self._link.advance(durable)

    def look(self, subject: Subject) -> None:
        """Ask the thread for a close-up."""
        self._link.look(subject)

    async def run(self) -> None:
        """Run the engine in a thread until cancelled; a failure in it ends the daemon with its traceback."""
        loop = self._loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def body() -> None:
            try:
                run_engine(self._parts, self._link, time.monotonic)
            except Exception as error:  # noqa: BLE001 - handed to the event loop, which raises it
                loop.call_soon_threadsafe(ended.set_exception, error)
            else:
                loop.call_soon_threadsafe(ended.set_result, None)

        thread = threading.Thread(target=body, name="engine", daemon=True)
        thread.start()
        try:
            await asyncio.shield(ended)
        finally:
            self._link.close()
            await asyncio.to_thread(thread.join, FAREWELL_SECONDS)

    def _pass_on(self, report: EngineReport) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._on_report, report)
