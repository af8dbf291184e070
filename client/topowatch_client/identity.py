"""Who this process is: run name, rank, and the number of this life of the run."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from topowatch_client import names

if TYPE_CHECKING:
    from collections.abc import Mapping

_lock = threading.Lock()
_last_incarnation = 0
LARGEST = 2**63 - 1  # of the numbers that a job may choose


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


def next_incarnation(wanted: int | None = None) -> int:
    """Return `wanted`, or milliseconds since the epoch, but then more than any number returned before.

    Raises:
        ValueError: `wanted` is out of range; nothing is remembered of it.
    """
    if wanted is not None and not 0 < wanted <= LARGEST:
        raise ValueError(f"an incarnation lies between 1 and 2**63 - 1, not at {wanted}")
    global _last_incarnation  # noqa: PLW0603 -- two attaches within one millisecond must still differ
    with _lock:
        if wanted is None:
            wanted = max(time.time_ns() // 1_000_000, _last_incarnation + 1)
        _last_incarnation = max(_last_incarnation, wanted)
        return wanted


def new_writer_uuid() -> str:
    """Return 16 random bytes in hexadecimal, from the system: the job's own random state is left alone."""
    return uuid.uuid4().hex


def _safe(name: str) -> str:
    return names.of_key("".join(character if character.isprintable() else "-" for character in name))
