"""File locks for processes that cannot wait long: one that is held by a stopped process must not stop a training."""

from __future__ import annotations

import fcntl
import time


def taken(fd: int, attempts: int, pause: float) -> bool:
    """Take the flock of an open file; False if it was held at each of the attempts, `pause` seconds apart.

    Raises:
        OSError: The file system has no locks.
    """
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False
