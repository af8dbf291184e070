"""The durable log: segments of checksummed records; what `append` returned is on the device."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from topowatch_protos import framing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from topowatch_monitor.store.disk import Disk, DiskFile, DiskLock

SEGMENT_NAME = re.compile(r"\d{20}\.seg")
TEMPORARY = ".tmp"


class Record(NamedTuple):
    """One record: its ordinal in the log, its kind (`framing.LogKind`) and its bytes."""

    offset: int
    kind: int
    payload: bytes


class LogUnavailable(OSError):  # noqa: N818 (a state of the disk, which passes, more than a mistake)
    """The log cannot be written now; nothing of the attempt counts, and a later one may succeed."""


class LogLockedError(LogUnavailable):
    """Another process has the log open."""


class LogVersionError(OSError):
    """A segment is of another version of the log's format; nothing was changed."""


class LogDamagedError(OSError):
    """A segment does not begin as one; opening the log would overwrite something that is not ours."""


def segment_path(directory: Path, first: int) -> Path:
    """Return the path of the segment whose first record has the ordinal `first`."""
    return directory / f"{first:020d}.seg"


def segment_starts(names: Sequence[str]) -> list[int]:
    """Return the first ordinals of the segments among the names of a directory, ascending."""
    return sorted(int(name[:20]) for name in names if SEGMENT_NAME.fullmatch(name))


def check_versions(directory: Path, disk: Disk, starts: Sequence[int]) -> None:
    """See that this version can read the segments that begin at these ordinals.

    Raises:
        LogVersionError: it cannot; the message says what to do.
        OSError: one cannot be read.
    """
    for first in starts:
        path = segment_path(directory, first)
        if version := framing.other_version(disk.read(path, 0, len(framing.MAGIC))):
            raise LogVersionError(
                f"{path} is of version {version} of the log's format, this topowatch reads version"
                f" {framing.MAGIC[-1:].decode()}: nothing was changed; use the topowatch that wrote it, or a backup"
                " from before the upgrade"
            )


def encode_records(records: Sequence[tuple[int, bytes]]) -> bytes:
    """Frame `(kind, payload)` pairs one after another."""
    return b"".join([framing.encode(kind, payload) for kind, payload in records])


class Log:
    """Append-only sequence of records with one writer.

    Use from one thread at a time. `next_offset`, `size_bytes` and `wants_rotation` may be read from any.
    """

    def __init__(self, directory: Path, disk: Disk, lock: DiskLock, segment_bytes: int) -> None:
        self._directory = directory
        self._disk = disk
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._file: DiskFile
        self._first = 0  # ordinal of the segment's first record
        self._next = 0  # ordinal of the next record
        self._head_end = 0  # bytes of the segment's head
        self._end = 0  # bytes of the segment that count
        self._sealed_bytes = 0  # of the segments before
        self._suspect = False  # there may be bytes behind `_end`
        self._entry_suspect = False  # the segment's directory entry may not be on the device
        self.repaired_bytes = 0
        self.strange_kinds: set[int] = set()  # kinds of records in the last segment that this version does not know

    @classmethod
    def open(cls, directory: Path, disk: Disk, *, segment_bytes: int = 64 << 20) -> Log:
        """Open or create the log in `directory` and repair its tail.

        A torn tail is kept beside the segment as `<segment>.torn-<n>` and cut off.

        Args:
            directory: where the segments lie; made if missing.
            disk: the file system.
            segment_bytes: bytes behind the head from which `wants_rotation` is true.

        Raises:
            LogLockedError: another process has the log open.
            LogVersionError: a segment is of another version of the format.
            LogDamagedError: the last segment does not begin as a segment.
            LogUnavailable: the directory cannot be made, read or written.
        """
        try:
            disk.make_directory(directory)
            lock = disk.lock(directory / "lock")
        except BlockingIOError as error:
            raise LogLockedError(
                f"another daemon is using {directory}; stop it or choose another data directory"
            ) from error
        except OSError as error:
            raise LogUnavailable(f"cannot use {directory} for the log: {error.strerror or error}") from error
        log = cls(directory, disk, lock, segment_bytes)
        try:
            log._recover()
        except (LogVersionError, LogDamagedError):
            lock.release()
            raise
        except OSError as error:
            lock.release()
            raise LogUnavailable(f"cannot open the log in {directory}: {error.strerror or error}") from error
        return log

    @property
    def next_offset(self) -> int:
        """Ordinal behind the last durable record."""
        return self._first if self._entry_suspect else self._next

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return self._sealed_bytes + self._end

    @property
    def wants_rotation(self) -> bool:
        """Whether the segment is full; it still takes records."""
        return self._end - self._head_end >= self._segment_bytes

    def append(self, records: Sequence[tuple[int, bytes]]) -> int:
        """Write `(kind, payload)` records and return the ordinal of the first when all are on the device.

        Raises:
            LogUnavailable: nothing of it counts; the file is cut back now or before the next append.
        """
        data = encode_records(records)
        self._attempt(data)
        first = self._next
        self._end += len(data)
        self._next += len(records)
        return first

    def probe(self, size: int) -> None:
        """Find out whether `size` bytes can be written: write and flush as many zeros, then cut them off.

        Raises:
            LogUnavailable: they cannot.
        """
        self._attempt(bytes(size))
        self._suspect = True
        self._attempt(b"")

    def rotate(self, head: Sequence[tuple[int, bytes]]) -> None:
        """Begin a new segment with the records of `head`; does nothing while the segment has no records.

        Raises:
            LogUnavailable: the log goes on in the segment before or, where only the directory could not be flushed, in
                the new one, after the next append has flushed it.
        """
        self._attempt(b"")
        if self._next == self._first:
            return
        try:
            file, end = self._write_segment(self._next, head)
        except OSError as error:
            raise LogUnavailable(f"cannot begin a log segment: {error.strerror or error}") from error
        self._file.close()
        self._file = file
        self._sealed_bytes += self._end
        self._first, self._next = self._next, self._next + len(head)
        self._head_end = self._end = end
        self._entry_suspect = True
        self._attempt(b"")

    def sealed(self) -> list[int]:
        """Return the first ordinals of the segments before the one that is written to, ascending."""
        return [first for first in segment_starts(self._disk.names(self._directory)) if first < self._first]

    def drop_oldest(self, first: int) -> None:
        """Remove the oldest segment, which is sealed; raises OSError."""
        if self.sealed()[:1] != [first]:
            raise ValueError(f"segment {first} is not the oldest of several")
        path = segment_path(self._directory, first)
        size = self._disk.size(path)
        self._disk.unlink(path)
        self._sealed_bytes -= size
        self._disk.sync_directory(self._directory)

    def exchange(self, first: int, smaller: Path) -> None:
        """Put a file with as many records in the place of a sealed segment; raises OSError."""
        if first not in self.sealed():
            raise ValueError(f"segment {first} is not sealed")
        path = segment_path(self._directory, first)
        before = self._disk.size(path)
        self._disk.rename(smaller, path)
        self._sealed_bytes += self._disk.size(path) - before
        self._disk.sync_directory(self._directory)

    def last_segment(self) -> Iterator[Record]:
        """Yield the records of the last segment, its head first."""
        data = self._disk.read(segment_path(self._directory, self._first), 0, self._end)
        for offset, frame in enumerate(framing.scan(data), self._first):
            yield Record(offset, frame.kind, frame.payload)

    def close(self) -> None:
        """Close the segment and let another process open the log."""
        self._file.close()
        self._lock.release()

    def _attempt(self, data: bytes) -> None:
        """Write `data` behind what counts, durably; on failure try to cut the file back."""
        try:
            self._make_sound()
            if data:
                self._suspect = True
                self._file.write(data)
                self._file.sync()
                self._suspect = False
        except OSError as error:
            with suppress(OSError):
                self._make_sound()
            raise LogUnavailable(f"cannot write the log: {error.strerror or error}") from error

    def _make_sound(self) -> None:
        """After a failure, cut off what does not count and flush what was not flushed."""
        if self._entry_suspect:
            self._disk.sync_directory(self._directory)
            self._entry_suspect = False
        if self._suspect:
            self._file.truncate(self._end)
            self._file.sync()
            self._suspect = False

    def _write_segment(self, first: int, head: Sequence[tuple[int, bytes]]) -> tuple[DiskFile, int]:
        """Write a segment that holds `head` under a temporary name, flush it, give it its name; flush no entry."""
        path = segment_path(self._directory, first)
        temporary = path.with_suffix(TEMPORARY)
        data = framing.MAGIC + encode_records(head)
        file = self._disk.create(temporary)
        try:
            file.write(data)
            file.sync()
            self._disk.rename(temporary, path)
        except OSError:
            file.close()
            with suppress(OSError):
                self._disk.unlink(temporary)
            raise
        return file, len(data)

    def _recover(self) -> None:
        names = self._disk.names(self._directory)
        starts = segment_starts(names)
        check_versions(self._directory, self._disk, starts)
        for name in names:
            if name.endswith(TEMPORARY):
                self._disk.unlink(self._directory / name)
        if starts:
            self._sealed_bytes = sum(self._disk.size(segment_path(self._directory, first)) for first in starts[:-1])
            self._first = starts[-1]
            self._repair_tail(names)
        else:
            self._file, self._end = self._write_segment(0, [])
        self._head_end = len(framing.MAGIC)
        self._disk.sync_directory(self._directory)

    def _repair_tail(self, names: Sequence[str]) -> None:
        path = segment_path(self._directory, self._first)
        data = self._disk.read(path)
        if not data.startswith(framing.MAGIC) and not framing.MAGIC.startswith(data):
            raise LogDamagedError(f"{path} does not begin as a log segment; move it away to start without it")
        self._next, self._end = self._first, min(len(data), len(framing.MAGIC))
        for frame in framing.scan(data):
            self._next += 1
            self._end = frame.end
            if frame.kind not in framing.LOG_KINDS:
                self.strange_kinds.add(frame.kind)
        self.repaired_bytes = len(data) - self._end
        if self.repaired_bytes:
            number = sum(name.startswith(f"{path.name}.torn-") for name in names)
            self._keep(path.with_name(f"{path.name}.torn-{number}"), data[self._end :])
        # A process that died after a failed flush leaves pages that read well and are not on the device. All are
        # written again in place, which changes nothing else and needs no room on a full disk.
        self._file = self._disk.open(path)
        self._file.truncate(self._end)
        self._file.overwrite(0, data[: self._end])
        if self._end < len(framing.MAGIC):
            self._file.write(framing.MAGIC[self._end :])
            self._end = len(framing.MAGIC)
        self._file.sync()

    def _keep(self, path: Path, data: bytes) -> None:
        """Put torn bytes aside for a human; on a full disk they are let go, for nothing in them was ever acked."""
        try:
            file = self._disk.create(path)
            try:
                file.write(data)
                file.sync()
            finally:
                file.close()
        except OSError:
            with suppress(OSError):
                self._disk.unlink(path)
