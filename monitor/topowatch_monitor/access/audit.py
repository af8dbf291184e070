"""Lines for an auditor: who was let in, who was not, who made tokens. One JSON object a line, never a secret."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import TextIOWrapper

NAME, DENIED = "audit.jsonl", "denied.jsonl"
_FILE_BYTES, _OLD_FILES = 16 << 20, 4
_AGAIN_SECONDS = 10.0  # of what is the same, one line in so many seconds, which tells how often it was
_REMEMBERED = 4096
_LONGEST = 200  # characters of a fact, which a stranger may have made up


class _Handler(RotatingFileHandler):
    """Makes files for their owner alone."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")


class Audit:
    """The audit files of a data directory. Safe to use from several threads.

    Whoever is not let in goes into a file of their own: they may be many, and push out only one another.

    Args:
        directory: of the data.
        wall: Unix seconds, for the lines.
        monotonic: seconds of a clock that never jumps.
    """

    def __init__(
        self,
        directory: Path,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._lock = threading.Lock()
        self._told: dict[tuple[str, ...], tuple[float, int]] = {}
        self.denied: Counter[str] = Counter(grpc=0, http=0)  # who was not let in, over what
        self._kept, self._denied = (
            _Handler(Path(directory, name), maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, delay=True)
            for name in (NAME, DENIED)
        )

    def write(self, event: str, **facts: str) -> None:
        """Write that something happened; what repeats itself is counted, and told now and then."""
        self._write(self._kept, (event, *facts.values()), event, facts)

    def limit(self, peer: str, why: str, *, tenant: str, token: str) -> None:
        """Write that a sender was kept to a limit; of one token, all peers that one limit holds up are the same.

        Args:
            peer: address of the one that is told of.
            why: that it was told.
            tenant: whose it is.
            token: id of its token.
        """
        facts = {"peer": peer, "token": token, "tenant": tenant, "why": why}
        self._write(self._kept, ("limit_reached", tenant, token, why), "limit_reached", facts)

    def deny(self, over: str, peer: str, why: str, *, token: str = "", path: str = "") -> None:
        """Write that somebody was not let in; of one peer, what it asks for in vain is one and the same.

        Args:
            over: grpc or http.
            peer: its address.
            why: that it was told.
            token: id of the token that it showed, if it looked like one; nobody knows whether it is its own.
            path: that it asked for.
        """
        with self._lock:
            self.denied[over] += 1
        facts = {"over": over, "peer": peer, "why": why, "token": token, "path": path}
        self._write(self._denied, ("denied", over, peer), "denied", facts)

    def close(self) -> None:
        """Close the files."""
        self._kept.close()
        self._denied.close()

    def _write(self, handler: _Handler, same: tuple[str, ...], event: str, facts: dict[str, str]) -> None:
        moment = self._monotonic()
        with self._lock:
            since, untold = self._told.get(same, (moment - _AGAIN_SECONDS, 0))
            if moment - since < _AGAIN_SECONDS:
                self._told[same] = since, untold + 1
                return
            self._told.pop(same, None)
            self._told[same] = moment, 0
            if len(self._told) > _REMEMBERED:
                del self._told[next(iter(self._told))]
        told = {name: fact[:_LONGEST] for name, fact in facts.items() if fact}
        line = {"at": datetime.fromtimestamp(self._wall(), timezone.utc).isoformat(), "event": event, **told}
        if untold:
            line["times_before"] = str(untold)
        handler.handle(logging.LogRecord("topowatch.audit", logging.INFO, "", 0, json.dumps(line), None, None))
