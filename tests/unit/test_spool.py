"""The spool on disk: what was written is read again, whatever happened to the end of it, and loss is reported."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topowatch_client import messages, spool, spool_reader
from topowatch_client.spool_reader import SpoolReader, segments_of
from topowatch_protos import framing
from topowatch_protos.v1 import run_pb2, sample_pb2

if TYPE_CHECKING:
    import pytest

    from topowatch_client.spool_reader import Entry


def descriptor(incarnation: int = 1, start_step: int = 0, first_seq: int = 0) -> bytes:
    facts = messages.RunFacts("g", "r", 0, 1, 1, "w", {"lr": "0.1"}, 1021, 0, 10)
    return messages.encode_descriptor(
        facts, incarnation=incarnation, start_step=start_step, first_seq=first_seq, probe=None
    )


def open_writer(directory: Path, max_bytes: int = 1 << 20, name: str = "w") -> spool.SpoolWriter:
    made = spool.SpoolWriter(directory, name, {"endpoint": "127.0.0.1:1", "mode": "online"}, max_bytes)
    made.begin(1, descriptor())
    return made


def item(step: int, size: int = 0) -> bytes:
    return sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=step, probe_losses=bytes(size))).SerializeToString()


def read_all(directory: Path, next_seq: int = 0) -> list[Entry]:
    reader, entries = SpoolReader(directory, next_seq), []
    while part := reader.read(1 << 30, 1 << 30):
        entries += part
    return entries


def dropped_ranges(entries: list[Entry]) -> list[tuple[int, int, int]]:
    bodies = [sample_pb2.Item.FromString(entry.envelope.item) for entry in entries]
    return [(b.dropped.incarnation, b.dropped.first_seq, b.dropped.last_seq) for b in bodies if b.HasField("dropped")]


def test_what_was_written_is_read_in_order_and_once(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    for step in range(100):
        assert writer.append(item(step))
    entries = read_all(writer.directory)
    assert [entry.seq for entry in entries] == list(range(100))
    assert [entry.envelope.item for entry in entries] == [item(step) for step in range(100)]
    assert entries[0].descriptor == run_pb2.RunDescriptor.FromString(writer._descriptor)


def test_a_reader_follows_a_writer_over_segments_and_resumes_anywhere(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    reader = SpoolReader(writer.directory)
    seen = []
    for step in range(60):
        writer.append(item(step, 10_000))
        if step % 7 == 0:
            seen += [entry.seq for entry in reader.read(1 << 30, 1 << 30)]
    while part := reader.read(25_000, 2):
        assert len(part) <= 2
        seen += [entry.seq for entry in part]
    assert seen == list(range(60))
    assert len(segments_of(writer.directory)) > 3
    assert [entry.seq for entry in read_all(writer.directory, 37)] == list(range(37, 60))


def _stuck_reader(tmp_path: Path) -> SpoolReader:
    """Return a reader of a spool with a new segment that neither the directory's time nor the old segment shows."""
    writer = open_writer(tmp_path)
    writer.append(item(0))
    reader = SpoolReader(writer.directory)
    assert [entry.seq for entry in reader.read(1 << 30, 1 << 30)] == [0]
    assert reader.read(1 << 30, 1 << 30) == []
    before = writer.directory.stat()
    writer._rotate()
    writer.append(item(1))
    os.utime(writer.directory, ns=(before.st_atime_ns, before.st_mtime_ns))
    return reader


def test_what_a_coarse_clock_hides_is_read_after_some_looks(tmp_path: Path) -> None:
    reader = _stuck_reader(tmp_path)
    assert reader.read(1 << 30, 1 << 30) == []
    found = [entry.seq for _ in range(spool_reader._LOOKS_SKIPPED) for entry in reader.read(1 << 30, 1 << 30)]
    assert found == [1]


def test_what_a_coarse_clock_hides_is_read_before_a_spool_is_judged(tmp_path: Path) -> None:
    reader = _stuck_reader(tmp_path)
    reader.look_again()
    assert [entry.seq for entry in reader.read(1 << 30, 1 << 30)] == [1]


def test_batches_respect_bytes_items_and_incarnations(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    for step in range(4):
        writer.append(item(step, 1000))
    writer.begin(2, descriptor(2, 1, 4))
    writer.append(item(1))
    reader = SpoolReader(writer.directory)
    assert [entry.seq for entry in reader.read(1, 10)] == [0]  # one at least, however large
    assert [entry.seq for entry in reader.read(2500, 10)] == [1, 2]
    assert [(entry.seq, entry.descriptor.incarnation) for entry in reader.read(1 << 20, 10)] == [(3, 1)]
    assert [(entry.seq, entry.descriptor.incarnation) for entry in reader.read(1 << 20, 10)] == [(4, 2)]
    assert reader.read(1 << 20, 10) == []


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_torn_tail_costs_the_torn_items_only(tmp_path: Path, data: st.DataObject) -> None:
    """Cut at any byte, the whole frames before the cut are read and nothing else is."""
    directory = tmp_path / "torn"
    directory.mkdir(exist_ok=True)
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=6))
    described = run_pb2.RunDescriptor(incarnation=1).SerializeToString()
    content = framing.MAGIC + framing.encode(framing.SpoolKind.DESCRIPTOR, described)
    ends = []
    for seq, size in enumerate(sizes):
        payload = spool.ingest_pb2.Envelope(seq=seq, item=item(seq, size)).SerializeToString()
        content += framing.encode(framing.SpoolKind.ENVELOPE, payload)
        ends.append(len(content))
    cut = data.draw(st.integers(0, len(content)))
    segment = directory / f"{0:020d}.seg"
    segment.write_bytes(content[:cut])
    whole = sum(end <= cut for end in ends)
    reader = SpoolReader(directory)
    assert [entry.seq for entry in reader.read(1 << 20, 100)] == list(range(whole))
    segment.write_bytes(content)  # the writer was only half-way through: the rest arrives
    assert [entry.seq for entry in reader.read(1 << 20, 100)] == list(range(whole, len(sizes)))


def test_damage_in_an_older_segment_is_passed_over(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    for step in range(60):
        writer.append(item(step, 10_000))
    segments = segments_of(writer.directory)
    content = bytearray(segments[1].read_bytes())
    content[len(content) // 2] ^= 1
    segments[1].write_bytes(content)
    first, behind = int(segments[1].stem), int(segments[2].stem)
    seen = [entry.seq for entry in read_all(writer.directory)]
    assert seen == sorted(set(seen))
    lost = set(range(60)) - set(seen)
    assert lost
    assert lost < set(range(first, behind))


def test_overflow_drops_whole_oldest_segments_and_reports_the_range(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, 1 << 16)
    for step in range(200):
        writer.append(item(step, 2000))
    entries = read_all(writer.directory)
    on_disk = {entry.seq for entry in entries}
    lost = set(range(writer.next_seq)) - on_disk
    assert lost
    assert writer.dropped == len(lost)
    reported: set[int] = set()
    writer.append(item(200))  # whatever is not yet reported goes first
    for incarnation, first, last in dropped_ranges(read_all(writer.directory)):
        assert incarnation == 1
        reported |= set(range(first, last + 1))
    assert lost <= reported
    assert sum(path.stat().st_size for path in segments_of(writer.directory)) <= 1 << 16
    assert writer.size_bytes <= 1 << 16


def test_ranges_are_cut_where_the_incarnation_changes(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, 1 << 16)
    writer.append(item(0))
    writer.begin(2, descriptor(2, 0, 1))
    for step in range(100):
        writer.append(item(step, 2000))
    writer.close(ended=True)  # whatever is not yet reported is now
    ranges = dropped_ranges(read_all(writer.directory))
    assert (1, 0, 0) in ranges
    assert {incarnation for incarnation, first, _ in ranges if first > 0} == {2}


def test_what_was_acked_is_not_reported_as_dropped(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, 1 << 16)
    for step in range(20):
        writer.append(item(step, 2000))
    (writer.directory / spool.CURSOR).write_text('{"next_seq": 20}')
    for step in range(20, 45):
        writer.append(item(step, 2000))
    assert not [seq for _, seq, _ in dropped_ranges(read_all(writer.directory)) if seq < 20]


def full_disk(monkeypatch: pytest.MonkeyPatch, room: list[int]) -> None:
    """Let `os.write` write `room[0]` more bytes, then find the disk full."""
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if len(data) <= room[0]:
            room[0] -= len(data)
            return real(fd, data)
        part = real(fd, data[: room[0]])
        room[0] = 0
        if part:
            return part
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "write", write)


def test_a_full_disk_costs_samples_which_are_counted_and_reported_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_writer(tmp_path)
    room = [3000]
    full_disk(monkeypatch, room)
    assert [writer.append(item(step, 1000)) for step in range(6)] == [True, True, False, False, False, False]
    room[0] = 1 << 20
    assert writer.append(item(6, 1000))
    entries = read_all(writer.directory)
    assert dropped_ranges(entries) == [(1, 2, 5)]
    assert [entry.seq for entry in entries] == [0, 1, 6, 7]
    assert writer.dropped == 4


def test_a_disk_that_is_full_from_the_start_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = spool.SpoolWriter(tmp_path, "w", {"endpoint": "127.0.0.1:1"}, 1 << 20)
    room = [5]
    full_disk(monkeypatch, room)
    writer.begin(1, descriptor())
    assert not writer.append(item(0))
    room[0] = 1 << 20
    assert writer.append(item(1))
    entries = read_all(writer.directory)
    assert dropped_ranges(entries) == [(1, 0, 0)]
    assert entries[-1].envelope.item == item(1)
    writer.close(ended=True)
    assert (writer.directory / spool.ENDED).exists()


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    """A forwarder that scans at any moment finds either nothing or a writer with its notes and its lock."""
    writer = spool.SpoolWriter(tmp_path, "w", {"endpoint": "127.0.0.1:1"}, 1 << 20)
    assert spool.writer_directories(tmp_path) == [writer.directory]
    assert spool.read_meta(writer.directory) == {"endpoint": "127.0.0.1:1", "boot": spool.boot_id()}
    (tmp_path / ".new-x").mkdir()
    (tmp_path / "junk").mkdir()
    assert spool.writer_directories(tmp_path) == [writer.directory]


def test_a_damaged_cursor_or_meta_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / spool.CURSOR).write_text("{")
    (tmp_path / spool.META).write_text("[]")
    assert spool.read_cursor(tmp_path) == {}
    assert spool.read_meta(tmp_path) is None


class SmallDisk:
    """A disk of `capacity` bytes below `directory`: what is removed makes room, and what does not fit is refused."""

    def __init__(self, directory: Path, capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capacity = capacity
        self._directory = directory
        self._write, self._fallocate = os.write, os.posix_fallocate
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "posix_fallocate", self.fallocate)

    @property
    def free(self) -> int:
        return self.capacity - sum(path.stat().st_size for path in self._directory.rglob("*") if path.is_file())

    def write(self, fd: int, data: bytes) -> int:
        if self.free <= 0:
            raise OSError(errno.ENOSPC, "no space left on device")
        return self._write(fd, data[: self.free])

    def fallocate(self, fd: int, offset: int, length: int) -> None:
        if self.free < length:
            raise OSError(errno.ENOSPC, "no space left on device")
        self._fallocate(fd, offset, length)


def end(step: int) -> bytes:
    return messages.encode_end(step, {"accuracy": 0.5})


def told_and_kept(directory: Path) -> tuple[set[int], set[int]]:
    """Return the numbers of items that were reported as dropped, and of those that can be read."""
    entries = read_all(directory)
    told = {seq for _, first, last in dropped_ranges(entries) for seq in range(first, last + 1)}
    return told, {entry.seq for entry in entries}


def test_a_disk_that_stays_full_to_the_end_still_takes_the_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else fills the disk for good: what was lost and that the run ended gets into the spool nevertheless."""
    disk = SmallDisk(tmp_path, 1 << 20, monkeypatch)
    writer = open_writer(tmp_path)
    for step in range(5):
        assert writer.append(item(step, 1000))
    disk.capacity -= disk.free
    for step in range(5, 30):
        assert not writer.append(item(step, 1000))
    assert writer.append(end(29), vital=True)
    writer.close(ended=True)
    entries = read_all(writer.directory)
    assert dropped_ranges(entries) == [(1, 5, 29)]
    assert sample_pb2.Item.FromString(entries[-1].envelope.item).end.results == {"accuracy": 0.5}
    assert not (writer.directory / spool.RESERVE).exists()


def test_a_job_that_is_closed_on_a_full_disk_says_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SmallDisk(tmp_path, 1 << 20, monkeypatch)
    writer = open_writer(tmp_path)
    disk.capacity -= disk.free
    assert not writer.append(item(0, 1000))
    writer.close(ended=False)
    assert dropped_ranges(read_all(writer.directory)) == [(1, 0, 0)]


def test_on_a_full_disk_the_oldest_make_room_for_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is smaller than the spool may be: the newest items are there at the end, and all others are reported."""
    disk = SmallDisk(tmp_path, 400_000, monkeypatch)
    writer = open_writer(tmp_path)
    for step in range(300):
        writer.append(item(step, 10_000))
        assert disk.free >= 0
    assert writer.append(end(299), vital=True)
    writer.close(ended=True)
    told, kept = told_and_kept(writer.directory)
    assert told | kept == set(range(writer.next_seq))
    assert not told & kept
    steps = [sample_pb2.Item.FromString(entry.envelope.item).sample.step for entry in read_all(writer.directory)]
    assert 299 in steps
    assert len(kept) > 10
    assert writer.dropped == len(told)


def test_what_was_acked_makes_room_on_a_full_disk_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SmallDisk(tmp_path, 1 << 20, monkeypatch)
    writer = open_writer(tmp_path)
    for step in range(5):
        writer.append(item(step, 1000))
    (writer.directory / spool.CURSOR).write_text('{"next_seq": 5}')
    disk.capacity -= disk.free
    assert writer.append(item(5, 1000))
    assert writer.dropped == 0
    assert [entry.seq for entry in read_all(writer.directory)] == [5]


def test_a_full_disk_is_not_littered_with_empty_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SmallDisk(tmp_path, 0, monkeypatch)
    writer = open_writer(tmp_path)
    for step in range(50):
        assert not writer.append(item(step))
    assert segments_of(writer.directory) == []
    disk.capacity = 1 << 20
    assert writer.append(item(50))
    assert told_and_kept(writer.directory) == (set(range(50)), {50, 51})


def test_a_full_disk_is_warned_of_once_while_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Small items fit now and then and large ones do not: that is one trouble. After a long calm, it is another."""
    writer = open_writer(tmp_path)
    room = [1 << 20]
    full_disk(monkeypatch, room)
    for _ in range(2):
        for step in range(30):
            room[0] = 300
            assert not writer.append(item(step, 1000))
        room[0] = 1 << 20
        for step in range(100):
            assert writer.append(item(step))
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 2


def test_the_reserve_is_a_part_of_what_the_spool_may_take(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, 1 << 16)
    for step in range(200):
        writer.append(item(step, 2000))
    assert (writer.directory / spool.RESERVE).stat().st_size > 0
    assert sum(path.stat().st_size for path in writer.directory.glob("*")) <= (1 << 16) + 200  # the notes
    writer.close(ended=True)


def test_what_a_killed_attach_left_is_removed_in_time(tmp_path: Path) -> None:
    """Not what is new, not what is locked by a living process, not what is whole."""
    writer = open_writer(tmp_path)
    old, new, held = (tmp_path / f".new-{name}" for name in ("old", "new", "held"))
    for path in (old, new, held):
        path.mkdir()
        (path / spool.LOCK).touch()
    code = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
    code += "print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(held / spool.LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for path in (old, held, writer.directory):
            os.utime(path, (0, 0))
        spool.remove_unfinished(tmp_path, 3600.0)
    finally:
        holder.communicate()
    assert (old.exists(), new.exists(), held.exists(), writer.directory.exists()) == (False, True, True, True)


def test_a_writer_that_cannot_be_asked_counts_as_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forwarder that is out of file descriptors must not put the spools of living jobs away."""
    writer = open_writer(tmp_path)
    writer.close(ended=True)
    assert not spool.writer_alive(writer.directory)
    assert not spool.writer_alive(tmp_path / "nowhere")

    def out_of_files(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", out_of_files)
        assert spool.writer_alive(writer.directory)


def test_one_directory_that_cannot_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as another user's on a shared volume."""
    first, second = open_writer(tmp_path, name="a"), open_writer(tmp_path, name="b")
    real = Path.stat

    def stat(path: Path, **named: bool) -> os.stat_result:
        if path.parent == first.directory:
            raise PermissionError(errno.EACCES, "permission denied")
        return real(path, **named)

    monkeypatch.setattr(Path, "stat", stat)
    assert spool.writer_directories(tmp_path) == [second.directory]
