"""The front's side of the engine: starts the host, restarts it when it ends or falls silent, passes reports on."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import time
from typing import IO, TYPE_CHECKING, Any, Protocol

from topowatch_monitor.engine.session import kill_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from topowatch_monitor.engine.look import Subject
    from topowatch_monitor.engine.loop import EngineReport
    from topowatch_monitor.engine.settings import HostSettings

log = logging.getLogger("topowatch.engine")

GATHER_SECONDS = 0.1  # of samples, before the host hears of them: a call of an actor costs as much as several
SILENCE_SECONDS = 180.0  # starting Ray and loading snapshots included
SHORT_LIFE_SECONDS = 30.0  # of a host that could not start, or met the same trouble at once again
FAREWELL_SECONDS = 20.0  # the host saves its shards first; deploy/ gives a daemon 60 s in all, Kubernetes by itself 30
BACKOFF_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 15.0)
# A cluster that was joined comes back when it does, and the host itself waits for it: to try again costs little.
JOINED_BACKOFF_SECONDS = (0.0, 1.0, 2.0)
STARTING = "the engine is being started"
REPORT_BYTES = 256 << 20  # longest line: views of all runs after a restart


class Engine(Protocol):
    """What the daemon needs of an engine, wherever it runs."""

    restarts: int  # times that the engine as a whole was started anew
    carriers: int  # shards at work
    trouble: str  # why results come late or not at all, in a sentence; empty if they do not

    def advance(self, durable: int) -> None:
        """The log is on disk below this offset; called from any thread."""

    def look(self, subject: Subject) -> None:
        """Somebody looks at a run or a group: report a close-up of it, as soon as there is time; in the event loop."""

    async def run(self) -> None:
        """Keep the engine going until cancelled, then end it in good order."""


class HostedEngine:
    """The engine as a supervised child process on Ray.

    Args:
        settings: passed on to the host.
        journal: file that takes what the host and Ray print.
        on_report: called in the event loop with each report.
    """

    def __init__(self, settings: HostSettings, journal: Path, on_report: Callable[[EngineReport], None]) -> None:
        self._settings = settings
        self._journal = journal
        self._on_report = on_report
        self._durable = 0
        self._writer: asyncio.StreamWriter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._telling: asyncio.TimerHandle | None = None
        self.restarts = self.carriers = 0
        self.trouble = STARTING

    def advance(self, durable: int) -> None:
        """The log is on disk below this offset; called from any thread."""
        self._durable = durable
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell_soon)

    def look(self, subject: Subject) -> None:
        """Ask the host for a close-up; of one that is not up, nothing comes."""
        self._send({"look": list(subject)})

    async def run(self) -> None:
        """Keep a host running; after a short life the next one waits a little longer."""
        self._loop = asyncio.get_running_loop()
        failures = 0
        backoff = BACKOFF_SECONDS if self._settings.ray_address is None else JOINED_BACKOFF_SECONDS
        while True:
            started = time.monotonic()
            try:
                code = await self._one_life()
            except Exception:  # whatever the engine does or says, ingest goes on
                log.exception("the engine's host failed in a way that was not foreseen")
                code = None
            failures = 1 if time.monotonic() - started > SHORT_LIFE_SECONDS else failures + 1
            pause = backoff[min(failures, len(backoff)) - 1]
            self.restarts += 1
            self.carriers = 0
            self.trouble = self.trouble or STARTING
            log.warning(
                "the engine ended (exit %s); starting it again in %g s. Its journal: %s", code, pause, self._journal
            )
            await asyncio.sleep(pause)

    async def _one_life(self) -> int | None:
        """Start a host and follow it to its end; returns its exit code."""
        ours, theirs = socket.socketpair()
        with theirs, self._open_journal() as journal:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "topowatch_monitor.engine.host", str(theirs.fileno()), self._settings.to_json(),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL, stdout=journal, stderr=journal,
                start_new_session=True,  # Ctrl-C in the terminal is for the front, which ends the host in good order
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
            )  # fmt: skip
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=REPORT_BYTES)
        self._tell()
        try:
            await self._follow(reader)
        finally:
            self._writer.close()  # the host takes this as the request to end
            self._writer = None
            await asyncio.shield(self._end(process))
        return process.returncode

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        """Pass reports on until the host closes its end or says nothing for too long."""
        while True:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with a line.
            timer = asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._give_up)
            try:
                line = await reader.readline()
            except ConnectionError:  # it was killed with something of ours unread
                return
            finally:
                timer.cancel()
            if not line.endswith(b"\n"):
                return
            told = json.loads(line)
            self._note(told["trouble"])
            if "views" in told:
                self.carriers = told["carriers"]
                self._on_report(told)

    def _note(self, trouble: str) -> None:
        """Keep, and log where it is new, what troubles the engine."""
        if trouble not in ("", self.trouble):
            log.warning("the engine: %s", trouble)
        self.trouble = trouble

    def _give_up(self) -> None:
        """Close our end, which ends the following of theirs."""
        log.error("the engine has been silent for %g s: ending it", SILENCE_SECONDS)
        if self._writer is not None:
            self._writer.close()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the host to go, then kill what is left of its session."""
        try:
            await asyncio.wait_for(process.wait(), FAREWELL_SECONDS)
        except asyncio.TimeoutError:
            log.warning("the engine did not end within %g s: killing it", FAREWELL_SECONDS)
        kill_session(process.pid)
        await process.wait()

    def _tell_soon(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._send({"durable": self._durable})

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    def _open_journal(self) -> IO[bytes]:
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        if self._journal.exists() and self._journal.stat().st_size > 16 << 20:
            self._journal.replace(self._journal.with_suffix(".old"))
        return self._journal.open("ab")
