"""Starts the forwarder, one a spool directory: a new interpreter in a new session, never a fork of the trainer's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from topowatch_client import locks
from topowatch_client.spool import FORWARDER_LOCK

if TYPE_CHECKING:
    from pathlib import Path

_LOG_NAME = "forwarder.log"
_LOG_BYTES = 1 << 20
_ATTEMPTS, _PAUSE_SECONDS = 16, 0.02  # who only asks whether a forwarder runs holds the lock for a moment, too
_START_ATTEMPTS, _START_PAUSE_SECONDS = 5, 0.002  # the same where a training waits
_children: list[subprocess.Popen[bytes]] = []


class SpoolLock:
    """One forwarder a spool directory; the lock file holds its process id.

    It belongs to the open file: who starts a forwarder takes it first and hands it on, so that of many that want to
    start one at the same moment one does.
    """

    def __init__(self, spool_dir: Path, fd: int = -1) -> None:
        """Lock `spool_dir`; `fd` is the lock file where who started us has taken it already."""
        self.fd = fd
        self._path = spool_dir / FORWARDER_LOCK

    def acquire(self, attempts: int = _ATTEMPTS, pause: float = _PAUSE_SECONDS) -> bool:
        """Take the lock if it is free. Raises OSError if the directory cannot be written."""
        if self.fd < 0:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not locks.taken(fd, attempts, pause):
                os.close(fd)
                return False
            self.fd = fd
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)  # who signed last was killed
        return True

    def sign(self) -> None:
        """Write down who holds the lock: for people, so a full disk does not matter."""
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Give the lock back."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, 0)
            fd, self.fd = self.fd, -1
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough where a fork of who started us holds a copy
            os.close(fd)


def forwarder_running(spool_dir: Path) -> bool:
    """Say whether a forwarder holds the lock of `spool_dir`. Raises OSError if the directory cannot be used."""
    fd = os.open(spool_dir / FORWARDER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask do not take each other for a forwarder
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def forwarder_pid(spool_dir: Path) -> int | None:
    """Return the process id of the forwarder of `spool_dir`, None if there is none."""
    try:
        if not forwarder_running(spool_dir):
            return None
        return int((spool_dir / FORWARDER_LOCK).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def forwarder_cpu_seconds(spool_dir: Path) -> float | None:
    """Return the processor time that the forwarder of `spool_dir` has used, None if there is none."""
    pid = forwarder_pid(spool_dir)
    if pid is None:
        return None
    try:
        return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it: all threads of another process
    except OSError:
        return None


def ensure_forwarder(spool_dir: Path, token: str | None = None) -> bool:
    """Start a forwarder unless one is running; return whether one was started.

    Args:
        spool_dir: What it ships.
        token: Handed on through its environment, in place of any that is named there; None: what is named there.

    Raises:
        OSError: The process or its log cannot be created.
    """
    _children[:] = [child for child in _children if child.poll() is None]
    lock = SpoolLock(spool_dir)
    if forwarder_running(spool_dir) or not lock.acquire(_START_ATTEMPTS, _START_PAUSE_SECONDS):
        return False
    try:
        _children.append(_start(spool_dir, lock, token))
    finally:
        os.close(lock.fd)  # the forwarder has a copy, and with it the lock
    return True


def _start(spool_dir: Path, lock: SpoolLock, token: str | None) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if "PYTHONPATH" in environment:  # the child works in another directory
        parts = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in parts)  # noqa: PTH100 -- "" too
    if token is not None:
        environment["TOPOWATCH_TOKEN"] = token
        environment.pop("TOPOWATCH_TOKEN_FILE", None)  # it would win; who wants it notes it beside the spool
    log = spool_dir / _LOG_NAME
    too_long = log.exists() and log.stat().st_size > _LOG_BYTES
    with log.open("wb" if too_long else "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "topowatch_client.forwarder", str(spool_dir), "--lock-fd", str(lock.fd)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=spool_dir,  # `-m` puts it first on the module path: nothing of the job can be imported by accident
            env=environment,
            start_new_session=True,
            pass_fds=(lock.fd,),
        )
