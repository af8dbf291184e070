"""Decides what a batch adds to the log and what its sender is told: no I/O, no clock, no threads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from topowatch_monitor.access.tokens import DEFAULT_TENANT
from topowatch_monitor.ingest.limits import DEFAULT_LIMITS, Limits
from topowatch_monitor.ingest.registry import (
    Registry,
    RunName,
    RunSummary,
    Writer,
    WriterName,
    to_nanoseconds,
    to_timestamp,
)
from topowatch_monitor.ingest.validation import Reject, check_descriptor, check_item, check_key
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import ingest_pb2 as pb
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from topowatch_monitor.store.log import Record

_SEQ_END = 1 << 63


@dataclass(slots=True)
class Token:
    """What a batch changes once its records are durable."""

    name: WriterName
    received_at: int
    opened: run_pb2.RunDescriptor | None = None
    rejected: list[tuple[int, Reject]] = field(default_factory=list)
    stored: list[tuple[int, sample_pb2.Item]] = field(default_factory=list)
    stored_bytes: int = 0

    def apply(self, registry: Registry) -> list[int]:
        """Change a registry in the order of the records; return how many items each stored one newly drops."""
        if self.opened is not None:
            registry.opened(self.opened, self.received_at)
        if self.rejected:
            registry.rejected(self.name, [seq for seq, _ in self.rejected], self.received_at)
        return [registry.stored(self.name, seq, item, self.received_at) for seq, item in self.stored]


class Admitted(NamedTuple):
    """The answer to a batch.

    `token` is None if there is nothing to log; else `records` have to be durable before `ack` is sent and the token is
    committed, and the token is abandoned if they cannot be.
    """

    ack: pb.Ack
    records: list[tuple[int, bytes]]
    token: Token | None


class _RefusedError(Exception):
    """The whole batch is answered with `status` and nothing of it is stored."""

    def __init__(self, status: pb.AckStatus, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after = retry_after


class Admission:
    """Registry of runs and writers with exactly-once admission of their items.

    Of one rank of a run, one batch may be admitted at a time: the next after `commit` or `abandon`. Tokens are
    committed in the order of their records in the log.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._registry = Registry()
        self._streams: dict[tuple[RunName, int, str], int] = {}  # the newest of each rank's spools

    @property
    def orphans(self) -> int:
        """Items found by `restore` whose writer the log does not introduce; 0 unless the log was damaged."""
        return self._registry.orphans

    def restore(self, records: Iterable[Record]) -> None:
        """Take over the state that a log segment (head and what follows) stands for."""
        for record in records:
            if record.kind == LogKind.RUN_OPENED:
                opened = log_pb2.RunOpened.FromString(record.payload)
                progress = opened.progress if opened.HasField("progress") else None
                self._registry.opened(opened.descriptor, to_nanoseconds(opened.received_at), progress)
            elif record.kind == LogKind.STORED_ITEM:
                stored = log_pb2.StoredItem.FromString(record.payload)
                item = sample_pb2.Item.FromString(stored.item)
                self._registry.stored(_name_of(stored), stored.seq, item, to_nanoseconds(stored.received_at))
            elif record.kind == LogKind.ITEMS_REJECTED:
                refused = log_pb2.ItemsRejected.FromString(record.payload)
                self._registry.rejected(_name_of(refused), list(refused.seqs), to_nanoseconds(refused.received_at))
            elif record.kind == LogKind.RUN_FORGOTTEN:
                key = log_pb2.Event.FromString(record.payload).key
                self._registry.forget(RunName(key.tenant, key.group, key.run))
        self._registry.order_by_silence()

    def admit(self, batch: pb.Batch, received_at: float, stream: int, tenant: str = DEFAULT_TENANT) -> Admitted:
        """Check a batch and say what it adds to the log.

        Args:
            batch: as it came; the tenant in it is ignored.
            received_at: Unix seconds.
            stream: identifies the stream that brought it; a later stream has a higher number.
            tenant: who sends, by its credentials.
        """
        key = run_pb2.RunKey(tenant=tenant, group=batch.key.group, run=batch.key.run)
        name = WriterName(RunName(tenant, key.group, key.run), batch.rank, batch.incarnation)
        token = Token(name, round(received_at * 1e9))
        self._registry.forget_silent(round((received_at - self._limits.silent_seconds) * 1e9))
        entries = [(envelope.seq, envelope.item) for envelope in batch.items]
        try:
            self._check_batch(batch, entries)
            writer = self._writer(batch, key, token)
            spool = self._fence(batch, token, stream)
            self._check_gaps(entries, writer)
            self._streams[spool] = stream
        except _RefusedError as refused:
            return Admitted(refusal(batch.id, refused.status, str(refused), refused.retry_after), [], None)
        fresh, duplicates = self._judge(entries, writer, token)
        ack = pb.Ack(
            batch_id=batch.id,
            status=pb.ACK_STATUS_STORED,
            rejections=[pb.Rejection(seq=seq, reason=why.reason, detail=why.detail) for seq, why in token.rejected],
            duplicates=duplicates,
        )
        records = _records(fresh, self._newly_dropped(token), batch, key, token)
        if not records:
            return Admitted(ack, [], None)
        if token.opened is not None:
            self._registry.begin(name.run, token.opened.sketch, token.received_at)
        return Admitted(ack, records, token)

    def commit(self, token: Token) -> None:
        """The token's records are durable."""
        token.apply(self._registry)
        if token.opened is not None:
            self._registry.begun(token.name.run)

    def abandon(self, token: Token) -> None:
        """The token's records could not be written: it is as if the batch had not come."""
        if token.opened is not None:
            self._registry.begun(token.name.run)

    def unheard(self, before: float) -> list[RunName]:
        """Return the runs that were silent since `before`, Unix seconds, ended or not."""
        return self._registry.unheard(round(before * 1e9))

    def forget(self, names: Iterable[RunName]) -> None:
        """Know runs no more; whoever goes on with one is asked to introduce it."""
        gone = set(names)
        for name in gone:
            self._registry.forget(name)
        self._streams = {spool: stream for spool, stream in self._streams.items() if spool[0] not in gone}

    def knows(self, key: run_pb2.RunKey) -> bool:
        """Whether a run is known."""
        return RunName(key.tenant, key.group, key.run) in self._registry.runs

    def head(self) -> list[tuple[int, bytes]]:
        """Return the records that open a segment, so that it can be restored from alone; only while no token is out."""
        return [
            (
                LogKind.RUN_OPENED,
                log_pb2.RunOpened(
                    descriptor=writer.descriptor,
                    received_at=to_timestamp(writer.opened_at),
                    progress=writer.progress(),
                ).SerializeToString(),
            )
            for run in self._registry.runs.values()
            for writer in run.writers.values()
        ]

    def runs(self) -> list[RunSummary]:
        """Return what is known of every run, in the order in which they were opened."""
        return self._registry.summaries()

    def take_changed(self) -> list[RunSummary]:
        """Return what is known of the runs that changed since the last call; of all of them on the first."""
        return self._registry.take_changed()

    def _check_batch(self, batch: pb.Batch, entries: list[tuple[int, bytes]]) -> None:
        """Refuse a batch that is malformed as a whole."""
        problem = check_key(batch.key, self._limits)
        if problem is not None:
            raise _RefusedError(pb.ACK_STATUS_INVALID, problem)
        if len(entries) > self._limits.max_items:
            raise _RefusedError(
                pb.ACK_STATUS_INVALID,
                f"the batch has {len(entries)} items, at most {self._limits.max_items} are allowed",
            )
        previous = -1
        for seq, _ in entries:
            if not previous < seq < _SEQ_END:
                raise _RefusedError(
                    pb.ACK_STATUS_INVALID, f"seq {seq} follows {previous}; they must rise and stay below 2**63"
                )
            previous = seq

    def _writer(self, batch: pb.Batch, key: run_pb2.RunKey, token: Token) -> Writer:
        """Return the state to judge the batch against: the writer's own, or that of one who introduces itself."""
        known = self._registry.find(token.name)
        if known is not None and known.descriptor.writer_uuid != batch.writer_uuid:
            raise _RefusedError(
                pb.ACK_STATUS_WRITER_CONFLICT,
                f"another process writes rank {batch.rank}, incarnation {batch.incarnation} of run {key.run!r}:"
                " give this job another run name or let it begin a new incarnation",
            )
        if not batch.HasField("descriptor"):
            if known is None:
                raise _RefusedError(
                    pb.ACK_STATUS_UNKNOWN_RUN, f"send the descriptor of run {key.run!r} first, then the batch again"
                )
            return known
        descriptor = run_pb2.RunDescriptor()
        descriptor.CopyFrom(batch.descriptor)
        descriptor.key.tenant = key.tenant
        if known is not None and descriptor == known.descriptor:
            return known
        self._check_opening(batch, key, descriptor, known)
        token.opened = descriptor
        if known is not None:
            return replace(known, descriptor=descriptor)
        return self._registry.introduced(token.name.run, descriptor, token.received_at)

    def _check_opening(
        self, batch: pb.Batch, key: run_pb2.RunKey, descriptor: run_pb2.RunDescriptor, known: Writer | None
    ) -> None:
        """Refuse a descriptor that is malformed, is not the batch's, contradicts the run, or is one too many."""
        problem = check_descriptor(descriptor, self._limits)
        names = (descriptor.key, descriptor.rank, descriptor.incarnation, descriptor.writer_uuid)
        run = self._registry.runs.get(RunName(key.tenant, key.group, key.run))
        if problem is None and names != (key, batch.rank, batch.incarnation, batch.writer_uuid):
            problem = "the descriptor names another run, rank, incarnation or writer than its batch"
        if problem is None and run is not None and run.sketch != descriptor.sketch:
            problem = f"run {key.run!r} has sketches of another dimension or seed: give this job another run name"
        if problem is None and known is not None:
            before = known.descriptor
            if (before.first_seq, before.start_step) != (descriptor.first_seq, descriptor.start_step):
                problem = "first_seq and start_step of an incarnation cannot change"
        if problem is not None:
            raise _RefusedError(pb.ACK_STATUS_INVALID, problem)
        if known is None:
            self._check_room(key.tenant, new_run=run is None)

    def _check_room(self, tenant: str, *, new_run: bool) -> None:
        """Refuse a writer beyond the limits; a run that is known may always go on."""
        registry, limits = self._registry, self._limits
        if new_run and registry.live_runs_of(tenant) >= limits.tenant_runs:
            full = f"tenant {tenant} may have {limits.tenant_runs} live runs: try again when one has ended"
            raise _RefusedError(pb.ACK_STATUS_RESOURCE_EXHAUSTED, full, 60.0)
        if new_run and registry.live_runs >= limits.max_runs:
            full = f"the daemon takes {limits.max_runs} live runs at most: try again when one has ended"
            raise _RefusedError(pb.ACK_STATUS_RESOURCE_EXHAUSTED, full, 60.0)
        if registry.live_writers_of(tenant) >= limits.tenant_writers:
            full = f"tenant {tenant} may have {limits.tenant_writers} writers: try again when a run has ended"
            raise _RefusedError(pb.ACK_STATUS_RESOURCE_EXHAUSTED, full, 60.0)
        if registry.live_writers >= limits.max_writers:
            full = f"the daemon takes {limits.max_writers} writers of live runs at most: try again when a run has ended"
            raise _RefusedError(pb.ACK_STATUS_RESOURCE_EXHAUSTED, full, 60.0)

    def _fence(self, batch: pb.Batch, token: Token, stream: int) -> tuple[RunName, int, str]:
        """Refuse what an older stream of the same spool brings; return what names the spool."""
        spool = (token.name.run, batch.rank, batch.writer_uuid)
        if stream < self._streams.get(spool, stream):
            raise _RefusedError(pb.ACK_STATUS_FENCED, "a newer stream of this writer took over")
        return spool

    def _check_gaps(self, entries: list[tuple[int, bytes]], writer: Writer) -> None:
        """Refuse items from before the incarnation, and jumps that would leave more gaps than are kept."""
        if entries and entries[0][0] < writer.descriptor.first_seq:
            raise _RefusedError(
                pb.ACK_STATUS_INVALID,
                f"seq {entries[0][0]} lies before {writer.descriptor.first_seq}, the first of its incarnation",
            )
        expected = writer.window.next_seq
        gaps = len(writer.window.missing)
        for seq, _ in entries:
            if seq >= expected:
                gaps += seq > expected
                expected = seq + 1
        if gaps > max(len(writer.window.missing), self._limits.max_missing_ranges):
            raise _RefusedError(
                pb.ACK_STATUS_INVALID, f"the writer's sequence has over {self._limits.max_missing_ranges} gaps"
            )

    def _judge(
        self, entries: list[tuple[int, bytes]], writer: Writer, token: Token
    ) -> tuple[list[tuple[int, bytes]], int]:
        """Sort the items into the token; return those to store and how many are known already."""
        window, descriptor = writer.window, writer.descriptor
        fresh: list[tuple[int, bytes]] = []
        for seq, encoded in entries:
            if seq in window:
                continue
            item = check_item(encoded, descriptor, self._limits)
            if not isinstance(item, Reject) and item.HasField("dropped"):
                item = self._check_dropped(seq, item, token, descriptor.writer_uuid) or item
            if isinstance(item, Reject):
                token.rejected.append((seq, item))
            else:
                token.stored.append((seq, item))
                token.stored_bytes += len(encoded)
                fresh.append((seq, encoded))
        return fresh, len(entries) - len(fresh) - len(token.rejected)

    def _newly_dropped(self, token: Token) -> list[int]:
        """Return for each stored item how many items it reports as dropped that were not known to be."""
        if not any(item.HasField("dropped") for _, item in token.stored):
            return [0] * len(token.stored)
        return token.apply(self._registry.trial(token.name.run, token.name.rank))

    def _check_dropped(self, seq: int, item: sample_pb2.Item, token: Token, writer_uuid: str) -> Reject | None:
        """Say what is wrong with a dropped range in view of what else is known of its spool."""
        if item.dropped.last_seq >= seq:
            return Reject(pb.REJECTION_REASON_MALFORMED, f"item {seq} reports item {item.dropped.last_seq} as dropped")
        found = self._registry.answering(token.name, writer_uuid, item.dropped)
        if found is not None and len(found[0].window.missing) > self._limits.max_missing_ranges:
            return Reject(pb.REJECTION_REASON_MALFORMED, "the spool's sequence has too many gaps to drop more of it")
        return None


def _records(
    fresh: list[tuple[int, bytes]], newly_dropped: list[int], batch: pb.Batch, key: run_pb2.RunKey, token: Token
) -> list[tuple[int, bytes]]:
    """Return what the log keeps of a batch; `Registry` applies it in this order."""
    received_at = to_timestamp(token.received_at)
    records: list[tuple[int, bytes]] = []
    if token.opened is not None:
        opened = log_pb2.RunOpened(descriptor=token.opened, received_at=received_at)
        records.append((LogKind.RUN_OPENED, opened.SerializeToString()))
    if token.rejected:
        refused = log_pb2.ItemsRejected(
            key=key,
            rank=batch.rank,
            incarnation=batch.incarnation,
            seqs=[seq for seq, _ in token.rejected],
            received_at=received_at,
        )
        records.append((LogKind.ITEMS_REJECTED, refused.SerializeToString()))
    if fresh:
        # Encoded messages that are joined merge: what all items share is encoded once.
        shared = log_pb2.StoredItem(
            key=key, rank=batch.rank, incarnation=batch.incarnation, received_at=received_at
        ).SerializeToString()
        records += [
            (
                LogKind.STORED_ITEM,
                shared + log_pb2.StoredItem(seq=seq, item=encoded, newly_dropped=count).SerializeToString(),
            )
            for (seq, encoded), count in zip(fresh, newly_dropped, strict=True)
        ]
    return records


def refusal(batch_id: int, status: pb.AckStatus, detail: str, retry_after: float = 0.0) -> pb.Ack:
    """Return the ack of a batch of which nothing was stored; `retry_after` in seconds."""
    ack = pb.Ack(batch_id=batch_id, status=status, detail=detail)
    if retry_after:
        ack.retry_after.FromMilliseconds(round(retry_after * 1000))
    return ack


def _name_of(record: log_pb2.StoredItem | log_pb2.ItemsRejected) -> WriterName:
    key = record.key
    return WriterName(RunName(key.tenant, key.group, key.run), record.rank, record.incarnation)
