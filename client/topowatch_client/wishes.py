"""What the daemon wants of a run beside its samples: a small file in the spool, from the forwarder to the job."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from topowatch_client.spool import WISHES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PAUSE_SECONDS = 1.0  # between two looks
_SIDES = range(3, 66, 2)


class SliceWish(NamedTuple):
    """A loss slice that somebody asked for."""

    id: str
    side: int


def write(directory: Path, wishes: Sequence[SliceWish]) -> None:
    """Leave wishes for the writer of a spool, who never sees half a file; raises OSError."""
    fresh = directory / f"{WISHES}.new"
    fresh.write_text(json.dumps([wish._asdict() for wish in wishes]), encoding="utf-8")
    os.replace(fresh, directory / WISHES)  # noqa: PTH105 -- says that it replaces


class Inbox:
    """Looks for wishes in a spool: once a second at most, and into the file only when there is another one."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / WISHES
        self._looked_at = 0.0
        self._seen: tuple[int, int] | None = None
        self._known: set[str] = set()

    def new(self) -> list[SliceWish]:
        """Return wishes that were not returned before; what cannot be read is none."""
        now = time.monotonic()
        if now - self._looked_at < _PAUSE_SECONDS:
            return []
        self._looked_at = now
        try:
            status = self._path.stat()
            if (status.st_ino, status.st_mtime_ns) == self._seen:
                return []
            self._seen = status.st_ino, status.st_mtime_ns
            wishes = [SliceWish(str(wish["id"]), int(wish["side"])) for wish in json.loads(self._path.read_bytes())]
        except (OSError, ValueError, TypeError, KeyError):
            return []
        found = [wish for wish in wishes if wish.id not in self._known and wish.side in _SIDES]
        self._known.update(wish.id for wish in found)
        return found
