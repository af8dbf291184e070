"""Runs and writers as ingest knows them: the state that deduplication needs, changed by what the log holds.

The same transitions serve a commit and a restore, so that a restart finds the state that the log implies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from topowatch_monitor.ingest.window import SeqWindow
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

NO_STEP = -1


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
        dropped: items that a full spool dropped.
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
    """What was taken from one life of one rank. Times are nanoseconds since the epoch."""

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
    """A run and its writers by (rank, incarnation)."""

    writers: dict[tuple[int, int], Writer] = field(default_factory=dict)
    # What all ranks must agree on; known from the moment when the first of them is about to be logged.
    sketch: run_pb2.SketchSpec | None = None
    opening: int = 0  # writers that are about to be logged


class Registry:
    """All runs, and the transitions that log records stand for."""

    def __init__(self) -> None:
        self.runs: dict[RunName, Run] = {}
        self.writer_count = 0
        self.orphans = 0  # items in the log whose writer's descriptor is not there: only after damage

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
        place = (descriptor.rank, descriptor.incarnation)
        writer = run.writers.get(place)
        if writer is None:
            writer = run.writers[place] = Writer(descriptor, received_at, SeqWindow(descriptor.first_seq))
            self.writer_count += 1
        writer.descriptor = descriptor
        if progress is not None:
            writer.window = SeqWindow(progress.next_seq, [(gap.first, gap.last) for gap in progress.missing])
            writer.samples = progress.samples
            writer.rejected = progress.rejected
            writer.dropped = progress.dropped
            writer.last_step = progress.last_step
            writer.last_received_at = to_nanoseconds(progress.last_received_at)
            writer.ended = progress.ended

    def rejected(self, name: WriterName, seqs: list[int], received_at: int) -> None:
        """Items were refused; their seqs are spent."""
        writer = self.find(name)
        if writer is None:
            self.orphans += len(seqs)
            return
        for seq in seqs:
            writer.rejected += writer.window.take(seq, seq)
        writer.last_received_at = received_at

    def stored(self, name: WriterName, seq: int, item: sample_pb2.Item, received_at: int) -> None:
        """An item was stored."""
        writer = self.find(name)
        if writer is None:
            self.orphans += 1
            return
        writer.window.take(seq, seq)
        writer.last_received_at = received_at
        if item.HasField("sample"):
            writer.samples += 1
            writer.last_step = max(writer.last_step, item.sample.step)
        elif item.HasField("end"):
            writer.ended = True
        elif item.HasField("dropped"):
            self._dropped(name, writer, item.dropped)

    def _dropped(self, name: WriterName, reporter: Writer, dropped: sample_pb2.DroppedRange) -> None:
        """Count what a spool dropped, less what came through, on the life that it belongs to."""
        owner = self.find(name._replace(incarnation=dropped.incarnation))
        if owner is None or owner.descriptor.writer_uuid != reporter.descriptor.writer_uuid:
            # Its descriptor was dropped as well, so nothing of it ever came.
            reporter.dropped += dropped.last_seq - dropped.first_seq + 1
        else:
            first = max(dropped.first_seq, owner.descriptor.first_seq)
            owner.dropped += owner.window.take(first, dropped.last_seq) if first <= dropped.last_seq else 0

    def summaries(self) -> list[RunSummary]:
        """Return what is known of every run, in the order in which they were opened."""
        return [_summary(name, run) for name, run in self.runs.items() if run.writers]


def _summary(name: RunName, run: Run) -> RunSummary:
    newest: dict[int, Writer] = {}
    for (rank, _), writer in sorted(run.writers.items(), key=lambda entry: entry[0]):
        newest[rank] = writer
    leading = newest[min(newest)]
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
        missing=sum(last - first + 1 for writer in writers for first, last in writer.window.missing),
        last_step=step if step != NO_STEP else None,
        last_received_at=received / 1e9 if received else None,
        opened_at=min(writer.opened_at for writer in writers) / 1e9,
        ended=leading.ended,
        descriptor=leading.descriptor,
    )


def to_timestamp(nanoseconds: int) -> Timestamp:
    """Return nanoseconds since the epoch as a protobuf time."""
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def to_nanoseconds(time: Timestamp) -> int:
    """Return a protobuf time as nanoseconds since the epoch."""
    return time.seconds * 1_000_000_000 + time.nanos
