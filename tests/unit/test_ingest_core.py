"""Ingest as a whole: acks wait for the disk, overload throttles, failures heal, rotation and hang-ups lose nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from topowatch_monitor.ingest.admission import Admission
from topowatch_monitor.ingest.core import Ingest
from topowatch_monitor.ingest.counters import Counters
from topowatch_monitor.ingest.limits import Limits
from topowatch_monitor.store.commit import GroupCommit
from topowatch_monitor.store.disk import OsDisk, OsFile
from topowatch_monitor.store.log import Log
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import ingest_pb2 as pb
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import pytest

LIMITS = Limits(retry_unavailable=0.01)
DEADLINE = 10.0


class ControlledFile(OsFile):
    """A file whose flushes fail while its disk is full."""

    disk: ControlledDisk

    def sync(self) -> None:
        if self.disk.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().sync()


class ControlledDisk(OsDisk):
    """A disk that can be full."""

    full = False

    def create(self, path: Path) -> ControlledFile:
        return self._controlled(ControlledFile(path, os.O_CREAT | os.O_TRUNC))

    def open(self, path: Path) -> ControlledFile:
        return self._controlled(ControlledFile(path, 0))

    def _controlled(self, file: ControlledFile) -> ControlledFile:
        file.disk = self
        return file


class Held:
    """Keeps the writer's thread busy, so that nothing becomes durable."""

    def __init__(self, commit: GroupCommit) -> None:
        self._gate = threading.Event()
        self._begun = threading.Event()
        commit.run_exclusive(self._wait)
        assert self._begun.wait(DEADLINE)

    def _wait(self, _: Log) -> None:
        self._begun.set()
        assert self._gate.wait(DEADLINE)

    def release(self) -> None:
        self._gate.set()


@asynccontextmanager
async def running(
    directory: Path, *, limits: Limits = LIMITS, disk: OsDisk | None = None, segment_bytes: int = 64 << 20
) -> AsyncIterator[tuple[Ingest, GroupCommit]]:
    log = Log.open(directory, disk or OsDisk(), segment_bytes=segment_bytes)
    admission = Admission(limits)
    admission.restore(log.last_segment())
    commit = GroupCommit(log)
    ingest = Ingest(admission, commit, limits=limits)
    try:
        yield ingest, commit
    finally:
        await ingest.close()
        log.close()


def batch(
    first: int, count: int = 1, *, run: str = "r", rank: int = 0, describe: bool = True, size: int = 0
) -> pb.Batch:
    key = run_pb2.RunKey(group="g", run=run)
    made = pb.Batch(id=first + 1, key=key, rank=rank, incarnation=1, writer_uuid=f"{rank:032x}")
    for seq in range(first, first + count):
        item = sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=seq))
        if size:
            item.sample.frames.CopyFrom(sample_pb2.Frames(layer="x", rows=1, columns=size // 2, values=bytes(size)))
        made.items.add(seq=seq, item=item.SerializeToString())
    if describe:
        made.descriptor.CopyFrom(
            run_pb2.RunDescriptor(key=key, rank=rank, world_size=64, incarnation=1, writer_uuid=made.writer_uuid)
        )
    return made


def stored(directory: Path, end: int) -> list[tuple[int, int]]:
    items = [
        log_pb2.StoredItem.FromString(record.payload)
        for record in LogReader(directory, OsDisk()).read(0, end)
        if record.kind == LogKind.STORED_ITEM
    ]
    return [(item.rank, item.seq) for item in items]


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.seg"))


async def until(holds: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not holds():  # noqa: ASYNC110 (what is awaited has no event)
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), DEADLINE)


def test_an_ack_waits_for_the_disk(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (ingest, commit):
            held = Held(commit)
            task = asyncio.ensure_future(ingest.handle(batch(0), 1))
            await until(lambda: commit.pending_bytes > 0)
            assert not task.done()
            assert ingest.runs() == []
            held.release()
            assert (await task).status == pb.ACK_STATUS_STORED
            assert stored(tmp_path, commit.log.next_offset) == [(0, 0)]
            assert ingest.runs()[0].samples == 1
            assert ingest.log_bytes == sum(path.stat().st_size for path in segments(tmp_path))

    asyncio.run(scenario())


def test_batches_of_one_rank_keep_their_order_and_ranks_share_a_flush(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (ingest, commit):
            held = Held(commit)
            tasks = [
                asyncio.ensure_future(ingest.handle(batch(3 * part, 4, rank=rank), rank + 1))
                for part in range(3)
                for rank in range(4)
            ]
            await until(lambda: commit.pending_bytes > 0)
            held.release()
            acks = await asyncio.gather(*tasks)
            assert all(ack.status == pb.ACK_STATUS_STORED for ack in acks)
            assert sum(ack.duplicates for ack in acks) == 8  # the batches overlap by one item
            entries = stored(tmp_path, commit.log.next_offset)
            for rank in range(4):
                assert [seq for found, seq in entries if found == rank] == list(range(10))
            assert ingest.counters.samples_total == 40
            assert ingest.counters.acks_total["stored"] == 12
            assert ingest.counters.ack_seconds.cumulative()[-1] == (float("inf"), 12)

    asyncio.run(scenario())


def test_overload_is_answered_with_a_delay_and_passes(tmp_path: Path) -> None:
    limits = Limits(max_pending_bytes=20_000, retry_after=0.25)

    async def scenario() -> None:
        async with running(tmp_path, limits=limits) as (ingest, commit):
            held = Held(commit)
            first = asyncio.ensure_future(ingest.handle(batch(0, size=15_000), 1))
            await until(lambda: commit.pending_bytes > 0)
            ack = await ingest.handle(batch(0, rank=1, size=15_000), 2)
            assert ack.status == pb.ACK_STATUS_RESOURCE_EXHAUSTED
            assert ack.retry_after.ToMilliseconds() == 250
            assert "wait to be written" in ack.detail
            held.release()
            await first
            assert (await ingest.handle(batch(0, rank=1, size=15_000), 2)).status == pb.ACK_STATUS_STORED
            assert (
                await ingest.handle(batch(1, size=50_000), 1)
            ).status == pb.ACK_STATUS_STORED  # alone it always fits

    asyncio.run(scenario())


def test_a_full_disk_stops_the_acks_until_there_is_room(tmp_path: Path) -> None:
    disk = ControlledDisk()
    seen: list[bool] = []

    async def scenario() -> None:
        async with running(tmp_path, disk=disk) as (ingest, commit):
            ingest.watch(seen.append)
            await ingest.handle(batch(0), 1)
            disk.full = True
            ack = await ingest.handle(batch(1), 1)
            assert ack.status == pb.ACK_STATUS_UNAVAILABLE
            assert "No space left" in ack.detail
            assert ack.retry_after.ToMilliseconds() == 10
            assert not ingest.ready
            assert "No space left" in ingest.reason
            ack = await ingest.handle(batch(1), 1)
            assert ack.status == pb.ACK_STATUS_UNAVAILABLE
            assert stored(tmp_path, commit.log.next_offset) == [(0, 0)]
            disk.full = False
            await until(lambda: ingest.ready)
            assert ingest.reason == ""
            ack = await ingest.handle(batch(1), 1)
            assert (ack.status, ack.duplicates) == (pb.ACK_STATUS_STORED, 0)
            assert stored(tmp_path, commit.log.next_offset) == [(0, 0), (0, 1)]
            kinds = [record.kind for record in LogReader(tmp_path, OsDisk()).read(0, commit.log.next_offset)]
            assert LogKind.EVENT in kinds

    asyncio.run(scenario())
    assert seen == [False, True, False]


def test_a_batch_is_counted_though_its_caller_went_away(tmp_path: Path) -> None:
    """A client that hangs up while its batch is written finds it known when it comes back."""

    async def scenario() -> None:
        async with running(tmp_path) as (ingest, commit):
            held = Held(commit)
            task = asyncio.ensure_future(ingest.handle(batch(0, 3), 1))
            await until(lambda: commit.pending_bytes > 0)
            task.cancel()
            again = asyncio.ensure_future(ingest.handle(batch(0, 4), 2))
            held.release()
            ack = await again
            assert (ack.status, ack.duplicates) == (pb.ACK_STATUS_STORED, 3)
            assert task.cancelled()
            assert stored(tmp_path, commit.log.next_offset) == [(0, 0), (0, 1), (0, 2), (0, 3)]

    asyncio.run(scenario())


def test_rotation_under_load_loses_nothing_and_the_last_segment_suffices(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, segment_bytes=2000) as (ingest, commit):

            async def write(rank: int) -> None:
                for seq in range(0, 40, 2):
                    ack = await ingest.handle(batch(seq, 2, rank=rank), rank + 1)
                    assert ack.status == pb.ACK_STATUS_STORED

            await asyncio.wait_for(asyncio.gather(*map(write, range(6))), DEADLINE)
            end = commit.log.next_offset
            live = ingest.runs()
        starts = [int(path.stem) for path in segments(tmp_path)]
        assert len(starts) > 3
        reader = LogReader(tmp_path, OsDisk())
        for start, following in pairwise(starts):
            admission = Admission()
            admission.restore(reader.read(start, following))
            head = admission.head()
            assert [record[1:] for record in reader.read(following, following + len(head))] == head
        entries = stored(tmp_path, end)
        assert sorted(entries) == [(rank, seq) for rank in range(6) for seq in range(40)]
        async with running(tmp_path) as (ingest, _):
            assert ingest.runs() == live
            assert (await ingest.handle(batch(0, 40, rank=3, describe=False), 1)).duplicates == 40

    asyncio.run(scenario())


def test_a_rotation_that_fails_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class NoNewFiles(OsDisk):
        full = False

        def create(self, path: Path) -> OsFile:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return OsFile(path, os.O_CREAT | os.O_TRUNC)

    disk = NoNewFiles()

    async def scenario() -> None:
        async with running(tmp_path, disk=disk, segment_bytes=100) as (ingest, commit):
            disk.full = True
            for seq in range(10):
                assert (await ingest.handle(batch(seq), 1)).status == pb.ACK_STATUS_STORED
            assert ingest.ready
            disk.full = False
            seq = 10
            while len(segments(tmp_path)) == 1:  # it tries again some batches later
                assert (await ingest.handle(batch(seq), 1)).status == pb.ACK_STATUS_STORED
                seq += 1
            assert stored(tmp_path, commit.log.next_offset) == [(0, n) for n in range(seq)]

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))
    assert "cannot begin a log segment" in caplog.text


def test_a_defect_in_the_head_of_a_segment_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate opens again, the defect is told with its traceback, and the rotation is tried again."""
    limits = Limits(retry_rotation=0.0)

    async def scenario() -> None:
        async with running(tmp_path, limits=limits, segment_bytes=100) as (ingest, commit):
            with monkeypatch.context() as broken:
                broken.setattr(Admission, "head", lambda _: run_pb2.RunDescriptor(incarnation=1 << 64))
                for seq in range(3):
                    assert (await ingest.handle(batch(seq, 3), 1)).status == pb.ACK_STATUS_STORED
            assert ingest.ready
            assert len(segments(tmp_path)) == 1
            await ingest.handle(batch(5), 1)
            await until(lambda: len(segments(tmp_path)) > 1)
            assert stored(tmp_path, commit.log.next_offset) == [(0, n) for n in range(6)]

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))
    assert "cannot begin a log segment" in caplog.text
    assert "Traceback" in caplog.text


def test_closing_goes_on_without_what_is_stuck(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A device that never answers does not keep the daemon from ending."""

    async def scenario() -> None:
        log = Log.open(tmp_path, OsDisk())
        commit = GroupCommit(log)
        limits = Limits(close_seconds=0.05)
        ingest = Ingest(Admission(limits), commit, limits=limits)
        held = Held(commit)
        task = asyncio.ensure_future(ingest.handle(batch(0), 1))
        await until(lambda: commit.pending_bytes > 0)
        await ingest.close()
        assert task.cancelled()
        held.release()
        await asyncio.to_thread(commit.close)
        log.close()

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE))
    assert "still under way" in caplog.text
    assert "does not end" in caplog.text


def test_closing_answers_what_is_under_way_and_refuses_the_rest(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (ingest, commit):
            held = Held(commit)
            task = asyncio.ensure_future(ingest.handle(batch(0), 1))
            await until(lambda: commit.pending_bytes > 0)
            closing = asyncio.ensure_future(ingest.close())
            await until(lambda: not ingest.ready)
            ack = await ingest.handle(batch(0, rank=1), 2)
            assert ack.status == pb.ACK_STATUS_UNAVAILABLE
            assert "shutting down" in ack.detail
            held.release()
            assert (await task).status == pb.ACK_STATUS_STORED
            await closing

    asyncio.run(scenario())


def test_closing_on_a_full_disk_ends(tmp_path: Path) -> None:
    """Whether the disk fails before or during the shutdown, nothing waits for it to heal."""
    disk = ControlledDisk()

    async def scenario(*, before: bool) -> None:
        disk.full = False
        async with running(tmp_path, disk=disk) as (ingest, commit):
            if before:
                disk.full = True
                await ingest.handle(batch(0), 1)
                assert not ingest.ready
            else:
                held = Held(commit)
                task = asyncio.ensure_future(ingest.handle(batch(0), 1))
                await until(lambda: commit.pending_bytes > 0)
                closing = asyncio.ensure_future(ingest.close())
                await until(lambda: not ingest.ready)
                disk.full = True
                held.release()
                assert (await task).status == pb.ACK_STATUS_UNAVAILABLE
                await closing

    for before in (True, False):
        asyncio.run(asyncio.wait_for(scenario(before=before), DEADLINE))


def test_every_reason_is_counted_from_0() -> None:
    """Prometheus sees no increase in a series that is born with its first refusals."""
    names = [name for name, reason in pb.RejectionReason.items() if reason]
    reasons = [name.removeprefix("REJECTION_REASON_").lower() for name in names]
    assert Counters().rejected_total == dict.fromkeys(reasons, 0)


def test_the_runs_that_changed_are_told_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (ingest, _):
            await ingest.handle(batch(0, run="a"), 1)
            await ingest.handle(batch(0, run="b"), 2)
            assert ingest.take_changed() == ingest.runs()
            assert ingest.take_changed() == []
            await ingest.handle(batch(1, run="a"), 1)
            [changed] = ingest.take_changed()
            assert (changed.key.run, changed.samples) == ("a", 2)
        async with running(tmp_path) as (ingest, _):
            assert [run.key.run for run in ingest.take_changed()] == ["a", "b"]

    asyncio.run(scenario())


def test_rejections_are_counted_by_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (ingest, _):
            made = batch(0, 2)
            made.items.add(seq=2, item=b"\xff")
            ack = await ingest.handle(made, 1)
            assert [rejection.reason for rejection in ack.rejections] == [pb.REJECTION_REASON_UNDECODABLE]
            assert +ingest.counters.rejected_total == {"undecodable": 1}
            assert ingest.counters.bytes_total == sum(len(envelope.item) for envelope in made.items[:2])

    asyncio.run(scenario())
