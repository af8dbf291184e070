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
_TEMPORARY = ".tmp"
_PLACE = struct.Struct("<IQ")  # shard, offset
_KIND = 0


class SnapshotStore:
    """States of shards by log offset; made for one thread.

    What is in the directory is listed once: another process that changes it costs no more than an older snapshot.

    Args:
        directory: made at the first `save`.
        disk: the file system.
    """

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._directory = directory
        self._disk = disk
        self._listed: dict[int, set[int]] | None = None  # offsets by shard; to list the directory takes 2 ms

    def save(self, shard: int, offset: int, state: bytes) -> None:
        """Keep `state`, which covers every record of `shard` below `offset`, durably; raises OSError."""
        self._disk.make_directory(self._directory)
        path = self._path(shard, offset)
        temporary = path.with_suffix(_TEMPORARY)
        place = _PLACE.pack(shard, offset)
        write_file(self._disk, temporary, framing.MAGIC, framing.header(_KIND, place, state), place, state)
        self._disk.rename(temporary, path)
        offsets = self._offsets().setdefault(shard, set())
        offsets.add(offset)
        self._disk.sync_directory(self._directory)
        # Newer ones are damaged, or `state` would come from them; the newest older one is kept to fall back on.
        kept = max((other for other in offsets if other < offset), default=None)
        others = offsets - {offset, kept}
        offsets -= others
        if not all(self._remove(self._path(shard, other)) for other in sorted(others)):
            self._listed = None  # another process saves here too, as an engine does whose front was killed

    def load(self, shard: int) -> tuple[int, bytes] | None:
        """Return offset and state of the newest snapshot that is whole, or None."""
        for offset in sorted(self._offsets().get(shard, ()), reverse=True):
            with suppress(OSError):
                data = self._disk.read(self._path(shard, offset))
                state = _state(data, shard, offset)
                if state is not None:
                    return offset, state
        return None

    def shards(self) -> list[int]:
        """Return the shards that have a snapshot, ascending."""
        return sorted(self._offsets())

    def _remove(self, path: Path) -> bool:
        """Remove a file, and say whether it was there."""
        try:
            self._disk.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def _path(self, shard: int, offset: int) -> Path:
        return self._directory / f"{shard:06d}-{offset:020d}.snap"

    def _offsets(self) -> dict[int, set[int]]:
        """Offsets of the snapshots of each shard."""
        if self._listed is None:
            found: dict[int, set[int]] = {}
            with suppress(FileNotFoundError):
                for name in self._disk.names(self._directory):
                    if match := _NAME.fullmatch(name):
                        found.setdefault(int(match[1]), set()).add(int(match[2]))
                    elif name.endswith(_TEMPORARY):  # its writer was killed, or writes it again
                        with suppress(OSError):
                            self._disk.unlink(self._directory / name)
            self._listed = found
        return self._listed


def _state(data: bytes, shard: int, offset: int) -> bytes | None:
    """Return the state in a snapshot file, or None if it is torn, damaged or another's."""
    if not data.startswith(framing.MAGIC):
        return None
    frame = next(framing.scan(data), None)
    place = _PLACE.pack(shard, offset)
    if frame is None or frame.kind != _KIND or frame.end != len(data) or not frame.payload.startswith(place):
        return None
    return frame.payload[_PLACE.size :]
