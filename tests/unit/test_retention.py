"""Segments that are looked through, made smaller and read meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import Log, Record, segment_path
from topowatch_monitor.store.reader import LogReader
from topowatch_monitor.store.retention import survey, without
from topowatch_protos import framing
from topowatch_protos.framing import LogKind

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = st.lists(
    st.tuples(
        st.sampled_from([LogKind.STORED_ITEM, LogKind.RUN_OPENED, LogKind.RUN_FORGOTTEN]), st.binary(max_size=40)
    ),
    max_size=30,
)


def needed(kind: int, payload: bytes) -> bool:
    return payload[:1] < b"\x80"


def segment(records: list[tuple[LogKind, bytes]]) -> bytes:
    return b"".join([framing.MAGIC, *(framing.encode(kind, payload) for kind, payload in records)])


@given(records=RECORDS)
def test_what_is_needed_keeps_its_place_and_nothing_else_its_bytes(records: list[tuple[LogKind, bytes]]) -> None:
    before = list(framing.scan(segment(records)))
    after = list(framing.scan(without(segment(records), needed)))
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        stays = old.kind == LogKind.RUN_FORGOTTEN or needed(old.kind, old.payload)
        assert (new.kind, new.payload) == ((old.kind, old.payload) if stays else (LogKind.GAP, b""))
    again = without(without(segment(records), needed), needed)
    assert again == without(segment(records), needed)


@given(records=RECORDS)
def test_a_survey_counts_what_is_needed(records: list[tuple[LogKind, bytes]]) -> None:
    found = survey(segment(records), needed)
    assert found is not None
    assert found.needed == sum(kind != LogKind.RUN_FORGOTTEN and needed(kind, payload) for kind, payload in records)
    assert found.needed_bytes <= found.bytes == len(segment(records))


def test_a_damaged_segment_is_not_touched() -> None:
    data = bytearray(segment([(LogKind.STORED_ITEM, b"one"), (LogKind.STORED_ITEM, b"two")]))
    data[-1] ^= 1
    assert survey(bytes(data), needed) is None


def filled(directory: Path) -> Log:
    """Three segments of four records each, every second of which is not needed."""
    log = Log.open(directory, OsDisk())
    for number in range(3):
        log.append([(LogKind.STORED_ITEM, bytes([0x80 * (place % 2), number, place]) * 50) for place in range(4)])
        log.rotate([])
    log.append([(LogKind.STORED_ITEM, b"last")])
    return log


def exchange(log: Log, directory: Path, first: int) -> None:
    path = segment_path(directory, first)
    smaller = path.with_suffix(".tmp")
    smaller.write_bytes(without(path.read_bytes(), needed))
    log.exchange(first, smaller)


def kept(records: list[Record]) -> list[Record]:
    return [record for record in records if record.kind != LogKind.GAP and needed(record.kind, record.payload)]


def test_a_reader_finds_every_record_that_is_needed_also_where_segments_change_under_it(tmp_path: Path) -> None:
    log, reader = filled(tmp_path), LogReader(tmp_path, OsDisk())
    before = list(reader.read(0, log.next_offset))
    reading = reader.read(0, log.next_offset)
    found = [next(reading) for _ in range(6)]
    exchange(log, tmp_path, 4)  # which the reader is in the middle of
    found += list(reading)
    assert kept(found) == kept(before)
    assert kept(list(reader.read(5, log.next_offset))) == [record for record in kept(before) if record.offset >= 5]
    assert reader.lost_records == 0
    log.drop_oldest(0)
    assert kept(list(reader.read(0, log.next_offset))) == [record for record in kept(before) if record.offset >= 4]
    assert list(reader.read(0, 3)) == []
    fresh = LogReader(tmp_path, OsDisk())
    assert kept(list(fresh.read(2, log.next_offset))) == [record for record in kept(before) if record.offset >= 4]
    assert reader.lost_records == fresh.lost_records == 0
    log.close()


def test_the_size_of_the_log_is_that_of_its_files(tmp_path: Path) -> None:
    log = filled(tmp_path)
    exchange(log, tmp_path, 4)
    log.drop_oldest(0)
    assert log.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.seg"))
    assert log.sealed() == [4, 8]
    log.close()
    again = Log.open(tmp_path, OsDisk())
    assert again.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.seg"))
    assert again.next_offset == 13
    again.close()
