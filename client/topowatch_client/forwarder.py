"""The forwarder: a process of its own, one a spool directory, that ships every writer's spool to the daemon.

Run as `python -m topowatch_client.forwarder SPOOL_DIR`. It outlives the job where the system lets it, starts a courier
for each writer that it finds, and goes when all is shipped and no writer is left. SIGTERM, which all of a job or pod
gets at once, leaves it `Plan.leave_seconds` for what the writers say last; SIGINT or a second SIGTERM ends it at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from topowatch_client import quarantine, spool
from topowatch_client.config import Config, ConfigError, load
from topowatch_client.courier import Courier
from topowatch_client.glances import Glances
from topowatch_client.spawn import SpoolLock
from topowatch_client.transport import Access

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SCAN_SECONDS = 1.0
_SCANS_SKIPPED = 4  # in a row, where no directory seems to have come or gone
_AT_ONCE = 64  # spools that jobs left which are gone; each takes files and a connection
_LOCKED_SECONDS = 1.0  # between two looks whether another forwarder has left
_UNFINISHED_SECONDS = 3600.0  # how old the rest of a process killed within attach() is when it is removed
_log = logging.getLogger("topowatch.forwarder")


@dataclass(frozen=True)
class Plan:
    """How long a forwarder stays and what it ships."""

    stay: bool = False  # never leave by itself; wait for another forwarder to do so
    grace_seconds: float = 10.0  # stay this long after everything is shipped, in case a job follows
    orphan_seconds: float = 3600.0  # give up on an unreachable daemon this long after the last writer ended
    leave_seconds: float = 20.0  # between SIGTERM and the end, while writers live or items wait; a pod has 30
    silence_seconds: float = 600.0  # after it a writer of another kernel, whose lock may not reach us, counts as gone
    rest_seconds: float = 60.0  # until a spool that another forwarder took over, or that fails, is tried again
    include_offline: bool = False  # also ship what was recorded with mode=offline
    quarantined: bool = False  # first try what the daemon refused once more
    wait_for_writers: bool = True  # live writers may still write; False: what lies there now is enough
    endpoint: str | None = None  # instead of the one that each writer noted


class Forwarder:
    """Starts a courier for each writer's directory and says when there is nothing left to do."""

    def __init__(self, spool_dir: Path, own: Config, plan: Plan) -> None:
        self.spool_dir = spool_dir
        self.couriers: dict[Path, Courier] = {}
        self._own = own
        self._plan = plan
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        self._resting: dict[Path, float] = {}
        self._tidied_at = -math.inf
        self._glances = Glances(_SCANS_SKIPPED)
        self._leave_at = math.inf
        self._stop, self._awake = asyncio.Event(), asyncio.Event()
        self._queue = asyncio.Semaphore(_AT_ONCE)

    @property
    def stopping(self) -> bool:
        """Whether `stop` or `leave` was called."""
        return self._stop.is_set() or self._leave_at < math.inf

    def stop(self) -> None:
        """Ask `run` to return; what is not acked stays in the spool."""
        self._stop.set()
        self._awake.set()

    def leave(self) -> None:
        """Ask `run` to return once the writers are gone and all is shipped, or soon; asked again, at once."""
        if self.stopping or not self._plan.leave_seconds:
            self.stop()
        else:
            self._leave_at = time.monotonic() + self._plan.leave_seconds
            _log.info("leaving within %.0f s", self._plan.leave_seconds)

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond `stop`."""
        self._awake.clear()
        if self._stop.is_set():
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._awake.set)  # far cheaper than wait_for
        await self._awake.wait()
        timer.cancel()

    async def run(self, on_scan: Callable[[Forwarder], None] | None = None) -> None:
        """Ship until there is nothing left to do, by the plan, or until `stop`."""
        busy_at = alive_at = time.monotonic()
        try:
            while not self._stop.is_set():
                self._scan()
                if on_scan is not None:
                    on_scan(self)
                now = time.monotonic()
                alive = self._plan.wait_for_writers and any(courier.writer_alive() for courier in self._open())
                alive_at = now if alive else alive_at
                busy = alive or not self._drained()
                busy_at = now if busy else busy_at
                done = not busy and (self.stopping or now - busy_at >= self._plan.grace_seconds)
                may_go = self.stopping or not self._plan.stay
                if (may_go and (done or now - alive_at >= self._plan.orphan_seconds)) or now >= self._leave_at:
                    return
                await self.pause(_SCAN_SECONDS)
        finally:
            self._say_what_is_left()
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def has_work(self) -> bool:
        """Whether a writer's directory is there that no courier has dealt with."""
        return any(path not in self.couriers for path in self._wanted())

    def _wanted(self) -> list[Path]:
        paths = []
        for path in spool.writer_directories(self.spool_dir):
            meta = spool.read_meta(path)
            if meta is not None and (self._plan.include_offline or meta.get("mode") != "offline"):
                paths.append(path)
        return paths

    def _scan(self) -> None:
        now = time.monotonic()
        for path, task in list(self._tasks.items()):
            if task.done():
                del self._tasks[path]
                if not task.cancelled() and (error := task.exception()) is not None:
                    _log.error("%s: shipping failed and is tried again later: %r", path.name, error)
                    self._resting[path] = now
                elif path in self.couriers and self.couriers[path].fenced:
                    self._resting[path] = now
        for path, since in list(self._resting.items()):
            if now - since >= self._plan.rest_seconds:  # another forwarder may be gone by now
                del self._resting[path]
                self.couriers.pop(path, None)
                self._glances.forget()
        if now - self._tidied_at >= _UNFINISHED_SECONDS:
            self._tidied_at = now
            spool.remove_unfinished(self.spool_dir, _UNFINISHED_SECONDS)
        if not self._glances.needed(self._changed_at()):
            return
        for path in self._wanted():
            if path not in self.couriers:
                meta = spool.read_meta(path) or {}
                access = functools.partial(Access.of_writer, meta, self._own, self._plan.endpoint, spool.stranger(path))
                courier = Courier(path, access, silence_seconds=self._plan.silence_seconds, queue=self._queue)
                self.couriers[path] = courier
                self._tasks[path] = asyncio.create_task(courier.run())
        if self._plan.wait_for_writers:  # a long-lived forwarder does not remember every job of the year
            for path in [path for path, courier in self.couriers.items() if courier.finished]:
                del self.couriers[path]

    def _changed_at(self) -> int | None:
        try:
            return self.spool_dir.stat().st_mtime_ns
        except OSError:
            return None

    def _open(self) -> list[Courier]:
        return [courier for courier in self.couriers.values() if not courier.finished and not courier.fenced]

    def _drained(self) -> bool:
        """Whether all there is was shipped; a spool whose writer is gone counts as open until it is put away."""
        return all(courier.drained and courier.writer_alive() for courier in self._open())

    def _say_what_is_left(self) -> None:
        for courier in self._open():
            if not courier.drained:
                _log.warning("%s: not all was sent: %s", courier.directory.name, courier.progress.message or "no time")


async def serve(
    spool_dir: Path,
    own: Config,
    plan: Plan,
    on_scan: Callable[[Forwarder], None] | None = None,
    lock: SpoolLock | None = None,
) -> Forwarder | None:
    """Hold the lock of `spool_dir` and ship until done or told to stop; None if another forwarder holds it.

    Args:
        spool_dir: What to ship.
        own: Settings for what the writers did not note.
        plan: What to ship, and how long to stay; with `stay` another forwarder's end is waited for.
        on_scan: Called once a second.
        lock: Where it was taken already.

    Raises:
        OSError: The directory cannot be used.
    """
    lock = lock or SpoolLock(spool_dir)
    forwarder = Forwarder(spool_dir, own, plan)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, forwarder.leave)
    loop.add_signal_handler(signal.SIGINT, forwarder.stop)
    told = False
    while True:
        if not lock.acquire():
            if not plan.stay:
                return None
            if forwarder.stopping:
                return forwarder
            if not told:
                _log.info("another forwarder is shipping %s: waiting until it leaves", spool_dir)
            told = True
            await forwarder.pause(_LOCKED_SECONDS)
            continue
        lock.sign()
        try:
            if plan.quarantined:
                quarantine.requeue_all(spool_dir)
            await forwarder.run(on_scan)
        finally:
            lock.release()
        # A job that attached while we were leaving saw the lock held and relies on us.
        if plan.stay or not plan.wait_for_writers or forwarder.stopping or not forwarder.has_work():
            return forwarder


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the process that `attach` starts."""
    parser = argparse.ArgumentParser(prog="python -m topowatch_client.forwarder", description=__doc__)
    parser.add_argument("spool_dir", type=Path)
    parser.add_argument("--grace", type=float, default=Plan.grace_seconds, help="seconds to stay once all is shipped")
    parser.add_argument("--lock-fd", type=int, default=-1, help="the lock file's descriptor, if it is locked already")
    options = parser.parse_args(argv)
    lock = SpoolLock(options.spool_dir, options.lock_fd)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    with contextlib.suppress(OSError):
        os.nice(5)
    try:
        asyncio.run(serve(options.spool_dir, load(), Plan(grace_seconds=options.grace), lock=lock))
    except (ConfigError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
