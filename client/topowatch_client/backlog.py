"""What waits in a spool directory, and what its forwarder last complained of, for people who look from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from topowatch_client import spool
from topowatch_client.spool_reader import SpoolReader, first_seq, segments_of

if TYPE_CHECKING:
    from pathlib import Path


class Backlog(NamedTuple):
    """All that jobs in mode online have not yet had answered."""

    items: int = 0
    writers: int = 0  # with items that wait
    stranded: int = 0  # writers of those whose process is gone
    message: str = ""  # the last trouble of one of them


def look(spool_dir: Path) -> Backlog:
    """Count what waits; reads the newest segment of each writer, at most 8 MiB.

    Not for use within a process that writes there: see `spool.writer_alive`.
    """
    items = writers = stranded = 0
    message = ""
    for directory in spool.writer_directories(spool_dir):
        if (spool.read_meta(directory) or {}).get("mode") == "offline":
            continue
        cursor = spool.read_cursor(directory)
        waiting = _next_seq(directory) - int(cursor.get("next_seq", 0))
        if waiting > 0:
            items, writers = items + waiting, writers + 1
            stranded += not spool.writer_alive(directory)
            message = str(cursor.get("message") or message)
    return Backlog(items, writers, stranded, message)


def _next_seq(directory: Path) -> int:
    """Return the number behind the last item that is whole."""
    segments = segments_of(directory)
    if not segments:
        return 0
    reader = SpoolReader(directory, first_seq(segments[-1]))
    while reader.read(1 << 20, 1 << 10):
        continue
    return reader.next_seq
