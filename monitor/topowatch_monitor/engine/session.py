"""Ending a whole process session: Ray leaves agents behind when its driver or raylet is killed."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def members(session: int) -> list[int]:
    """Process ids of a session, from /proc; empty where there is no /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(entry.name)) == session:
                found.append(int(entry.name))
    return found


def kill_session(session: int) -> None:
    """Send SIGKILL to every process of a session, the caller last if it is one of them."""
    for process in sorted(members(session), key=lambda process: process == os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
