"""Who this process is: run name, rank, and the number of this life of the run."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from topowatch_client import locks, names

if TYPE_CHECKING:
    from collections.abc import Mapping

_INCARNATION = "incarnation"  # in the spool directory: the highest number that was given out on this host
_LOCK_ATTEMPTS, _LOCK_SECONDS = 20, 0.001
_lock = threading.RLock()  # a signal handler may begin a life of another run in the middle of ours
_last_incarnation = 0
LARGEST = 2**63 - 1  # of the numbers that a job may choose
_log = logging.getLogger("topowatch")


def job_id(environment: Mapping[str, str]) -> str | None:
    """Return the launcher's job id, which all ranks share; None without one."""
    for variable in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        name = environment.get(variable)
        if name and name != "none":  # torchrun says "none" where it was given no id
            return _safe(name)
    return None


def default_run() -> str:
    """Return <script>-<host>-<time>: a name for this process alone."""
    script = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "python"
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return _safe(f"{script}-{socket.gethostname()}-{moment}-{os.getpid()}")


def ranks(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return (rank, world size) as the launcher set them; (0, 1) without one or if they make no sense."""
    try:
        rank, world = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0, 1
    return (rank, world) if 0 <= rank < world else (0, 1)


def next_incarnation(wanted: int | None = None, spool_dir: Path | None = None) -> int:
    """Return `wanted`, or milliseconds since the epoch, but then more than any number returned before.

    Args:
        wanted: What the job chose itself.
        spool_dir: Where the highest number of this host is kept, so that a job that starts again after the clock went
            back still gets a higher one than before; None, or trouble with the file: only this process's count.

    Raises:
        ValueError: `wanted` is out of range; nothing is remembered of it.
    """
    if wanted is not None and not 0 < wanted <= LARGEST:
        raise ValueError(f"an incarnation lies between 1 and 2**63 - 1, not at {wanted}")
    global _last_incarnation  # noqa: PLW0603 -- two attaches within one millisecond must still differ
    with _lock:
        if wanted is None:
            wanted = max(time.time_ns() // 1_000_000, _last_incarnation + 1)
            if spool_dir is not None:
                wanted = _above_remembered(spool_dir / _INCARNATION, wanted)
        _last_incarnation = max(_last_incarnation, wanted)
        return wanted


def _above_remembered(path: Path, number: int) -> int:
    """Return `number`, or one more than the highest that was given out here if that is more; remember it.

    The file is written in place, under its own lock: that takes no room on a full disk, and one write of a few bytes
    is there whole or not at all when a process is killed.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not locks.taken(fd, _LOCK_ATTEMPTS, _LOCK_SECONDS):
                raise BlockingIOError(f"{path} is locked by another process")
            noted = os.pread(fd, 20, 0).strip()
            if noted.isdigit() and int(noted) < LARGEST:
                number = max(number, int(noted) + 1)
            os.pwrite(fd, b"%019d\n" % number, 0)
        finally:
            os.close(fd)
    except OSError as error:
        _log.warning("topowatch: the number of this life of the run rests on the clock alone: %s", error)
    return number


def new_writer_uuid() -> str:
    """Return 16 random bytes in hexadecimal, from the system: the job's own random state is left alone."""
    return uuid.uuid4().hex


def _safe(name: str) -> str:
    return names.of_key("".join(character if character.isprintable() else "-" for character in name))
