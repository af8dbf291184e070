"""A daemon that dies while it takes records out of its log, at every operation on the disk in turn."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

from topowatch_monitor.ingest.admission import Admission
from topowatch_monitor.ingest.core import Ingest
from topowatch_monitor.ingest.retention import Retention
from topowatch_monitor.store.commit import GroupCommit
from topowatch_monitor.store.log import Log, Record
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.keys import key_of
from topowatch_protos.v1 import ingest_pb2 as pb
from topowatch_protos.v1 import run_pb2, sample_pb2

# Tests are no packages, so a neighbour is loaded by its path.
_spec = importlib.util.spec_from_file_location("sim_disk", Path(__file__).with_name("sim_disk.py"))
assert _spec is not None
assert _spec.loader is not None
sim_disk = importlib.util.module_from_spec(_spec)
sys.modules.setdefault("sim_disk", sim_disk)
_spec.loader.exec_module(sim_disk)

DIRECTORY = Path("/log")
SEGMENT_BYTES = 1500
OLD, NOW, BEFORE = 1_000.0, 9_000.0, 5_000.0  # when runs were heard of, and since when they should have been
SEEDS = 8  # of what of unflushed bytes and entries a power loss leaves


class DyingDisk(sim_disk.SimDisk):
    """Dies in the middle of one operation: the `last`-th from `arm` on."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.operations = 0
        self.last: int | None = None

    def arm(self, last: int | None) -> None:
        self.operations, self.last = 0, last

    def step(self, what: str, size: int) -> int:
        if self.dead:
            raise sim_disk.PowerLoss(what)
        self.operations += 1
        self.dead = self.operations == self.last
        return self.rng.randint(0, max(0, size - 1)) if self.dead else size


def batch(run: str, first: int, count: int) -> pb.Batch:
    key = run_pb2.RunKey(group="g", run=run)
    described = run_pb2.RunDescriptor(key=key, incarnation=1, writer_uuid=run.encode().hex().rjust(32, "0"))
    items = [
        pb.Envelope(seq=seq, item=sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=seq)).SerializeToString())
        for seq in range(first, first + count)
    ]
    return pb.Batch(
        id=first, key=key, incarnation=1, writer_uuid=described.writer_uuid, descriptor=described, items=items
    )


def filled(disk: DyingDisk) -> None:
    """Segments of an old run alone, of both, of little of the young one, and of the young one alone."""
    log = Log.open(DIRECTORY, disk, segment_bytes=SEGMENT_BYTES)
    admission = Admission()
    stream = 0
    plan = [("old", 40), ("young", 10), ("old", 20), ("old", 40), ("young", 2), ("old", 30), ("young", 40)]
    sent = {"old": 0, "young": 0}
    for run, count in plan:
        for _ in range(0, count, 10):
            stream += 1
            some = min(10, count)
            found = admission.admit(batch(run, sent[run], some), OLD if run == "old" else NOW, stream)
            assert found.ack.status == pb.ACK_STATUS_STORED
            assert found.token is not None
            log.append(found.records)
            admission.commit(found.token)
            sent[run] += some
            if log.wants_rotation:
                log.rotate(admission.head())
    log.close()


def sweep(disk: DyingDisk) -> None:
    """One daemon's sweep; raises PowerLoss where the disk dies."""

    async def run() -> None:
        log = Log.open(DIRECTORY, disk, segment_bytes=SEGMENT_BYTES)
        admission = Admission()
        admission.restore(log.last_segment())
        commit = GroupCommit(log)
        try:
            ingest = Ingest(admission, commit, now=lambda: NOW, monotonic=lambda: 0.0)
            await Retention(ingest, commit, DIRECTORY, disk).sweep(BEFORE)
        finally:
            commit.close()
        log.close()

    asyncio.run(run())


def records(disk: DyingDisk) -> list[Record]:
    """What a daemon that starts now finds in the log."""
    log = Log.open(DIRECTORY, disk, segment_bytes=SEGMENT_BYTES)
    found = list(LogReader(DIRECTORY, disk).read(0, log.next_offset))
    log.close()
    return found


def about(record: Record) -> str:
    key = key_of(record.kind, record.payload)
    return key.run if key is not None else ""


def young(found: list[Record]) -> list[Record]:
    """What of a log has to stay: all of the run that was heard of, save what heads of segments repeat."""
    return [record for record in found if about(record) == "young" and record.kind == LogKind.STORED_ITEM]


@pytest.mark.parametrize("power", [True, False], ids=["power-loss", "kill"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_whenever_it_dies_each_record_is_where_it_was_or_gone_as_a_whole(seed: int, power: bool) -> None:
    undisturbed = DyingDisk(seed)
    filled(undisturbed)
    before = records(undisturbed)
    undisturbed.arm(None)
    sweep(undisturbed)
    operations = undisturbed.operations
    after = records(undisturbed)
    assert young(after) == young(before)
    assert operations > 20
    assert len(young(before)) > 40
    stored = {kept.offset for kept in after if kept.kind == LogKind.STORED_ITEM}
    gone = [record for record in before if about(record) == "old" and record.offset not in stored]
    assert len(gone) > 60
    assert any(record.kind == LogKind.GAP for record in after)
    assert after[0].offset > 0
    written = {record.offset: record for record in before}
    for last in range(1, operations + 1):
        disk = DyingDisk(seed)
        filled(disk)
        disk.arm(last)
        with pytest.raises(sim_disk.PowerLoss):
            sweep(disk)
        disk.arm(None)
        disk.restart(power=power)
        found = records(disk)
        offsets = [record.offset for record in found]
        assert offsets == list(range(offsets[0], offsets[-1] + 1)), last
        assert young(found) == young(before), last
        for record in found:
            known = written.get(record.offset)
            assert record.kind == LogKind.GAP or known is None or record == known, last
        sweep(disk)  # the next daemon ends the work
        assert young(records(disk)) == young(before), last
        left = {r.offset for r in records(disk) if about(r) == "old" and r.kind == LogKind.STORED_ITEM}
        assert not left & {record.offset for record in gone}, last
