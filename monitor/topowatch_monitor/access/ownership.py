"""Whose the files of a data directory are: root may make tokens for a daemon that runs as somebody else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def hand_over(descriptor: int, directory: Path) -> None:
    """Make an open file readable by its owner alone, and, where we may, give it to the owner of its directory."""
    os.fchmod(descriptor, 0o600)
    if os.geteuid() == 0:
        status = directory.stat()
        os.fchown(descriptor, status.st_uid, status.st_gid)
