"""Writing side of the spool: a bounded, checksummed, crash-safe segment log, one directory a writer.

`<spool_dir>/<writer_uuid>/` holds segments named after the first sequence number in them (`%020d.seg`). Each opens with
`framing.MAGIC` and the descriptor frame in force, so that it can be read alone. Every frame is one `write`, hence it
survives SIGKILL of the trainer; a torn tail is what the checksum is for. Beside the segments lie `meta.json` (where to
send; no secrets), `writer.lock` (held while the writer lives), `cursor.json` (the forwarder's), `reserve` (room for the
last words on a full disk) and `ended` (written at the end).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from topowatch_protos import framing
from topowatch_protos.schema import SCHEMA
from topowatch_protos.v1 import ingest_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

META, LOCK, CURSOR, ENDED, RESERVE = "meta.json", "writer.lock", "cursor.json", "ended", "reserve"
WISHES = "wishes.json"  # of the daemon, for the job; the forwarder's
REJECTED_LOG = "rejected.log"  # what the daemon refused and why; the forwarder's
FORWARDER_LOCK = "forwarder.lock"  # in the spool directory itself
_UNFINISHED = ".new-"  # a directory that does not yet hold all that belongs in it
_MAX_SEGMENT_BYTES = 8 << 20
_RESERVE_BYTES = 64 << 10
_CALM_APPENDS = 64  # this many without trouble, and the next trouble is worth a new warning
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_log = logging.getLogger("topowatch")


class Lost(NamedTuple):
    """A range of sequence numbers that will never arrive, both ends included."""

    incarnation: int
    first: int
    last: int


class _Segment(NamedTuple):
    path: Path
    first_seq: int


class SpoolWriter:
    """Appends encoded items for the forwarder; disk trouble never leaves it, it is counted.

    When the spool or the disk is full the oldest segment goes; where none is left to go, or the disk fails otherwise,
    the newest item does. Either way the range of lost sequence numbers is written into the spool itself as soon as that
    is possible, at the latest with the last words, for which some room is kept, so that the daemon learns of it.
    """

    def __init__(self, spool_dir: Path, writer_uuid: str, meta: Mapping[str, Any], max_bytes: int) -> None:
        """Create the writer's directory, whole from its first moment.

        Raises:
            OSError: The directory cannot be written.
        """
        spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = spool_dir / writer_uuid
        self.next_seq = 0
        self.dropped = 0
        self._reserve_bytes = min(_RESERVE_BYTES, max_bytes // 16)
        self._max_bytes = max_bytes - self._reserve_bytes
        self._segment_bytes = min(_MAX_SEGMENT_BYTES, self._max_bytes // 8)
        self._descriptor = b""
        self._lives: list[tuple[int, int]] = []  # (first seq, incarnation), oldest first
        self._lost: list[Lost] = []  # not yet reported
        self._reported: list[tuple[int, Lost]] = []  # with the sequence number of the report
        self._segments: list[_Segment] = []
        self._older_bytes = 0  # of all segments but the open one
        self._fd = -1
        self._closed = False
        self._length = 0  # of the open segment, whole frames only
        self._calm = _CALM_APPENDS  # items written since the last trouble
        hidden = spool_dir / f"{_UNFINISHED}{writer_uuid}"
        hidden.mkdir(mode=0o700)
        # A POSIX record lock: it ends with this process and, unlike flock, no forked child keeps it alive.
        self._lock_fd = os.open(hidden / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (hidden / META).write_text(json.dumps({**meta, "boot": boot_id()}), encoding="utf-8")
        hidden.rename(self.directory)
        self._keep_reserve()

    def __reduce__(self) -> NoReturn:
        # A copy would share the descriptors: once one of the two closes them, their numbers are somebody else's files.
        raise TypeError("a SpoolWriter cannot be copied or pickled")

    @property
    def size_bytes(self) -> int:
        """Bytes on disk that were not yet acked and removed, or dropped; as of the last append."""
        return self._older_bytes + max(self._length, 0)

    def begin(self, incarnation: int, descriptor: bytes) -> None:
        """Start an incarnation: the encoded RunDescriptor governs all items that follow."""
        if self._closed:
            return
        self._descriptor = descriptor
        self._lives.append((self.next_seq, incarnation))
        try:
            if self._fd < 0:
                self._rotate()
            else:
                self._write(framing.encode(framing.SpoolKind.DESCRIPTOR, descriptor))
        except OSError as error:
            self._note_trouble(error)
            self._abandon_segment()  # the next one opens with the descriptor

    def append(self, item: bytes, *, vital: bool = False) -> bool:
        """Write one encoded Item under the next sequence number; return whether it is in the spool.

        Args:
            item: The encoded Item.
            vital: It is the last and has to get through: on a full disk the reserve and older segments are given up.
        """
        if self._closed:
            return False
        self._report_lost(vital=vital)
        again = True
        while True:
            try:
                self._write_item(item)
            except OSError as error:
                self._note_trouble(error)
                if again and error.errno in _NO_ROOM and self._free_room(vital=vital):
                    again = vital  # no more than one segment for an ordinary item: some disks free the room only later
                    continue
                self.next_seq += 1
                self._lose(self.next_seq - 1, self.next_seq - 1)
                return False
            self._calm += 1
            return True

    def acked(self) -> int:
        """Return the sequence number below which the daemon has everything, as the forwarder last wrote it."""
        return int(read_cursor(self.directory).get("next_seq", 0))

    def close(self, *, ended: bool) -> None:
        """Stop writing for good; `ended` says that nothing of this run will follow."""
        if self._closed:
            return
        self._report_lost(vital=True)
        self._closed = True
        self._abandon_segment()
        self._give_up_reserve()
        if ended:
            try:
                (self.directory / ENDED).touch()
            except OSError as error:
                _log.warning("topowatch: the end of the spool cannot be marked: %s", error)
        lock_fd, self._lock_fd = self._lock_fd, -1
        os.close(lock_fd)

    def _write_item(self, item: bytes) -> None:
        envelope = ingest_pb2.Envelope(seq=self.next_seq, item=item).SerializeToString()
        frame = framing.encode(framing.SpoolKind.ENVELOPE, envelope)
        if self._fd < 0 or self._length + len(frame) > self._segment_bytes:
            self._rotate()
        # First: a signal handler may raise behind any line, and a number that was written is never given out again.
        self.next_seq += 1
        try:
            self._write(frame)
        except OSError:
            self.next_seq -= 1
            raise

    def _write(self, data: bytes) -> None:
        """Append whole frames or nothing."""
        behind = self._length + len(data)
        try:
            _write_all(self._fd, data)
            self._length = behind
        except OSError:
            try:
                os.ftruncate(self._fd, self._length)
            except OSError:
                self._abandon_segment()  # readers stop at its torn end and go on with the next segment
            raise
        except BaseException:  # of a signal handler: we do not know whether the data is there
            self._abandon_segment()
            raise

    def _rotate(self) -> None:
        self._abandon_segment()
        self._make_room()
        path = self.directory / f"{self.next_seq:020d}.seg"
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._write(framing.MAGIC + framing.encode(framing.SpoolKind.DESCRIPTOR, self._descriptor))
        except BaseException:  # nothing is written behind a head that may be missing
            self._abandon_segment()
            path.unlink(missing_ok=True)  # else a full disk fills up with empty ones
            raise
        if not self._segments or self._segments[-1].path != path:
            self._segments.append(_Segment(path, self.next_seq))
        self._keep_reserve()

    def _abandon_segment(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1  # first: whatever `close` says, the number is no longer ours
            self._older_bytes += self._length
            self._length = 0
            os.close(fd)

    def _make_room(self) -> None:
        """Forget segments that the forwarder removed, then drop the oldest until one more segment fits."""
        measured = [(segment, _size(segment.path)) for segment in self._segments]
        sizes = {segment: size for segment, size in measured if size is not None}
        self._segments = list(sizes)
        while self._segments and sum(sizes.values()) + self._segment_bytes > self._max_bytes:
            del sizes[self._drop_oldest()]
        self._older_bytes = sum(sizes.values())

    def _drop_oldest(self) -> _Segment:
        oldest = self._segments.pop(0)
        behind = self._segments[0].first_seq if self._segments else self.next_seq
        acked = self.acked()
        oldest.path.unlink(missing_ok=True)
        if acked < behind:
            self._lose(max(oldest.first_seq, acked), behind - 1)
            # Reports that went with the segment have to be made again.
            gone = [lost for seq, lost in self._reported if acked <= seq < behind]
            self._lost = _merged([*gone, *self._lost])
        self._reported = [(seq, lost) for seq, lost in self._reported if seq >= max(behind, acked)]
        return oldest

    def _free_room(self, *, vital: bool) -> bool:
        """Give something up for what has to be written now; False when nothing is left to give."""
        if vital and self._give_up_reserve():
            return True
        if len(self._segments) == 1 and self._fd >= 0 and self.acked() >= self.next_seq:
            self._abandon_segment()  # nothing is lost with it
        while len(self._segments) > (self._fd >= 0):  # the open one stays
            size = _size(self._segments[0].path)
            self._drop_oldest()
            if size:  # else the forwarder removed it before
                self._older_bytes = max(0, self._older_bytes - size)
                return True
        return False

    def _keep_reserve(self) -> None:
        """Hold some room on the disk, which `_give_up_reserve` sets free."""
        path = self.directory / RESERVE
        if path.exists():
            return
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._reserve_bytes)
            finally:
                os.close(fd)
        except OSError:
            self._give_up_reserve()  # tried again with the next segment

    def _give_up_reserve(self) -> bool:
        try:
            (self.directory / RESERVE).unlink()
        except OSError:
            return False
        return True

    def _note_trouble(self, error: OSError) -> None:
        """Warn, but once as long as it lasts."""
        if self._calm >= _CALM_APPENDS:
            _log.warning("topowatch: the spool cannot be written, samples are being dropped: %s", error)
        self._calm = 0

    def _lose(self, first: int, last: int) -> None:
        """Note a range, cut where the incarnation changes."""
        self.dropped += last - first + 1
        bounds = [*(start for start, _ in self._lives), last + 1]
        for (start, incarnation), behind in zip(self._lives, bounds[1:], strict=True):
            if max(start, first) <= min(behind - 1, last):
                self._lost.append(Lost(incarnation, max(start, first), min(behind - 1, last)))
        self._lost = _merged(self._lost)

    def _report_lost(self, *, vital: bool = False) -> None:
        while self._lost:
            lost = self._lost.pop(0)
            dropped = sample_pb2.DroppedRange(incarnation=lost.incarnation, first_seq=lost.first, last_seq=lost.last)
            try:
                self._write_item(sample_pb2.Item(schema=SCHEMA, dropped=dropped).SerializeToString())
            except OSError as error:
                self._lost = _merged([lost, *self._lost])
                if vital and error.errno in _NO_ROOM and self._free_room(vital=True):
                    continue
                return
            self._reported.append((self.next_seq - 1, lost))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _write_all(fd: int, data: bytes) -> None:
    if os.write(fd, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _merged(ranges: list[Lost]) -> list[Lost]:
    """Sort ranges and join those that touch."""
    merged: list[Lost] = []
    for lost in sorted(ranges, key=lambda item: item.first):
        if merged and merged[-1].incarnation == lost.incarnation and merged[-1].last + 1 >= lost.first:
            merged[-1] = Lost(lost.incarnation, merged[-1].first, max(merged[-1].last, lost.last))
        else:
            merged.append(lost)
    return merged


def read_cursor(directory: Path) -> dict[str, Any]:
    """Return what the forwarder noted about a writer's directory; empty if it has not begun."""
    try:
        cursor = json.loads((directory / CURSOR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cursor if isinstance(cursor, dict) else {}


def read_meta(directory: Path) -> dict[str, Any] | None:
    """Return what the writer noted about itself, None if that is missing or damaged."""
    try:
        meta = json.loads((directory / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) else None


def stranger(directory: Path) -> int | None:
    """Return the user id of whoever made a writer's directory, if it is not ours; raises OSError."""
    owner = directory.stat().st_uid
    return None if owner == os.geteuid() else owner


def boot_id() -> str:
    """Return what tells this kernel's life from all others; containers share their host's."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def writer_alive(directory: Path) -> bool:
    """Say whether the process that writes here still lives, or cannot be known not to: it holds the lock until it ends.

    Not for use within that process, whose lock it would release: POSIX record locks belong to processes.
    """
    try:
        fd = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def writer_directories(spool_dir: Path) -> list[Path]:
    """Return the directories of all writers that can be read, oldest first."""
    found: list[tuple[int, Path]] = []
    try:
        entries = [entry for entry in spool_dir.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return []
    for entry in entries:
        with contextlib.suppress(OSError):  # no writer's, just put away, or another user's
            (entry / META).stat()
            found.append((entry.stat().st_mtime_ns, entry))
    return [entry for _, entry in sorted(found)]


def remove_unfinished(spool_dir: Path, older_than: float) -> None:
    """Remove what processes left that were killed while they made their directory, `older_than` seconds ago or more."""
    for path in spool_dir.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):  # somebody else's, or removed by now
            if time.time() - path.stat().st_mtime >= older_than and not writer_alive(path):
                shutil.rmtree(path)
