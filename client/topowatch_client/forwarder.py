"""The forwarder: a process of its own, one a spool directory, that ships every writer's spool to the daemon.

Run as `python -m topowatch_client.forwarder SPOOL_DIR`. It outlives the job where the system lets it, starts a courier
for each writer that it finds, and goes when all is shipped and no writer is left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
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
from topowatch_client.transport import Access

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SCAN_SECONDS = 0.5
_LOCK_ATTEMPTS, _LOCK_SECONDS = 16, 0.02
_UNFINISHED_SECONDS = 3600.0  # how old the rest of a process killed within attach() is when it is removed
_log = logging.getLogger("topowatch.forwarder")


@dataclass(frozen=True)
class Plan:
    """How long a forwarder stays and what it ships."""

    stay: bool = False  # never leave by itself
    grace_seconds: float = 10.0  # stay this long after everything is shipped, in case a job follows
    orphan_seconds: float = 3600.0  # give up on an unreachable daemon this long after the last writer ended
    fenced_seconds: float = 60.0  # until a spool that another forwarder took over is tried again
    include_offline: bool = False  # also ship what was recorded with mode=offline
    quarantined: bool = False  # first try what the daemon refused once more
    wait_for_writers: bool = True  # live writers may still write; False: what lies there now is enough
    endpoint: str | None = None  # instead of the one that each writer noted


class SpoolLock:
    """One forwarder a spool directory; the lock file holds its process id."""

    def __init__(self, spool_dir: Path) -> None:
        self._path = spool_dir / spool.FORWARDER_LOCK
        self._fd = -1

    def acquire(self) -> bool:
        """Take the lock if it is free. Raises OSError if the directory cannot be written."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for attempt in range(_LOCK_ATTEMPTS):
            if attempt:
                time.sleep(_LOCK_SECONDS)  # who only asks whether a forwarder runs holds it for a moment, too
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            with contextlib.suppress(OSError):  # the number is for people; a full disk must still be shipped
                os.ftruncate(fd, 0)
                os.write(fd, str(os.getpid()).encode())
            self._fd = fd
            return True
        os.close(fd)
        return False

    def release(self) -> None:
        """Give the lock back."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


class Forwarder:
    """Starts a courier for each writer's directory and says when there is nothing left to do."""

    def __init__(self, spool_dir: Path, own: Config, plan: Plan) -> None:
        self.spool_dir = spool_dir
        self.couriers: dict[Path, Courier] = {}
        self._own = own
        self._plan = plan
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        self._fenced_at: dict[Path, float] = {}
        self._tidied_at = -math.inf
        self._stop = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask `run` to return; what is not acked stays in the spool."""
        self._stop.set()

    async def run(self, on_scan: Callable[[Forwarder], None] | None = None) -> None:
        """Ship until there is nothing left to do, by the plan, or until `stop`."""
        busy_at = alive_at = time.monotonic()
        try:
            while not self._stop.is_set():
                self._scan()
                if on_scan is not None:
                    on_scan(self)
                now = time.monotonic()
                alive = self._plan.wait_for_writers and any(spool.writer_alive(path) for path in self._open())
                alive_at = now if alive else alive_at
                busy = alive or not self._drained()
                busy_at = now if busy else busy_at
                done = not busy and now - busy_at >= self._plan.grace_seconds
                if not self._plan.stay and (done or now - alive_at >= self._plan.orphan_seconds):
                    return
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _SCAN_SECONDS)
        finally:
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
                    _log.error("%s: shipping failed and starts again: %r", path.name, error)
                    del self.couriers[path]
                elif path in self.couriers and self.couriers[path].fenced:
                    self._fenced_at[path] = now
        for path, fenced_at in list(self._fenced_at.items()):
            if now - fenced_at >= self._plan.fenced_seconds:  # the other one may be gone by now
                del self._fenced_at[path], self.couriers[path]
        if now - self._tidied_at >= _UNFINISHED_SECONDS:
            self._tidied_at = now
            spool.remove_unfinished(self.spool_dir, _UNFINISHED_SECONDS)
        for path in self._wanted():
            if path not in self.couriers:
                meta = spool.read_meta(path) or {}
                access = functools.partial(Access.of_writer, meta, self._own, self._plan.endpoint)
                courier = Courier(path, access)
                self.couriers[path] = courier
                self._tasks[path] = asyncio.create_task(courier.run())
        if self._plan.wait_for_writers:  # a long-lived forwarder does not remember every job of the year
            for path in [path for path, courier in self.couriers.items() if courier.finished]:
                del self.couriers[path]

    def _open(self) -> list[Path]:
        return [path for path, courier in self.couriers.items() if not courier.finished and not courier.fenced]

    def _drained(self) -> bool:
        """Whether all there is was shipped; a spool whose writer is gone counts as open until it is put away."""
        return all(self.couriers[path].drained and spool.writer_alive(path) for path in self._open())


async def serve(
    spool_dir: Path, own: Config, plan: Plan, on_scan: Callable[[Forwarder], None] | None = None
) -> Forwarder | None:
    """Hold the lock of `spool_dir` and ship until done or told to stop; None if another forwarder holds it.

    Raises:
        OSError: The directory cannot be used.
    """
    lock = SpoolLock(spool_dir)
    forwarder = Forwarder(spool_dir, own, plan)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, forwarder.stop)
    while True:
        if not lock.acquire():
            return None
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
    options = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    with contextlib.suppress(OSError):
        os.nice(5)
    try:
        asyncio.run(serve(options.spool_dir, load(), Plan(grace_seconds=options.grace)))
    except (ConfigError, OSError) as error:
        _log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
