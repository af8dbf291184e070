"""The spool on disk: what was written is read again, whatever happened to the end of it, and loss is reported."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topowatch_client import messages, spool
from topowatch_client.spool_reader import SpoolReader, segments_of
from topowatch_protos import framing
from topowatch_protos.v1 import run_pb2, sample_pb2

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from topowatch_client.spool_reader import Entry


def descriptor(incarnation: int = 1, start_step: int = 0, first_seq: int = 0) -> bytes:
    facts = messages.RunFacts("g", "r", 0, 1, "w", {"lr": "0.1"}, 1021, 0, 10)
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
    assert spool.read_meta(writer.directory) == {"endpoint": "127.0.0.1:1"}
    (tmp_path / ".new-x").mkdir()
    (tmp_path / "junk").mkdir()
    assert spool.writer_directories(tmp_path) == [writer.directory]


def test_a_damaged_cursor_or_meta_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / spool.CURSOR).write_text("{")
    (tmp_path / spool.META).write_text("[]")
    assert spool.read_cursor(tmp_path) == {}
    assert spool.read_meta(tmp_path) is None
