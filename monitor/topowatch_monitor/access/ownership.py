"""Whose a data directory is: root may make tokens for a daemon that runs as somebody else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def become_owner(directory: Path) -> None:
    """As root, go on as the owner of a directory, who may have put anything there; what is made is then theirs.

    Raises:
        OSError: the directory cannot be looked at.
    """
    if os.geteuid() == 0:
        status = directory.stat()
        os.setgroups([])
        os.setegid(status.st_gid)
        os.seteuid(status.st_uid)
