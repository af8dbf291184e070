"""Snapshots, recordings and tables: what is damaged is noticed, and the one before is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import Record
from topowatch_monitor.store.parquet import write_parquet
from topowatch_monitor.store.recording import RecordingDamagedError, read_recording, write_recording
from topowatch_monitor.store.snapshots import SnapshotStore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots", OsDisk())


def newest(tmp_path: Path) -> Path:
    return max((tmp_path / "snapshots").iterdir())


def test_an_empty_store_has_nothing(store: SnapshotStore) -> None:
    assert store.load(3) is None
    assert store.shards() == []


def test_the_newest_snapshot_is_loaded_and_two_are_kept(store: SnapshotStore, tmp_path: Path) -> None:
    for offset in (10, 200, 3000):
        store.save(7, offset, b"state" * offset)
    store.save(256, 1, b"")
    assert store.load(7) == (3000, b"state" * 3000)
    assert store.load(256) == (1, b"")
    assert store.shards() == [7, 256]
    assert len(list((tmp_path / "snapshots").iterdir())) == 3


def test_what_was_kept_is_found_and_cleared_away_by_the_next_one(store: SnapshotStore, tmp_path: Path) -> None:
    store.save(7, 10, b"first")
    store.save(7, 20, b"second")
    after = SnapshotStore(tmp_path / "snapshots", OsDisk())
    assert after.load(7) == (20, b"second")
    after.save(7, 30, b"third")
    assert sorted(path.name[-7:] for path in (tmp_path / "snapshots").iterdir()) == ["20.snap", "30.snap"]


def test_what_a_killed_writer_left_is_cleared_away(store: SnapshotStore, tmp_path: Path) -> None:
    store.save(7, 10, b"first")
    (tmp_path / "snapshots" / "000007-00000000000000000020.tmp").write_bytes(b"half")
    (tmp_path / "snapshots" / "notes.txt").write_bytes(b"another's")
    assert SnapshotStore(tmp_path / "snapshots", OsDisk()).load(7) == (10, b"first")
    assert sorted(path.name[-7:] for path in (tmp_path / "snapshots").iterdir()) == ["10.snap", "tes.txt"]


def test_two_that_save_in_one_directory_keep_two_and_need_nothing_that_the_other_took_away(
    store: SnapshotStore, tmp_path: Path
) -> None:
    """As an engine does whose front was killed, beside that of the next front."""
    store.save(7, 10, b"first")
    store.save(7, 20, b"second")
    after = SnapshotStore(tmp_path / "snapshots", OsDisk())
    assert after.load(7) == (20, b"second")
    store.save(7, 30, b"third")
    for offset in (40, 50):
        after.save(7, offset, b"later")
    assert sorted(path.name[-7:] for path in (tmp_path / "snapshots").iterdir()) == ["40.snap", "50.snap"]


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: data[:20] + b"!" + data[21:], lambda _: b""])
def test_a_damaged_snapshot_gives_way_to_the_one_before(store: SnapshotStore, tmp_path: Path, harm: object) -> None:
    assert callable(harm)
    store.save(0, 10, b"first" * 10)
    store.save(0, 20, b"second" * 10)
    newest(tmp_path).write_bytes(harm(newest(tmp_path).read_bytes()))
    assert store.load(0) == (10, b"first" * 10)
    store.save(0, 15, b"third")
    assert store.load(0) == (15, b"third")


def test_a_snapshot_under_another_name_is_not_taken(store: SnapshotStore, tmp_path: Path) -> None:
    """A copy that claims another shard or offset would put a state where it does not belong."""
    store.save(1, 10, b"state")
    path = newest(tmp_path)
    path.with_name(path.name.replace("000001-", "000002-")).write_bytes(path.read_bytes())
    path.with_name(path.name.replace("10.snap", "11.snap")).write_bytes(path.read_bytes())
    store = SnapshotStore(tmp_path / "snapshots", OsDisk())
    assert store.load(2) is None
    assert store.load(1) == (10, b"state")


def test_a_recording_comes_back_with_offsets_from_zero(tmp_path: Path) -> None:
    path = tmp_path / "run.twrun"
    assert write_recording(path, [Record(70, 1, b"descriptor"), Record(75, 2, b"item")]) == 2
    assert list(read_recording(path)) == [Record(0, 1, b"descriptor"), Record(1, 2, b"item")]


def test_a_torn_recording_says_where(tmp_path: Path) -> None:
    path = tmp_path / "run.twrun"
    write_recording(path, [Record(0, 2, b"a" * 10), Record(1, 2, b"b" * 10)])
    path.write_bytes(path.read_bytes()[:-1])
    records = read_recording(path)
    assert next(records).payload == b"a" * 10
    with pytest.raises(RecordingDamagedError, match="damaged from byte 27 of 45"):
        next(records)


def test_any_other_file_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(RecordingDamagedError, match="not a topowatch recording"):
        next(read_recording(path))


def test_a_recording_of_another_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.twrun"
    write_recording(path, [Record(0, 2, b"item")])
    path.write_bytes(b"TOPOSEG2" + path.read_bytes()[8:])
    with pytest.raises(RecordingDamagedError, match="is of version 2: replay it with"):
        next(read_recording(path))


def test_a_table_comes_back_with_its_metadata(tmp_path: Path) -> None:
    """Lists with nulls too: not every step has a sketch."""
    columns = {"step": [0, 1], "weights": pa.array([[0.5, 1.0], None], pa.list_(pa.float32()))}
    table = pa.table(columns, metadata={"topowatch": "{}"})
    write_parquet(tmp_path / "a.parquet", table)
    back = pq.read_table(tmp_path / "a.parquet")
    assert back.equals(table)
    assert back.schema.metadata[b"topowatch"] == b"{}"
