"""Recordings: records of a log in one file of their own, to be replayed elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from topowatch_monitor.store.log import Record
from topowatch_protos import framing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class RecordingDamagedError(ValueError):
    """The file is no recording, or is torn or damaged from some byte on."""


def write_recording(path: Path, records: Iterable[Record]) -> int:
    """Write `records` to the file `path`, replacing it; return how many. Their offsets are not kept."""
    count = 0
    with path.open("wb") as file:
        file.write(framing.MAGIC)
        for record in records:
            file.write(framing.encode(record.kind, record.payload))
            count += 1
    return count


def read_recording(path: Path) -> Iterator[Record]:
    """Yield the records of a recording; offsets count from 0.

    Raises:
        RecordingDamagedError: after the last whole record, if anything else follows it.
    """
    data = path.read_bytes()
    if not data.startswith(framing.MAGIC):
        if version := framing.other_version(data):
            raise RecordingDamagedError(f"{path} is of version {version}: replay it with the topowatch that wrote it")
        raise RecordingDamagedError(f"{path} is not a topowatch recording")
    end = len(framing.MAGIC)
    for offset, frame in enumerate(framing.scan(data)):
        end = frame.end
        yield Record(offset, frame.kind, frame.payload)
    if end < len(data):
        raise RecordingDamagedError(f"{path} is torn or damaged from byte {end} of {len(data)} on")
