"""The dispatcher against shards that merely list what they were given, with carriers that die at the worst moments."""

from __future__ import annotations

import errno
import pickle
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.engine.checkpoints import Checkpoints
from topowatch_monitor.engine.dispatcher import ATTEMPTS, IN_FLIGHT, Dispatcher
from topowatch_monitor.engine.pool import Call, ShardLostError
from topowatch_monitor.engine.routing import VIRTUAL_SHARDS, shard_of_key, shards_of
from topowatch_monitor.engine.shard import ApplyResult, Part
from topowatch_monitor.store.log import Record
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class MemoryLog:
    """A log reader over a list."""

    def __init__(self, payloads: list[tuple[int, bytes]]) -> None:
        self.records = [Record(offset, kind, payload) for offset, (kind, payload) in enumerate(payloads)]
        self.reads: list[tuple[int, int]] = []

    def read(self, start: int, end: int) -> Iterator[Record]:
        self.reads.append((start, end))
        return iter(self.records[start:end])


class MemorySnapshots:
    """A snapshot store in a dict."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[int, bytes]] = {}

    def save(self, shard: int, offset: int, state: bytes) -> None:
        self.kept[shard] = (offset, state)

    def load(self, shard: int) -> tuple[int, bytes] | None:
        return self.kept.get(shard)


class ListShard:
    """Keeps the offsets that each virtual shard was given, under the rules of the real one."""

    def __init__(self) -> None:
        self.at: dict[int, tuple[int, int]] = {}
        self.seen: dict[int, list[int]] = {}

    def load(self, number: int, epoch: int, next_offset: int, state: bytes | None) -> bool:
        if state == b"useless":
            return False
        self.at[number] = (epoch, next_offset)
        self.seen[number] = pickle.loads(state) if state else []  # noqa: S301 - made below, in this test
        return True

    def apply(self, parts: list[Part]) -> ApplyResult:
        refused = []
        for part in parts:
            if self.at.get(part.vshard) != (part.epoch, part.expected_offset):
                refused.append((part.vshard, *self.at.get(part.vshard, (0, 0))))
                continue
            self.seen[part.vshard] += [offset for offset, _, _ in part.records]
            self.at[part.vshard] = (part.epoch, part.next_offset)
        return ApplyResult(views=[], refused=refused, damaged=0)

    def snapshot(self, numbers: Sequence[int]) -> list[tuple[int, int, bytes]]:
        return [(number, self.at[number][1], pickle.dumps(self.seen[number])) for number in numbers]

    def views(self) -> list[Any]:
        return []


class FlakyPool:
    """Carriers that work when asked for results, and die when the dice say so, before or after they did the work."""

    def __init__(self, size: int, dice: random.Random, deaths: int) -> None:
        self.size = size
        self.shards = [ListShard() for _ in range(size)]
        self.dice = dice
        self.deaths = deaths
        self.rate = dice.choice([0.001, 0.01, 0.1])  # the larger, the likelier in a rebuild as well
        self.alive = [True] * size
        self.under_way: list[list[Call]] = [[] for _ in range(size)]
        self.most_under_way = 0

    def call(self, carrier: int, method: str, *arguments: object) -> Call:
        self._maybe_die(carrier)
        if not self.alive[carrier]:
            raise ShardLostError(carrier, "dead")
        call = Call(carrier, [method, arguments, None])
        self.under_way[carrier].append(call)
        applies = [waiting for waiting in self.under_way[carrier] if waiting.handle[0] == "apply"]
        self.most_under_way = max(self.most_under_way, len(applies))
        return call

    def ready(self, calls: Sequence[Call], timeout: float) -> list[Call]:
        return [call for call in calls if self.dice.random() < 0.5 or timeout > 0]

    def result(self, call: Call, timeout: float) -> Any:
        waiting = self.under_way[call.carrier]
        while call in waiting:
            first = waiting.pop(0)
            self._maybe_die(call.carrier)
            if self.alive[call.carrier]:
                method, arguments, _ = first.handle
                first.handle[2] = getattr(self.shards[call.carrier], method)(*arguments)
            self._maybe_die(call.carrier)
        if not self.alive[call.carrier]:
            raise ShardLostError(call.carrier, "died")
        return call.handle[2]

    def replace(self, carrier: int) -> None:
        self.shards[carrier] = ListShard()
        self.alive[carrier] = True
        self.under_way[carrier] = []

    def close(self) -> None: ...

    def _maybe_die(self, carrier: int) -> None:
        if self.deaths and self.dice.random() < self.rate:
            self.deaths -= 1
            self.alive[carrier] = False


def key(run: int) -> run_pb2.RunKey:
    return run_pb2.RunKey(tenant="default", group="g", run=f"run-{run}")


def item(run: int, seq: int) -> tuple[int, bytes]:
    return LogKind.STORED_ITEM, log_pb2.StoredItem(key=key(run), seq=seq, item=bytes(50)).SerializeToString()


def decision() -> tuple[int, bytes]:
    return LogKind.DECISION, log_pb2.Decision(name="shed_level", value=1).SerializeToString()


def check(pool: FlakyPool, log: MemoryLog) -> None:
    expected: list[list[int]] = [[] for _ in range(VIRTUAL_SHARDS)]
    for record in log.records:
        for number in shards_of(record.kind, record.payload):
            expected[number].append(record.offset)
    assert [pool.shards[number % pool.size].seen[number] for number in range(VIRTUAL_SHARDS)] == expected


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), deaths=st.integers(0, ATTEMPTS - 1), size=st.integers(1, 3))
def test_every_record_reaches_its_shard_once_and_in_order_whatever_dies(seed: int, deaths: int, size: int) -> None:
    dice = random.Random(seed)
    log = MemoryLog([decision() if dice.random() < 0.01 else item(dice.randrange(20), seq) for seq in range(3000)])
    pool = FlakyPool(size, dice, deaths=0)
    dispatcher = Dispatcher(log, pool, Checkpoints(MemorySnapshots()))
    dispatcher.restore(durable=0)
    pool.deaths = deaths
    durable, now = 0, 0.0
    while dispatcher.position < len(log.records):
        durable = min(len(log.records), durable + dice.randrange(900))
        dispatcher.pump(durable)
        assert dispatcher.applied <= dispatcher.position <= durable
        if dice.random() < 0.3:
            dispatcher.save_due(now := now + dice.uniform(0, 100))
    dispatcher.settle()
    assert dispatcher.applied == len(log.records)
    assert pool.most_under_way <= IN_FLIGHT
    pool.deaths = 0
    check(pool, log)


def test_a_restarted_engine_reads_only_what_its_snapshots_lack() -> None:
    log = MemoryLog([item(seq % 7, seq) for seq in range(2500)])
    kept = MemorySnapshots()
    snapshots = Checkpoints(kept)
    first = Dispatcher(log, FlakyPool(2, random.Random(0), 0), snapshots)
    first.restore(durable=0)
    while first.pump(2000):
        pass
    first.settle()
    first.save()

    log.reads.clear()
    pool = FlakyPool(2, random.Random(1), 0)
    second = Dispatcher(log, pool, snapshots)
    second.restore(durable=2000)
    assert second.position == 2000
    while second.pump(2500):
        pass
    second.settle()
    assert min(start for start, _ in log.reads) == 2000
    check(pool, log)


def test_a_damaged_progress_note_or_older_snapshot_only_costs_a_longer_replay() -> None:
    log = MemoryLog([item(seq % 7, seq) for seq in range(1500)])
    kept = MemorySnapshots()
    snapshots = Checkpoints(kept)
    dispatcher = Dispatcher(log, FlakyPool(1, random.Random(0), 0), snapshots)
    dispatcher.restore(durable=0)
    while dispatcher.pump(700):
        pass
    dispatcher.settle()
    dispatcher.save()
    number = shard_of_key(key(3))
    older = kept.kept[number]
    while dispatcher.pump(1500):
        pass
    dispatcher.settle()
    dispatcher.save()
    kept.kept[number] = older  # the newest was damaged: its store fell back

    pool = FlakyPool(1, random.Random(0), 0)
    again = Dispatcher(log, pool, snapshots)
    again.restore(durable=1500)
    assert again.position == 700
    while again.pump(1500):
        pass
    again.settle()
    check(pool, log)


def test_a_snapshot_from_beyond_the_end_of_a_log_that_lost_its_tail_is_left_out() -> None:
    log = MemoryLog([item(1, seq) for seq in range(100)])
    kept = MemorySnapshots()
    snapshots = Checkpoints(kept)
    dispatcher = Dispatcher(log, FlakyPool(1, random.Random(0), 0), snapshots)
    dispatcher.restore(durable=0)
    dispatcher.pump(100)
    dispatcher.settle()
    dispatcher.save()
    log.records[60:] = MemoryLog([item(2, seq) for seq in range(100)]).records[60:]  # lost, then written anew

    pool = FlakyPool(1, random.Random(0), 0)
    again = Dispatcher(log, pool, snapshots)
    again.restore(durable=60)
    while again.pump(100):
        pass
    again.settle()
    check(pool, log)


def test_a_snapshot_that_the_shard_cannot_use_costs_a_replay_from_the_start() -> None:
    log = MemoryLog([item(seq % 7, seq) for seq in range(300)])
    kept = MemorySnapshots()
    dispatcher = Dispatcher(log, FlakyPool(1, random.Random(0), 0), Checkpoints(kept))
    dispatcher.restore(durable=0)
    dispatcher.pump(300)
    dispatcher.settle()
    dispatcher.save()
    number = shard_of_key(key(3))
    kept.kept[number] = (kept.kept[number][0], b"useless")
    pool = FlakyPool(1, random.Random(0), 0)
    again = Dispatcher(log, pool, Checkpoints(kept))
    again.restore(durable=300)
    assert again.position == 0
    again.pump(300)
    again.settle()
    check(pool, log)


def test_a_full_disk_keeps_the_engine_going_without_snapshots(caplog: pytest.LogCaptureFixture) -> None:
    class FullDisk(MemorySnapshots):
        def save(self, shard: int, offset: int, state: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    log = MemoryLog([item(seq % 7, seq) for seq in range(300)])
    pool = FlakyPool(1, random.Random(0), 0)
    dispatcher = Dispatcher(log, pool, Checkpoints(FullDisk()), snapshot_seconds=1.0)
    dispatcher.restore(durable=0)
    dispatcher.pump(300)
    dispatcher.settle()
    for now in range(10, 20):
        dispatcher.save_due(float(now))
    dispatcher.save()
    check(pool, log)
    assert caplog.text.count("No space left") == 1


def test_snapshots_wait_their_time_and_for_their_share_of_the_disk() -> None:
    log = MemoryLog([item(seq % 7, seq) for seq in range(300)])
    kept = MemorySnapshots()
    dispatcher = Dispatcher(log, FlakyPool(1, random.Random(0), 0), Checkpoints(kept), snapshot_seconds=60.0)
    dispatcher.restore(durable=0)
    dispatcher.pump(300)
    dispatcher.settle()
    dispatcher.save_due(1.0)
    assert not kept.kept
    for tick in range(200):
        dispatcher.save_due(60.0 + tick / 10)
    states = len(kept.kept) - 1  # the note of spans
    assert states == len({shard_of_key(key(run)) for run in range(7)})


def test_a_stretch_of_the_log_that_cannot_be_read_is_passed_over() -> None:
    log = MemoryLog([item(1, seq) for seq in range(5000)])
    log.read = lambda start, end: iter(r for r in log.records[start:end] if not 500 <= r.offset < 3500)  # type: ignore[method-assign] - damage
    pool = FlakyPool(1, random.Random(0), 0)
    dispatcher = Dispatcher(log, pool, Checkpoints(MemorySnapshots()))
    dispatcher.restore(durable=5000)
    while dispatcher.pump(5000):
        pass
    dispatcher.settle()
    assert pool.shards[0].seen[shard_of_key(key(1))] == [*range(500), *range(3500, 5000)]


def test_a_carrier_that_cannot_be_rebuilt_ends_the_engine() -> None:
    """The supervisor then starts it anew; carrying on would drop records."""
    pool = FlakyPool(1, random.Random(0), 0)
    dispatcher = Dispatcher(MemoryLog([item(1, seq) for seq in range(10)]), pool, Checkpoints(MemorySnapshots()))
    dispatcher.restore(durable=0)
    pool.alive[0] = False
    pool.replace = lambda carrier: None  # type: ignore[method-assign] - the replacement is dead as well
    with pytest.raises(ShardLostError):
        dispatcher.pump(10)


def test_routing_never_changes() -> None:
    """Snapshots of older versions are found by these numbers."""
    assert [shard_of_key(key(run)) for run in range(5)] == [82, 196, 126, 232, 75]
