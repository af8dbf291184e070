"""Shard states on disk: the newest two of each shard, checksummed."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from topowatch_monitor.store.disk import write_file
from topowatch_protos import framing

if TYPE_CHECKING:
    from pathlib import Path

    from topowatch_monitor.store.disk import Disk

_NAME = re.compile(r"(\d{6})-(\d{20})\.snap")
_PLACE = struct.Struct("<IQ")  # shard, offset
_KIND = 0


class SnapshotStore:
    """States of shards by log offset; made for one thread.

    Args:
        directory: made at the first `save`.
        disk: the file system.
    """

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._directory = directory
        self._disk = disk

    def save(self, shard: int, offset: int, state: bytes) -> None:
        """Keep `state`, which covers every record of `shard` below `offset`, durably; raises OSError."""
        self._disk.make_directory(self._directory)
        path = self._path(shard, offset)
        temporary = path.with_suffix(".tmp")
        data = framing.MAGIC + framing.encode(_KIND, _PLACE.pack(shard, offset) + state)
        write_file(self._disk, temporary, data)
        self._disk.rename(temporary, path)
        self._disk.sync_directory(self._directory)
        # Newer ones are damaged, or `state` would come from them; the newest older one is kept to fall back on.
        others = [other for other in self._offsets(shard) if other != offset]
        kept = max((other for other in others if other < offset), default=None)
        for other in others:
            if other != kept:
                self._disk.unlink(self._path(shard, other))

    def load(self, shard: int) -> tuple[int, bytes] | None:
        """Return offset and state of the newest snapshot that is whole, or None."""
        for offset in reversed(self._offsets(shard)):
            with suppress(OSError):
                data = self._disk.read(self._path(shard, offset))
                state = _state(data, shard, offset)
                if state is not None:
                    return offset, state
        return None

    def shards(self) -> list[int]:
        """Return the shards that have a snapshot, ascending."""
        return sorted({shard for shard, _ in self._entries()})

    def _path(self, shard: int, offset: int) -> Path:
        return self._directory / f"{shard:06d}-{offset:020d}.snap"

    def _offsets(self, shard: int) -> list[int]:
        return sorted(offset for found, offset in self._entries() if found == shard)

    def _entries(self) -> list[tuple[int, int]]:
        try:
            names = self._disk.names(self._directory)
        except FileNotFoundError:
            return []
        return [(int(match[1]), int(match[2])) for match in map(_NAME.fullmatch, names) if match]


def _state(data: bytes, shard: int, offset: int) -> bytes | None:
    """Return the state in a snapshot file, or None if it is torn, damaged or another's."""
    if not data.startswith(framing.MAGIC):
        return None
    frame = next(framing.scan(data), None)
    place = _PLACE.pack(shard, offset)
    if frame is None or frame.kind != _KIND or frame.end != len(data) or not frame.payload.startswith(place):
        return None
    return frame.payload[_PLACE.size :]
