"""Writers, a bad network, a bad disk and a daemon that dies anywhere: simulated from a seed, without clock or threads.

What has to hold afterwards: every acked item is in the log exactly once and as it was sent, in order for writers that
wait for each ack, and nothing else is there; what is not there was refused or is counted as dropped, once.

Every second seed ships with the client's own `Shipper`, the others with a stand-in of fewer rules, which waits for each
ack or runs further ahead than the shipper would.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from topowatch_client.shipper import Limits, Progress, Shipper
from topowatch_client.spool_reader import Entry
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
FAULTS = 10_000 // SEEDS  # that each seed has to meet
SECONDS = 0.05  # between two events
SEGMENT_BYTES = 1500
DIRECTORY = Path("/log")
SHIPPER = Limits(batch_bytes=300, batch_items=6, ack_seconds=5.0, backoff_first=0.1, backoff_longest=1.0)


@dataclass
class Stream:
    """One connection: requests and answers keep their order, and a cut loses a tail of both."""

    number: int
    up: deque[pb.Batch] = field(default_factory=deque)
    down: deque[pb.Ack] = field(default_factory=deque)


class Dropped(NamedTuple):
    """A range that the spool dropped."""

    incarnation: int
    first: int
    last: int


class Spool:
    """What one job writes, which overflows now and then, and what became of it."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.rng = rng
        self.run = f"run-{number // 2}"
        self.rank = number % 2
        self.uuid = f"{number:032x}"
        self.incarnations: list[tuple[int, int]] = []  # (incarnation, first seq)
        self.items: list[bytes] = []
        self.bad: set[int] = set()
        self.dropped: set[int] = set()
        self.reports: dict[int, Dropped] = {}  # by the seq that says so
        self.acked: set[int] = set()  # before they were dropped, if ever
        self.base = 0  # below it all is acked or dropped
        self.cursor = 0  # what the spool knows of `base`
        self.attach()

    def attach(self) -> None:
        """Begin a new incarnation."""
        self.incarnations.append((len(self.incarnations) + 1, len(self.items)))

    def produce(self) -> None:
        """Write an item, or what says which the spool has dropped."""
        if self.rng.random() < 0.03 and self.cursor + 4 < len(self.items):
            newest = len(self.items) - 1
            # Now and then nobody has taken anything for long: all goes, and with it whole incarnations.
            furthest = newest if self.rng.random() < 0.3 else min(self.base + 4, newest)
            self._overflow(self.rng.randint(self.cursor, furthest))
            return
        seq = len(self.items)
        item = sample_pb2.Item(schema=1)
        if self.rng.random() < 0.05:
            item.sample.step = -1
            self.bad.add(seq)
        else:
            item.sample.step = seq
            item.sample.layers.add(name=f"{self.uuid[-4:]}-{seq}-{'x' * self.rng.randint(0, 40)}")
        self.items.append(item.SerializeToString())

    def advance(self, acked: set[int]) -> None:
        """Take in what was acked."""
        self.acked |= acked - self.dropped
        while self.base < len(self.items) and (self.base in self.acked or self.base in self.dropped):
            self.base += 1

    def incarnation(self, seq: int) -> tuple[int, int]:
        """Return the incarnation that an item belongs to, and its first seq."""
        return next(entry for entry in reversed(self.incarnations) if entry[1] <= seq)

    def descriptor(self, seq: int) -> run_pb2.RunDescriptor:
        """Return the descriptor that precedes an item."""
        incarnation, first_seq = self.incarnation(seq)
        key = run_pb2.RunKey(group="g", run=self.run)
        return run_pb2.RunDescriptor(
            key=key, rank=self.rank, world_size=2, incarnation=incarnation, writer_uuid=self.uuid, first_seq=first_seq
        )

    @property
    def done(self) -> bool:
        """Whether everything that was not dropped is acked."""
        return self.base == len(self.items)

    def _overflow(self, last: int) -> None:
        """Drop everything from the cursor to `last`, acked or not; a report that goes with it is made again."""
        ranges = [report for seq, report in self.reports.items() if self.cursor <= seq <= last]
        self.reports = {seq: report for seq, report in self.reports.items() if seq > last}
        first = self.cursor
        while first <= last:  # a range lies in one incarnation
            incarnation, _ = self.incarnation(first)
            end = min([last, *(start - 1 for _, start in self.incarnations if start > first)])
            ranges.append(Dropped(incarnation, first, end))
            first = end + 1
        self.dropped.update(range(self.cursor, last + 1))
        for report in ranges:
            self.reports[len(self.items)] = report
            said = sample_pb2.DroppedRange(incarnation=report.incarnation, first_seq=report.first, last_seq=report.last)
            self.items.append(sample_pb2.Item(schema=1, dropped=said).SerializeToString())
        self.advance(set())


class StandIn:
    """A forwarder: sends from the first unacked item, `window` batches ahead of the acks, and reconnects on trouble."""

    def __init__(self, spool: Spool, window: int) -> None:
        self.spool = spool
        self.window = window
        self.stream: Stream | None = None
        self.in_flight: deque[pb.Batch] = deque()
        self.next_seq = 0
        self.introduced = 0  # incarnation whose descriptor was sent on this stream
        self.batches = 0

    def may_connect(self, _now: float) -> bool:
        """Whether it tries to connect now."""
        return True

    def connect(self, stream: Stream) -> None:
        """Send again from the first unacked item, on a new stream."""
        self.stream = stream
        self.in_flight.clear()
        self.next_seq = self.spool.base
        self.introduced = 0

    def disconnect(self, _now: float) -> None:
        """The stream is gone."""
        self.stream = None

    def send(self, _now: float) -> None:
        """Put one more batch on the stream, if the window and the spool allow."""
        spool = self.spool
        if self.stream is None or len(self.in_flight) >= self.window:
            return
        seqs = [seq for seq in range(self.next_seq, len(spool.items)) if seq not in spool.dropped][
            : spool.rng.randint(1, 6)
        ]
        if not seqs:
            return
        descriptor = spool.descriptor(seqs[0])
        seqs = [seq for seq in seqs if spool.incarnation(seq)[0] == descriptor.incarnation]
        self.batches += 1
        batch = pb.Batch(
            id=self.batches, key=descriptor.key, rank=spool.rank, incarnation=descriptor.incarnation,
            writer_uuid=spool.uuid, items=[pb.Envelope(seq=seq, item=spool.items[seq]) for seq in seqs],
        )  # fmt: skip
        if self.introduced != descriptor.incarnation:
            self.introduced = descriptor.incarnation
            batch.descriptor.CopyFrom(descriptor)
        self.next_seq = seqs[-1] + 1
        self.in_flight.append(batch)
        self.stream.up.append(batch)

    def receive(self, _now: float) -> bool:
        """Take one answer; return whether to connect anew."""
        if self.stream is None or not self.stream.down:
            return False
        ack = self.stream.down.popleft()
        batch = self.in_flight.popleft()
        assert ack.batch_id == batch.id
        assert ack.status in (pb.ACK_STATUS_STORED, pb.ACK_STATUS_UNAVAILABLE, pb.ACK_STATUS_FENCED), ack
        if ack.status != pb.ACK_STATUS_STORED:
            return True
        take_stored(self.spool, batch, ack)
        if self.spool.rng.random() < 0.5:
            self.spool.cursor = self.spool.base
        return False


class Shipping:
    """A forwarder that leaves everything to the client's own shipper, and dies now and then."""

    def __init__(self, spool: Spool, seen: Counter[str]) -> None:
        self.spool = spool
        self.seen = seen
        self.stream: Stream | None = None
        self.in_flight: dict[int, pb.Batch] = {}
        self.next_seq = 0  # to be read
        self.quiet_until = 0.0
        self.shipper = self._begin()

    def read(self, max_bytes: int, max_items: int) -> list[Entry]:
        """Hand the shipper what follows in the spool."""
        entries: list[Entry] = []
        total = 0
        for seq in range(self.next_seq, len(self.spool.items)):
            if seq in self.spool.dropped:
                continue
            envelope = pb.Envelope(seq=seq, item=self.spool.items[seq])
            entry = Entry(seq, envelope, envelope.ByteSize(), self.spool.descriptor(seq))
            total += entry.size
            other = entries and entry.descriptor.incarnation != entries[0].descriptor.incarnation
            if other or (entries and total > max_bytes) or len(entries) == max_items:
                break
            entries.append(entry)
            self.next_seq = seq + 1
        return entries

    def may_connect(self, now: float) -> bool:
        """Whether its pause is over."""
        return now >= self.quiet_until

    def connect(self, stream: Stream) -> None:
        """Go on over a new stream, perhaps as a new process that knows only the cursor."""
        self.stream = stream
        if self.spool.rng.random() < 0.2:
            self.shipper = self._begin()
            self.seen["forwarders that died"] += 1
        self.shipper.on_connect()

    def disconnect(self, now: float) -> None:
        """The stream is gone."""
        self.stream = None
        self.in_flight.clear()
        self.quiet_until = now + self.shipper.on_disconnect("cut")

    def send(self, now: float) -> None:
        """Send what the shipper wants to send now."""
        batch = None if self.stream is None else self.shipper.next_batch(now)
        if self.stream is None or batch is None:
            return
        self.in_flight[batch.id] = batch
        assert len(self.in_flight) <= SHIPPER.in_flight
        self.seen["two in flight"] += len(self.in_flight) == 2
        self.stream.up.append(batch)

    def receive(self, now: float) -> bool:
        """Take one answer; return whether it waited for too long."""
        if self.stream is None or not self.stream.down:
            return self.shipper.overdue(now)
        ack = self.stream.down.popleft()
        batch = self.in_flight.pop(ack.batch_id)
        expected = (pb.ACK_STATUS_STORED, pb.ACK_STATUS_UNAVAILABLE, pb.ACK_STATUS_UNKNOWN_RUN)
        assert ack.status in expected, ack
        self.seen[pb.AckStatus.Name(ack.status)] += 1
        if ack.status == pb.ACK_STATUS_STORED:
            take_stored(self.spool, batch, ack)
        self.shipper.on_ack(ack, now)
        assert self.shipper.progress.next_seq <= self.spool.base
        if self.spool.rng.random() < 0.5:
            self.spool.cursor = self.shipper.progress.next_seq
        return False

    def _begin(self) -> Shipper:
        self.next_seq = self.spool.cursor
        return Shipper(self, Progress(next_seq=self.spool.cursor), SHIPPER, self.spool.rng)


def take_stored(spool: Spool, batch: pb.Batch, ack: pb.Ack) -> None:
    """Note what an ack of a stored batch says."""
    seqs = {envelope.seq for envelope in batch.items}
    assert {rejection.seq for rejection in ack.rejections} <= spool.bad & seqs
    spool.advance(seqs)


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
        self.now = 0.0
        self.injected = Counter[str]()  # faults
        self.seen = Counter[str]()  # what the shipper met
        self.window = 2 if seed % 2 == 0 else self.rng.choice([1, 1, 4])
        self.spools = [Spool(number, self.rng) for number in range(4)]
        self.senders: list[StandIn | Shipping] = [
            Shipping(spool, self.seen) if seed % 2 == 0 else StandIn(spool, self.window) for spool in self.spools
        ]
        self.streams: list[Stream] = []
        self.opened = 0
        self.daemon: Daemon | None = None

    def step(self) -> None:
        """Let one thing happen."""
        self.now += SECONDS
        sender = self.rng.choice(self.senders)
        event = self.rng.random()
        if event < 0.22:
            sender.spool.produce()
        elif event < 0.45:
            sender.send(self.now)
        elif event < 0.72:
            self.deliver()
        elif event < 0.92:
            if sender.receive(self.now):
                self.connect(sender)
        elif event < 0.97 or sender.stream is None:
            self.connect(sender)
        elif event < 0.985:
            sender.spool.attach()
        else:
            self.die(power=self.rng.random() < 0.5)

    def connect(self, sender: StandIn | Shipping) -> None:
        """Cut a stream, losing a tail of what is under way and all its acks, and open another."""
        if sender.stream is not None:
            lost = self.rng.randint(0, len(sender.stream.up))
            for _ in range(lost):
                sender.stream.up.pop()
            self.injected["cut streams"] += 1
            self.injected["lost batches"] += lost
            self.injected["lost acks"] += len(sender.stream.down)
            self.injected["resent batches"] += len(sender.in_flight) - lost
            sender.disconnect(self.now)
        if sender.may_connect(self.now):
            self.opened += 1
            self.streams.append(Stream(self.opened))
            sender.connect(self.streams[-1])

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
        for sender in self.senders:
            if sender.stream is not None:
                sender.disconnect(self.now)

    def heal(self) -> None:
        """Stop injecting faults and let every writer finish; then lose the power a last time."""
        self.injected["disk faults"] += self.disk.faults
        self.disk.error_rate = self.disk.loss_rate = self.disk.sick = 0
        for _ in range(100_000):
            if all(spool.done for spool in self.spools):
                break
            self.now += SECONDS
            self.deliver()
            for sender in self.senders:
                if sender.stream is None or sender.receive(self.now):
                    self.connect(sender)
                sender.send(self.now)
        assert all(spool.done for spool in self.spools)
        self.die(power=True)
        self.start()


def stored_items(world: World) -> dict[tuple[str, int], list[log_pb2.StoredItem]]:
    """Read the log: the stored items in its order, by run and rank."""
    assert world.daemon is not None
    found: dict[tuple[str, int], list[log_pb2.StoredItem]] = {}
    records = list(LogReader(DIRECTORY, world.disk).read(0, world.daemon.log.next_offset))
    assert [record.offset for record in records] == list(range(world.daemon.log.next_offset))
    for record in records:
        if record.kind == LogKind.STORED_ITEM:
            stored = log_pb2.StoredItem.FromString(record.payload)
            found.setdefault((stored.key.run, stored.rank), []).append(stored)
    return found


def check(world: World) -> None:
    """Compare the log with what the writers know."""
    found = stored_items(world)
    kept: Counter[str] = Counter()
    written: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    newly_dropped: Counter[str] = Counter()
    for spool in world.spools:
        entries = found.pop((spool.run, spool.rank), [])
        seqs = [entry.seq for entry in entries]
        assert len(seqs) == len(set(seqs)), "an item is in the log twice"
        assert spool.acked - spool.bad <= set(seqs), "an acked item is not in the log"
        assert set(seqs) <= set(range(len(spool.items))) - spool.bad, "the log has items that were never sent"
        assert all(entry.item == spool.items[entry.seq] for entry in entries), "an item is not what was sent"
        assert all(entry.incarnation == spool.incarnation(entry.seq)[0] for entry in entries)
        if world.window == 1:
            assert seqs == sorted(seqs), "items are out of order"
        kept[spool.run] += len(entries)
        written[spool.run] += len(spool.items)
        samples[spool.run] += sum(sample_pb2.Item.FromString(entry.item).HasField("sample") for entry in entries)
        newly_dropped[spool.run] += sum(entry.newly_dropped for entry in entries)
    assert not found, "the log has writers that nobody knows"
    assert world.daemon is not None
    for run in world.daemon.admission.runs():
        assert run.samples == samples[run.key.run]
        assert run.dropped == newly_dropped[run.key.run], "the log and the daemon count drops differently"
        assert kept[run.key.run] + run.rejected + run.dropped == written[run.key.run], "an item is counted twice or not"


def simulate(seed: int) -> World:
    """Run a world to its end and check it."""
    world = World(seed)
    for _ in range(STEPS):
        world.step()
    world.heal()
    check(world)
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_acked_item_is_in_the_log_exactly_once(seed: int) -> None:
    """Nothing acked is lost or counted twice, whatever network, disk and power do; all seeds meet 10,000 faults."""
    assert simulate(seed).injected.total() >= FAULTS


def test_the_shipper_meets_what_it_is_made_for() -> None:
    """The seeds above are worth something: two batches in flight, refusals of every kind, items out of order."""
    seen = Counter[str]()
    for seed in range(0, 60, 2):
        world = simulate(seed)
        seen += world.seen
        for entries in stored_items(world).values():
            seqs = [entry.seq for entry in entries]
            seen["out of order"] += seqs != sorted(seqs)
    for what in (
        "two in flight",
        "out of order",
        "forwarders that died",
        "ACK_STATUS_STORED",
        "ACK_STATUS_UNAVAILABLE",
        "ACK_STATUS_UNKNOWN_RUN",
    ):
        assert seen[what] > 0, what
