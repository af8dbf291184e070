"""The durable log: what it gives back after any end, and what it says when it cannot be opened or written."""

from __future__ import annotations

import errno
import tempfile
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topowatch_monitor.store import reader as reader_module
from topowatch_monitor.store.disk import OsDisk, OsFile
from topowatch_monitor.store.log import (
    Log,
    LogDamagedError,
    LogLockedError,
    LogUnavailable,
    LogVersionError,
    segment_starts,
)
from topowatch_monitor.store.reader import LogReader

if TYPE_CHECKING:
    from collections.abc import Iterator

Entry = tuple[int, bytes]
groups = st.lists(st.lists(st.tuples(st.integers(1, 6), st.binary(max_size=40)), min_size=1, max_size=4), max_size=8)


@contextmanager
def opened(directory: Path, segment_bytes: int = 64 << 20, disk: OsDisk | None = None) -> Iterator[Log]:
    log = Log.open(directory, disk or OsDisk(), segment_bytes=segment_bytes)
    try:
        yield log
    finally:
        log.close()


def read_all(directory: Path, end: int, start: int = 0) -> list[tuple[int, int, bytes]]:
    return [tuple(record) for record in LogReader(directory, OsDisk()).read(start, end)]


def write(directory: Path, batches: list[list[Entry]], segment_bytes: int = 64 << 20) -> list[Entry]:
    """Append the batches, rotating with a head of one record where the log asks for it; return all records."""
    written: list[Entry] = []
    with opened(directory, segment_bytes) as log:
        for batch in batches:
            assert log.append(batch) == len(written)
            written += batch
            if log.wants_rotation:
                log.rotate([(1, b"head")])
                written.append((1, b"head"))
        assert log.next_offset == len(written)
    return written


def last_segment(directory: Path) -> tuple[int, Path]:
    first = segment_starts([path.name for path in directory.iterdir()])[-1]
    return first, directory / f"{first:020d}.seg"


@given(groups)
def test_records_come_back_in_order_over_segments_and_restarts(batches: list[list[Entry]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "log"
        written = write(directory, batches, segment_bytes=60)
        expected = [(offset, kind, payload) for offset, (kind, payload) in enumerate(written)]
        assert read_all(directory, len(written)) == expected
        with opened(directory) as log:
            assert log.next_offset == len(written)
            assert log.repaired_bytes == 0
            first = last_segment(directory)[0]
            assert [tuple(record) for record in log.last_segment()] == expected[first:]
            assert log.size_bytes == sum(path.stat().st_size for path in directory.glob("*.seg"))


@given(groups, st.data())
def test_a_tail_torn_at_any_byte_costs_only_the_torn_record(batches: list[list[Entry]], data: st.DataObject) -> None:
    """Every record that is whole is there, none is invented, the torn bytes are kept, and appending goes on."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "log"
        written = write(directory, batches, segment_bytes=100)
        first, path = last_segment(directory)
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        with opened(directory) as log:
            kept = log.next_offset
            assert log.append([(3, b"after")]) == kept
        expected = [*written[:kept], (3, b"after")]
        assert [(kind, payload) for _, kind, payload in read_all(directory, kept + 1)] == expected
        ends = list(accumulate((9 + len(payload) for _, payload in written[first:]), initial=8))
        assert kept == first + sum(end <= cut for end in ends[1:])
        torn = b"".join(torn.read_bytes() for torn in directory.glob("*.torn-*"))
        assert torn == whole[ends[kept - first] : cut] if cut >= 8 else not torn


@given(groups.filter(bool), st.data())
def test_a_flipped_byte_is_never_handed_on(batches: list[list[Entry]], data: st.DataObject) -> None:
    """Whatever the reader gives is a record that was written, at its own offset."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "log"
        written = write(directory, batches, segment_bytes=100)
        path = data.draw(st.sampled_from(sorted(directory.glob("*.seg"))))
        content = bytearray(path.read_bytes())
        position = data.draw(st.integers(8, max(8, len(content) - 1)))
        if position < len(content):
            content[position] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        for offset, kind, payload in read_all(directory, len(written)):
            assert written[offset] == (kind, payload)


def test_the_reader_leaves_out_only_the_damaged_record(tmp_path: Path) -> None:
    """A damaged payload in the middle costs one record, because the frame behind it proves where it ends."""
    written = write(tmp_path, [[(2, bytes([n]) * 30) for n in range(10)]])
    path = last_segment(tmp_path)[1]
    content = bytearray(path.read_bytes())
    content[8 + 4 * 39 + 20] ^= 1
    path.write_bytes(content)
    reader = LogReader(tmp_path, OsDisk())
    assert [record.offset for record in reader.read(0, len(written))] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert reader.lost_records == 1


def test_the_reader_goes_on_in_the_next_segment_where_a_length_is_damaged(tmp_path: Path) -> None:
    written = write(tmp_path, [[(2, bytes([n]) * 30)] for n in range(8)], segment_bytes=100)
    first, second = segment_starts([path.name for path in tmp_path.iterdir()])[:2]
    path = tmp_path / f"{first:020d}.seg"
    content = bytearray(path.read_bytes())
    content[8 + 4 + 3] ^= 0x40  # the top of the first frame's length
    path.write_bytes(content)
    reader = LogReader(tmp_path, OsDisk())
    assert [record.offset for record in reader.read(0, len(written))] == list(range(second, len(written)))
    assert reader.lost_records == second


class CountingDisk(OsDisk):
    """Counts the bytes that are read."""

    def __init__(self) -> None:
        self.bytes_read = 0

    def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
        data = super().read(path, start, size)
        self.bytes_read += len(data)
        return data


def test_reading_on_at_the_tail_does_not_read_the_segment_again(tmp_path: Path) -> None:
    disk = CountingDisk()
    reader = LogReader(tmp_path, disk)
    with opened(tmp_path) as log:
        for number in range(200):
            offset = log.append([(2, number.to_bytes(4, "big") * 250)])
            (record,) = reader.read(offset, log.next_offset)
            assert record == (offset, 2, number.to_bytes(4, "big") * 250)
    assert disk.bytes_read < 2 * 200 * 1009


def test_frames_longer_than_a_chunk_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "CHUNK_BYTES", 64)
    written = write(tmp_path, [[(2, b"a" * 10), (2, b"b" * 1000), (3, b"c" * 60), (2, b"")] for _ in range(3)])
    assert [entry[1:] for entry in read_all(tmp_path, 12)] == written
    assert [entry[0] for entry in read_all(tmp_path, 9, start=5)] == [5, 6, 7, 8]


def test_nothing_above_the_asked_end_is_read(tmp_path: Path) -> None:
    write(tmp_path, [[(2, b"x")] * 5])
    assert [record[0] for record in read_all(tmp_path, 3)] == [0, 1, 2]


class FailingFile(OsFile):
    """A file whose named operations fail for a while."""

    failing: frozenset[str] = frozenset()

    def write(self, data: bytes) -> None:
        if "write" in self.failing:
            super().write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(data)

    def sync(self) -> None:
        if "sync" in self.failing:
            raise OSError(errno.EIO, "Input/output error")
        super().sync()

    def truncate(self, size: int) -> None:
        if "truncate" in self.failing:
            raise OSError(errno.EIO, "Input/output error")
        super().truncate(size)


class FailingDisk(OsDisk):
    """A disk of such files."""

    def create(self, path: Path) -> FailingFile:
        return FailingFile(path, 0o1100)  # O_CREAT | O_TRUNC

    def open(self, path: Path) -> FailingFile:
        return FailingFile(path, 0)


@pytest.mark.parametrize(
    ("failing", "says"),
    [({"write"}, "No space left"), ({"sync"}, "Input/output error"), ({"write", "truncate", "sync"}, "No space left")],
)
def test_a_failed_append_leaves_nothing_and_a_later_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: set[str], says: str
) -> None:
    with opened(tmp_path, disk=FailingDisk()) as log:
        log.append([(2, b"before")])
        monkeypatch.setattr(FailingFile, "failing", frozenset(failing))
        for _ in range(2):
            with pytest.raises(LogUnavailable, match=says if "truncate" not in failing else "No space|Input/output"):
                log.append([(2, b"lost" * 100)])
            assert log.next_offset == 1
        monkeypatch.setattr(FailingFile, "failing", frozenset())
        assert log.append([(2, b"after")]) == 1
    assert [payload for _, _, payload in read_all(tmp_path, 2)] == [b"before", b"after"]
    with opened(tmp_path) as log:
        assert log.repaired_bytes == 0
        assert log.next_offset == 2


def test_a_probe_tells_whether_there_is_room_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, disk=FailingDisk()) as log:
        log.append([(2, b"x")])
        size = last_segment(tmp_path)[1].stat().st_size
        log.probe(100_000)
        assert last_segment(tmp_path)[1].stat().st_size == size
        monkeypatch.setattr(FailingFile, "failing", frozenset({"write"}))
        with pytest.raises(LogUnavailable, match="No space left"):
            log.probe(100_000)
        monkeypatch.undo()
        assert log.append([(2, b"y")]) == 1
    assert len(read_all(tmp_path, 2)) == 2


def test_a_failed_rotation_goes_on_in_the_old_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path, segment_bytes=1, disk=FailingDisk()) as log:
        log.append([(2, b"x")])
        monkeypatch.setattr(FailingFile, "failing", frozenset({"write"}))
        with pytest.raises(LogUnavailable, match="No space left"):
            log.rotate([(1, b"head")])
        monkeypatch.undo()
        assert log.append([(2, b"y")]) == 1
        assert log.wants_rotation
        log.rotate([(1, b"head")])
        assert log.next_offset == 3
        assert [record.payload for record in log.last_segment()] == [b"head"]
    assert [payload for _, _, payload in read_all(tmp_path, 3)] == [b"x", b"y", b"head"]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".seg", ".seg"]


def test_a_second_daemon_is_told_that_the_directory_is_taken(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        with pytest.raises(LogLockedError, match="another daemon is using"):
            Log.open(tmp_path, OsDisk())
        log.append([(2, b"still mine")])
    with opened(tmp_path) as log:
        assert log.next_offset == 1


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(LogUnavailable, match=r"cannot use .*file/log for the log: Not a directory"):
        Log.open(tmp_path / "file" / "log", OsDisk())


def test_a_foreign_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / f"{0:020d}.seg"
    path.write_bytes(b"something else entirely")
    with pytest.raises(LogDamagedError, match="does not begin as a log segment"):
        Log.open(tmp_path, OsDisk())
    assert path.read_bytes() == b"something else entirely"
    path.unlink()
    with opened(tmp_path) as log:  # the failed attempt has let go of the lock
        assert log.next_offset == 0


@pytest.mark.parametrize("which", [0, -1])
def test_a_log_of_another_version_is_refused_and_nothing_of_it_is_changed(tmp_path: Path, which: int) -> None:
    write(tmp_path, [[(2, bytes([n]) * 30)] for n in range(8)], segment_bytes=100)
    (tmp_path / "half.tmp").write_bytes(b"perhaps of use to the other version")
    path = sorted(tmp_path.glob("*.seg"))[which]
    path.write_bytes(b"TOPOSEG2" + path.read_bytes()[8:-1])  # a torn tail, too
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.name != "lock"}
    with pytest.raises(LogVersionError, match=f"{path.name} is of version 2 .* reads version 1: nothing was changed"):
        Log.open(tmp_path, OsDisk())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.name != "lock"} == before


def test_records_of_kinds_that_are_not_known_are_kept_and_told(tmp_path: Path) -> None:
    written = write(tmp_path, [[(2, b"known"), (77, b"not known"), (2, b"known")]])
    with opened(tmp_path) as log:
        assert log.strange_kinds == {77}
        assert log.append([(2, b"after")]) == 3
    assert [entry[1:] for entry in read_all(tmp_path, 4)] == [*written, (2, b"after")]


def test_leftovers_of_a_rotation_that_never_finished_are_removed(tmp_path: Path) -> None:
    write(tmp_path, [[(2, b"x")]])
    (tmp_path / f"{1:020d}.tmp").write_bytes(b"half a head")
    with opened(tmp_path) as log:
        assert log.next_offset == 1
    assert not list(tmp_path.glob("*.tmp"))
