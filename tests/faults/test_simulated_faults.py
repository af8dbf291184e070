"""Writers, a bad network, a bad disk and a daemon that dies anywhere: simulated from a seed, without clock or threads.

What has to hold afterwards: every acked item is in the log exactly once and as it was sent, in order for writers that
wait for each ack, and nothing else is there.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from topowatch_monitor.ingest.admission import Admission
from topowatch_monitor.store.log import Log, LogUnavailable
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import ingest_pb2 as pb
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tests are no packages, so a neighbour is loaded by its path.
_spec = importlib.util.spec_from_file_location("sim_disk", Path(__file__).with_name("sim_disk.py"))
assert _spec is not None
assert _spec.loader is not None
sim_disk = importlib.util.module_from_spec(_spec)
sys.modules["sim_disk"] = sim_disk
_spec.loader.exec_module(sim_disk)

SEEDS = 400
STEPS = 1500
FAULTS = 10_000
SEGMENT_BYTES = 1500
DIRECTORY = Path("/log")
injected = Counter[str]()


@dataclass
class Stream:
    """One connection: requests and answers keep their order, and a cut loses a tail of both."""

    number: int
    up: deque[pb.Batch] = field(default_factory=deque)
    down: deque[pb.Ack] = field(default_factory=deque)


class Writer:
    """A spool and its forwarder: sends from the first unacked item, `window` batches ahead of the acks."""

    def __init__(self, number: int, window: int, rng: random.Random) -> None:
        self.rng = rng
        self.window = window
        self.run = f"run-{number // 2}"
        self.rank = number % 2
        self.uuid = f"{number:032x}"
        self.incarnations: list[tuple[int, int]] = []  # (incarnation, first seq)
        self.items: list[bytes] = []
        self.bad: set[int] = set()
        self.dropped: set[int] = set()
        self.reports: list[int] = []  # seqs that report a dropped range
        self.acked: set[int] = set()
        self.base = 0  # below it all is acked or dropped
        self.stream: Stream | None = None
        self.in_flight: deque[pb.Batch] = deque()
        self.next_seq = 0
        self.introduced = 0  # incarnation whose descriptor was sent on this stream
        self.batches = 0
        self.attach()

    def attach(self) -> None:
        """Begin a new incarnation."""
        self.incarnations.append((len(self.incarnations) + 1, len(self.items)))

    def produce(self) -> None:
        """Write an item into the spool, which overflows now and then."""
        seq = len(self.items)
        item = sample_pb2.Item(schema=1)
        # A report that is still unacked stops the spool from dropping: what it says would be lost with it.
        stop = min([report for report in self.reports if report >= self.base], default=seq)
        if self.rng.random() < 0.03 and self.base + 4 < stop:
            last = self.rng.randint(self.base, self.base + 4)
            incarnation, first_seq = self._incarnation(last)  # a range lies in one incarnation
            first = max(self.base, first_seq)
            self.dropped.update(range(first, last + 1))
            self.reports.append(seq)
            item.dropped.CopyFrom(sample_pb2.DroppedRange(incarnation=incarnation, first_seq=first, last_seq=last))
        elif self.rng.random() < 0.05:
            item.sample.step = -1
            self.bad.add(seq)
        else:
            item.sample.step = seq
            item.sample.layers.add(name=f"{self.uuid[-4:]}-{seq}-{'x' * self.rng.randint(0, 40)}")
        self.items.append(item.SerializeToString())
        self._advance()

    def connect(self, stream: Stream) -> None:
        """Send again from the first unacked item, on a new stream."""
        self.stream = stream
        self.in_flight.clear()
        self.next_seq = self.base
        self.introduced = 0

    def send(self) -> None:
        """Put one more batch on the stream, if the window and the spool allow."""
        if self.stream is None or len(self.in_flight) >= self.window:
            return
        seqs = [seq for seq in range(self.next_seq, len(self.items)) if seq not in self.dropped][
            : self.rng.randint(1, 6)
        ]
        if not seqs:
            return
        incarnation, first_seq = self._incarnation(seqs[0])
        seqs = [seq for seq in seqs if self._incarnation(seq)[0] == incarnation]
        self.batches += 1
        key = run_pb2.RunKey(group="g", run=self.run)
        batch = pb.Batch(
            id=self.batches, key=key, rank=self.rank, incarnation=incarnation, writer_uuid=self.uuid,
            items=[pb.Envelope(seq=seq, item=self.items[seq]) for seq in seqs],
        )  # fmt: skip
        if self.introduced != incarnation:
            self.introduced = incarnation
            batch.descriptor.key.CopyFrom(key)
            batch.descriptor.rank = self.rank
            batch.descriptor.world_size = 2
            batch.descriptor.incarnation = incarnation
            batch.descriptor.writer_uuid = self.uuid
            batch.descriptor.first_seq = first_seq
        self.next_seq = seqs[-1] + 1
        self.in_flight.append(batch)
        self.stream.up.append(batch)

    def receive(self) -> bool:
        """Take one answer; return whether to connect anew."""
        if self.stream is None or not self.stream.down:
            return False
        ack = self.stream.down.popleft()
        batch = self.in_flight.popleft()
        assert ack.batch_id == batch.id
        assert ack.status in (pb.ACK_STATUS_STORED, pb.ACK_STATUS_UNAVAILABLE, pb.ACK_STATUS_FENCED), ack
        if ack.status != pb.ACK_STATUS_STORED:
            return True
        seqs = {envelope.seq for envelope in batch.items}
        assert {rejection.seq for rejection in ack.rejections} <= self.bad & seqs
        self.acked |= seqs
        self._advance()
        return False

    @property
    def done(self) -> bool:
        """Whether everything that was not dropped is acked."""
        return self.base == len(self.items)

    def _advance(self) -> None:
        while self.base < len(self.items) and (self.base in self.acked or self.base in self.dropped):
            self.base += 1

    def _incarnation(self, seq: int) -> tuple[int, int]:
        return next(entry for entry in reversed(self.incarnations) if entry[1] <= seq)


class Daemon:
    """Admission and log as the service drives them, without clock or threads."""

    def __init__(self, disk: sim_disk.SimDisk) -> None:
        self.log = Log.open(DIRECTORY, disk, segment_bytes=SEGMENT_BYTES)
        self.admission = Admission()
        self.admission.restore(self.log.last_segment())
        assert self.admission.orphans == 0

    def handle(self, arrivals: list[tuple[Stream, pb.Batch]]) -> Iterator[tuple[Stream, pb.Ack]]:
        """Commit one group: at most one batch of each rank."""
        admitted = [(stream, self.admission.admit(batch, 1.0, stream.number)) for stream, batch in arrivals]
        try:
            self.log.append([record for _, entry in admitted for record in entry.records])
        except LogUnavailable:
            for stream, entry in admitted:
                if entry.token is None:
                    yield stream, entry.ack
                else:
                    self.admission.abandon(entry.token)
                    yield stream, pb.Ack(batch_id=entry.ack.batch_id, status=pb.ACK_STATUS_UNAVAILABLE)
            return
        for stream, entry in admitted:
            if entry.token is not None:
                self.admission.commit(entry.token)
            yield stream, entry.ack
        if self.log.wants_rotation:
            with suppress(LogUnavailable):
                self.log.rotate(self.admission.head())


class World:
    """Everything, driven one random event at a time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.disk = sim_disk.SimDisk(seed, error_rate=0.04, loss_rate=0.01)
        self.window = self.rng.choice([1, 1, 4])
        self.writers = [Writer(number, self.window, self.rng) for number in range(4)]
        self.streams: list[Stream] = []
        self.opened = 0
        self.daemon: Daemon | None = None

    def step(self) -> None:
        """Let one thing happen."""
        writer = self.rng.choice(self.writers)
        event = self.rng.random()
        if event < 0.22:
            writer.produce()
        elif event < 0.45:
            writer.send()
        elif event < 0.72:
            self.deliver()
        elif event < 0.92:
            if writer.receive():
                self.connect(writer)
        elif event < 0.98 or writer.stream is None:
            self.connect(writer)
        elif event < 0.985:
            writer.attach()
        else:
            self.die(power=self.rng.random() < 0.5)

    def connect(self, writer: Writer) -> None:
        """Cut a writer's stream, losing a tail of what is under way and all its acks, and open another."""
        if writer.stream is not None:
            lost = self.rng.randint(0, len(writer.stream.up))
            for _ in range(lost):
                writer.stream.up.pop()
            injected["cut streams"] += 1
            injected["lost batches"] += lost
            injected["lost acks"] += len(writer.stream.down)
            injected["resent batches"] += len(writer.in_flight) - lost
        self.opened += 1
        self.streams.append(Stream(self.opened))
        writer.connect(self.streams[-1])

    def deliver(self) -> None:
        """Hand the daemon one batch of some streams in any order, old streams among them, and return its acks."""
        if self.daemon is None:
            self.start()
            return
        waiting = [stream for stream in self.streams if stream.up]
        self.rng.shuffle(waiting)
        arrivals: dict[tuple[str, int], tuple[Stream, pb.Batch]] = {}
        for stream in waiting[:4]:
            batch = stream.up[0]
            if arrivals.setdefault((batch.key.run, batch.rank), (stream, batch))[0] is stream:
                stream.up.popleft()
        try:
            for stream, ack in self.daemon.handle(list(arrivals.values())):
                stream.down.append(ack)
            if self.disk.sick and self.rng.random() < 0.2:
                self.die(power=False)  # an impatient supervisor
        except sim_disk.PowerLoss:
            self.die(power=True)

    def start(self) -> None:
        """Try to start the daemon."""
        try:
            self.daemon = Daemon(self.disk)
        except LogUnavailable:
            self.disk.locks.clear()  # the process ended
        except sim_disk.PowerLoss:
            self.die(power=True)

    def die(self, *, power: bool) -> None:
        """End the daemon at once, and with it all its connections."""
        self.disk.restart(power=power)
        self.daemon = None
        self.streams.clear()
        for writer in self.writers:
            writer.stream = None

    def heal(self) -> None:
        """Stop injecting faults and let every writer finish; then lose the power a last time."""
        injected["disk faults"] += self.disk.faults
        self.disk.error_rate = self.disk.loss_rate = self.disk.sick = 0
        for _ in range(100_000):
            if all(writer.done for writer in self.writers):
                break
            self.deliver()
            for writer in self.writers:
                if writer.stream is None or writer.receive():
                    self.connect(writer)
                writer.send()
        assert all(writer.done for writer in self.writers)
        self.die(power=True)
        self.start()


def check(world: World) -> None:
    """Compare the log with what the writers know."""
    assert world.daemon is not None
    found: dict[tuple[str, int], list[tuple[int, int, bytes]]] = {}
    records = list(LogReader(DIRECTORY, world.disk).read(0, world.daemon.log.next_offset))
    assert [record.offset for record in records] == list(range(world.daemon.log.next_offset))
    for record in records:
        if record.kind == LogKind.STORED_ITEM:
            stored = log_pb2.StoredItem.FromString(record.payload)
            place = (stored.key.run, stored.rank)
            found.setdefault(place, []).append((stored.seq, stored.incarnation, stored.item))
    dropped: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    for writer in world.writers:
        entries = found.pop((writer.run, writer.rank), [])
        seqs = [seq for seq, _, _ in entries]
        assert len(seqs) == len(set(seqs)), "an item is in the log twice"
        assert writer.acked - writer.bad <= set(seqs), "an acked item is not in the log"
        assert set(seqs) <= set(range(len(writer.items))) - writer.bad, "the log has items that were never sent"
        assert all(item == writer.items[seq] for seq, _, item in entries), "an item is not what was sent"
        assert all(incarnation == writer._incarnation(seq)[0] for seq, incarnation, _ in entries)
        if writer.window == 1:
            assert seqs == sorted(seqs), "items are out of order"
        samples[writer.run] += sum(sample_pb2.Item.FromString(item).HasField("sample") for _, _, item in entries)
        dropped[writer.run] += len(writer.dropped - set(seqs))
    assert not found, "the log has writers that nobody knows"
    for run in world.daemon.admission.runs():
        assert run.samples == samples[run.key.run]
        assert run.dropped <= dropped[run.key.run]  # a bad item may have been refused before it was dropped
        assert run.dropped + run.rejected >= dropped[run.key.run]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_acked_item_is_in_the_log_exactly_once(seed: int) -> None:
    """Nothing acked is lost or counted twice, whatever network, disk and power do."""
    world = World(seed)
    for _ in range(STEPS):
        world.step()
    world.heal()
    check(world)


def test_enough_faults_were_injected(capsys: pytest.CaptureFixture[str]) -> None:
    """The runs above are worth something: they met at least 10,000 faults."""
    with capsys.disabled():
        print(
            f"\nsimulated faults: {injected.total():,} ({', '.join(f'{n:,} {what}' for what, n in injected.items())})"
        )
    assert injected.total() >= FAULTS
