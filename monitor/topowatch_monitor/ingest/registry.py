"""Runs and writers as ingest knows them: the state that deduplication needs, changed by what the log holds.

The same transitions serve a commit and a restore, so that a restart finds the state that the log implies.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from topowatch_monitor.ingest.window import SeqWindow
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

NO_STEP = -1
_LAST_INCARNATION = (1 << 64) - 1


class RunName(NamedTuple):
    """Names a run within the daemon."""

    tenant: str
    group: str
    run: str


class WriterName(NamedTuple):
    """Names one life of one rank of a run."""

    run: RunName
    rank: int
    incarnation: int


@dataclass(frozen=True)
class RunSummary:
    """What ingest knows of a run.

    Attributes:
        key: tenant, group and run.
        ranks: the ranks that were heard of, ascending.
        incarnation: the newest.
        samples: stored samples, each counted once.
        rejected: items that were refused.
        dropped: items that a full spool dropped and that never came, each counted once.
        missing: items that were jumped over and may still come.
        last_step: highest step of the ranks' newest lives; None before the first sample.
        last_received_at: Unix seconds of the last item; None before the first.
        opened_at: Unix seconds at which the first descriptor came.
        ended: whether the lowest rank's newest life finished by itself; a job that attaches again begins a newer one.
        descriptor: of the lowest rank's newest life.
    """

    key: RunName
    ranks: tuple[int, ...]
    incarnation: int
    samples: int
    rejected: int
    dropped: int
    missing: int
    last_step: int | None
    last_received_at: float | None
    opened_at: float
    ended: bool
    descriptor: run_pb2.RunDescriptor


@dataclass(slots=True)
class Writer:
    """What was taken from one life of one rank. Times are nanoseconds since the epoch.

    Below the life's own first seq the window knows which items of earlier, unknown lives of the spool were dropped.
    """

    descriptor: run_pb2.RunDescriptor
    opened_at: int
    window: SeqWindow
    samples: int = 0
    rejected: int = 0
    dropped: int = 0
    last_step: int = NO_STEP
    last_received_at: int = 0
    ended: bool = False

    def progress(self) -> log_pb2.WriterProgress:
        """Return the state as a segment's head keeps it."""
        return log_pb2.WriterProgress(
            next_seq=self.window.next_seq,
            missing=[log_pb2.SeqRange(first=first, last=last) for first, last in self.window.missing],
            samples=self.samples,
            rejected=self.rejected,
            dropped=self.dropped,
            last_step=self.last_step,
            last_received_at=to_timestamp(self.last_received_at),
            ended=self.ended,
        )


@dataclass(slots=True)
class Run:
    """A run and its writers by (rank, incarnation); `heard_at` in nanoseconds since the epoch."""

    writers: dict[tuple[int, int], Writer] = field(default_factory=dict)
    leading: Writer | None = None  # the newest life of the lowest rank; None before the first writer
    heard_at: int = 0
    # What all ranks must agree on; known from the moment when the first of them is about to be logged.
    sketch: run_pb2.SketchSpec | None = None
    opening: int = 0  # writers that are about to be logged

    def add(self, writer: Writer) -> None:
        """Take in a life of a rank that is not known yet."""
        described = writer.descriptor
        self.writers[described.rank, described.incarnation] = writer
        leader = self.leading.descriptor if self.leading is not None else described
        if (-described.rank, described.incarnation) >= (-leader.rank, leader.incarnation):
            self.leading = writer


class Registry:
    """All runs, and the transitions that log records stand for.

    Attributes:
        runs: by name, in the order in which they were opened.
        live_writers: writers of the runs that are live.
        orphans: items in the log whose writer's descriptor is not there: only after damage.
    """

    def __init__(self) -> None:
        self.runs: dict[RunName, Run] = {}
        self.live_writers = 0
        self.orphans = 0
        self._live: OrderedDict[RunName, int] = OrderedDict()  # their writers; who has been silent longest comes first
        self._changed: dict[RunName, None] = {}  # since the last `take_changed`; a set that keeps its order

    @property
    def live_runs(self) -> int:
        """Runs that have not ended, are about to be opened, or were not found silent by `forget_silent`."""
        return len(self._live)

    def live_runs_of(self, tenant: str) -> int:
        """Return how many of these are one tenant's."""
        return sum(name.tenant == tenant for name in self._live)

    def live_writers_of(self, tenant: str) -> int:
        """Return how many writers one tenant's live runs have."""
        return sum(writers for name, writers in self._live.items() if name.tenant == tenant)

    def unheard(self, before: int) -> list[RunName]:
        """Return the runs that were not heard of since `before`."""
        return [name for name, run in self.runs.items() if run.heard_at < before and not run.opening]

    def forget(self, name: RunName) -> None:
        """A run is to be known no more; nothing happens where it is not."""
        if self.runs.pop(name, None) is not None:
            self.live_writers -= self._live.pop(name, 0)
            self._changed.pop(name, None)

    def forget_silent(self, before: int) -> None:
        """Count runs no longer as live that were not heard of since `before`, until they are heard of again."""
        while self._live and self.runs[next(iter(self._live))].heard_at < before:
            _, writers = self._live.popitem(last=False)
            self.live_writers -= writers

    def order_by_silence(self) -> None:
        """Put runs in order that were restored from a segment's head, which keeps another one."""
        self._live = OrderedDict(sorted(self._live.items(), key=lambda entry: self.runs[entry[0]].heard_at))

    def begin(self, name: RunName, sketch: run_pb2.SketchSpec, received_at: int) -> None:
        """A writer of a run is about to be logged."""
        run = self.runs.setdefault(name, Run())
        run.sketch = sketch
        run.opening += 1
        if not run.writers:
            run.heard_at = received_at
            self._live[name] = 0

    def begun(self, name: RunName) -> None:
        """The writer was logged, or could not be: then a run that has no other is forgotten."""
        run = self.runs[name]
        run.opening -= 1
        if not run.writers and not run.opening:
            del self.runs[name]
            self._live.pop(name, None)

    def trial(self, name: RunName, rank: int) -> Registry:
        """Return a copy of what is known of one rank, to see what a transition would do."""
        copy = Registry()
        known = self.runs.get(name, Run())
        run = copy.runs[name] = Run()
        for place, writer in known.writers.items():
            if place[0] == rank:
                run.add(replace(writer, window=SeqWindow(writer.window.next_seq, writer.window.missing)))
        return copy

    def find(self, name: WriterName) -> Writer | None:
        """Return a writer's state, if it is known."""
        run = self.runs.get(name.run)
        return run.writers.get((name.rank, name.incarnation)) if run is not None else None

    def opened(
        self,
        descriptor: run_pb2.RunDescriptor,
        received_at: int,
        progress: log_pb2.WriterProgress | None = None,
    ) -> None:
        """A writer introduced itself, again perhaps; `progress` where a segment's head repeats it."""
        name = RunName(descriptor.key.tenant, descriptor.key.group, descriptor.key.run)
        run = self.runs.setdefault(name, Run())
        run.sketch = descriptor.sketch
        writer = run.writers.get((descriptor.rank, descriptor.incarnation))
        if writer is None:
            writer = self.introduced(name, descriptor, received_at)
            run.add(writer)
        writer.descriptor = descriptor
        if progress is not None:
            writer.window = SeqWindow(progress.next_seq, [(gap.first, gap.last) for gap in progress.missing])
            writer.samples = progress.samples
            writer.rejected = progress.rejected
            writer.dropped = progress.dropped
            writer.last_step = progress.last_step
            writer.last_received_at = to_nanoseconds(progress.last_received_at)
            writer.ended = progress.ended
        self._heard(name, max(received_at, writer.last_received_at))

    def introduced(self, name: RunName, descriptor: run_pb2.RunDescriptor, received_at: int) -> Writer:
        """Return the state that a writer begins with; what of it was counted as dropped before is taken."""
        first_seq = descriptor.first_seq
        window = SeqWindow(first_seq, [(0, first_seq - 1)] if first_seq else [])
        later = self._life_after(name, descriptor.rank, descriptor.writer_uuid, first_seq)
        if later is not None:
            for first, last in later.window.taken(later.descriptor.first_seq):
                window.take(first, last)
        return Writer(descriptor, received_at, window)

    def rejected(self, name: WriterName, seqs: list[int], received_at: int) -> None:
        """Items were refused; their seqs are spent."""
        writer = self.find(name)
        if writer is None:
            self.orphans += len(seqs)
            return
        for seq in seqs:
            writer.rejected += writer.window.take(seq, seq)
        writer.last_received_at = received_at
        self._heard(name.run, received_at)

    def stored(self, name: WriterName, seq: int, item: sample_pb2.Item, received_at: int) -> int:
        """An item was stored; return how many items it reports as dropped that were not known to be."""
        writer = self.find(name)
        if writer is None:
            self.orphans += 1
            return 0
        newly_dropped = 0
        writer.window.take(seq, seq)
        writer.last_received_at = received_at
        if item.HasField("sample"):
            writer.samples += 1
            writer.last_step = max(writer.last_step, item.sample.step)
        elif item.HasField("end"):
            writer.ended = True
        elif item.HasField("dropped"):
            newly_dropped = self._dropped(name, writer, item.dropped)
        self._heard(name.run, received_at)
        return newly_dropped

    def answering(
        self, name: WriterName, writer_uuid: str, dropped: sample_pb2.DroppedRange
    ) -> tuple[Writer, int, int] | None:
        """Return the life on which a dropped range counts, and the first and last seq that do; None if none does."""
        owner = self.find(name._replace(incarnation=dropped.incarnation))
        first, last = dropped.first_seq, dropped.last_seq
        if owner is not None and owner.descriptor.writer_uuid == writer_uuid:
            own = owner.descriptor.first_seq
            following = self._life_after(name.run, name.rank, writer_uuid, own, dropped.incarnation)
            stop = last if following is None else min(last, following.descriptor.first_seq - 1)
            return owner, max(first, own), stop
        # Its descriptor was dropped as well: the spool's next life answers for it.
        later = self._life_after(name.run, name.rank, writer_uuid, first)
        return None if later is None else (later, first, min(last, later.descriptor.first_seq - 1))

    def _dropped(self, name: WriterName, reporter: Writer, dropped: sample_pb2.DroppedRange) -> int:
        """Count what a spool dropped, less what came through or was counted before."""
        found = self.answering(name, reporter.descriptor.writer_uuid, dropped)
        if found is None:
            return 0
        writer, first, last = found
        new = writer.window.take(first, last) if first <= last else 0
        # Lives that become known late may have been counted with the one before: never more than the spool numbered.
        run = self.runs[name.run]
        spool = [
            life
            for (rank, _), life in run.writers.items()
            if rank == name.rank and life.descriptor.writer_uuid == writer.descriptor.writer_uuid
        ]
        room = max(life.window.next_seq for life in spool) - sum(life.dropped for life in spool)
        new = max(0, min(new, room))
        writer.dropped += new
        return new

    def _life_after(
        self, name: RunName, rank: int, writer_uuid: str, seq: int, incarnation: int = _LAST_INCARNATION
    ) -> Writer | None:
        """Return the first known life of a spool that begins behind `seq`, or there but later than `incarnation`."""
        run = self.runs.get(name)
        lives = [
            (writer.descriptor.first_seq, place)
            for place, writer in (run.writers.items() if run is not None else ())
            if place[0] == rank
            and writer.descriptor.writer_uuid == writer_uuid
            and (writer.descriptor.first_seq, place[1]) > (seq, incarnation)
        ]
        return run.writers[min(lives)[1]] if run is not None and lives else None

    def _heard(self, name: RunName, received_at: int) -> None:
        """A run has changed; keep what is counted of it."""
        run = self.runs[name]
        run.heard_at = max(run.heard_at, received_at)
        self._changed[name] = None
        self.live_writers -= self._live.pop(name, 0)
        if run.leading is None or not run.leading.ended:
            self._live[name] = len(run.writers)
            self.live_writers += len(run.writers)

    def take_changed(self) -> list[RunSummary]:
        """Return what is known of the runs that changed since the last call; of all of them on the first."""
        changed, self._changed = self._changed, {}
        return [_summary(name, run, run.leading) for name in changed if (run := self.runs[name]).leading is not None]

    def summaries(self) -> list[RunSummary]:
        """Return what is known of every run, in the order in which they were opened."""
        return [_summary(name, run, run.leading) for name, run in self.runs.items() if run.leading is not None]


def _summary(name: RunName, run: Run, leading: Writer) -> RunSummary:
    newest: dict[int, Writer] = {}
    for (rank, _), writer in sorted(run.writers.items(), key=lambda entry: entry[0]):
        newest[rank] = writer
    writers = run.writers.values()
    received = max(writer.last_received_at for writer in writers)
    step = max(writer.last_step for writer in newest.values())
    return RunSummary(
        key=name,
        ranks=tuple(newest),
        incarnation=max(incarnation for _, incarnation in run.writers),
        samples=sum(writer.samples for writer in writers),
        rejected=sum(writer.rejected for writer in writers),
        dropped=sum(writer.dropped for writer in writers),
        missing=sum(_missing(writer) for writer in writers),
        last_step=step if step != NO_STEP else None,
        last_received_at=received / 1e9 if received else None,
        opened_at=min(writer.opened_at for writer in writers) / 1e9,
        ended=leading.ended,
        descriptor=leading.descriptor,
    )


def _missing(writer: Writer) -> int:
    own = writer.descriptor.first_seq
    return sum(last - max(first, own) + 1 for first, last in writer.window.missing if last >= own)


def to_timestamp(nanoseconds: int) -> Timestamp:
    """Return nanoseconds since the epoch as a protobuf time."""
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def to_nanoseconds(time: Timestamp) -> int:
    """Return a protobuf time as nanoseconds since the epoch."""
    return time.seconds * 1_000_000_000 + time.nanos
