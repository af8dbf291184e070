"""Lines for an auditor: who was let in, who was not, who made tokens. One JSON object a line, never a secret."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

from topowatch_monitor.access.ownership import hand_over

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import TextIOWrapper

NAME = "audit.jsonl"
_FILE_BYTES, _OLD_FILES = 16 << 20, 4
_AGAIN_SECONDS = 10.0  # of what is the same, one line in so many seconds, which tells how often it was
_REMEMBERED = 4096


class _Handler(RotatingFileHandler):
    """Makes files that the daemon can write to, whoever wrote the first line."""

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        hand_over(stream.fileno(), Path(self.baseFilename).parent)
        return stream


class Audit:
    """The audit file of a data directory. Safe to use from several threads.

    Args:
        directory: of the data.
        wall: Unix seconds.
    """

    def __init__(self, directory: Path, *, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._lock = threading.Lock()
        self._told: dict[tuple[str, ...], tuple[float, int]] = {}
        self._handler = _Handler(
            directory / NAME, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, encoding="utf-8", delay=True
        )
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, event: str, **facts: str) -> None:
        """Write that something happened; what repeats itself is counted, and told now and then."""
        moment, same = self._wall(), (event, *facts.values())
        with self._lock:
            since, untold = self._told.get(same, (-_AGAIN_SECONDS, 0))
            if moment - since < _AGAIN_SECONDS:
                self._told[same] = since, untold + 1
                return
            self._told.pop(same, None)
            self._told[same] = moment, 0
            if len(self._told) > _REMEMBERED:
                del self._told[next(iter(self._told))]
        line = {"at": datetime.fromtimestamp(moment, timezone.utc).isoformat(), "event": event, **facts}
        if untold:
            line["times_before"] = str(untold)
        record = logging.LogRecord("topowatch.audit", logging.INFO, "", 0, json.dumps(line), None, None)
        self._handler.handle(record)

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
