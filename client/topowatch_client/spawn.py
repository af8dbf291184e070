"""Starts the forwarder: a new interpreter in a new session, never a fork of the training process's own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from topowatch_client.spool import FORWARDER_LOCK

if TYPE_CHECKING:
    from pathlib import Path

_LOG_NAME = "forwarder.log"
_LOG_BYTES = 1 << 20
_children: list[subprocess.Popen[bytes]] = []


def forwarder_running(spool_dir: Path) -> bool:
    """Say whether a forwarder holds the lock of `spool_dir`. Raises OSError if the directory cannot be used."""
    fd = os.open(spool_dir / FORWARDER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask do not take each other for a forwarder
    except OSError:
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
    if forwarder_running(spool_dir):
        return False
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
        child = subprocess.Popen(
            [sys.executable, "-m", "topowatch_client.forwarder", str(spool_dir)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=spool_dir,  # `-m` puts it first on the module path: nothing of the job can be imported by accident
            env=environment,
            start_new_session=True,
        )
    _children.append(child)
    return True
