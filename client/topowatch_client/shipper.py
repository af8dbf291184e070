"""What to send next and what an answer means, for one writer. No gRPC, no clock, no files.

The forwarder's process drives it: `next_batch` → send, `on_ack`, `on_disconnect`. Time is handed in, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from topowatch_protos.v1 import ingest_pb2

if TYPE_CHECKING:
    import random

    from topowatch_client.spool_reader import Entry


class Source(Protocol):
    """Where entries come from: `SpoolReader`, or a list in a simulation."""

    def read(self, max_bytes: int, max_items: int) -> list[Entry]:
        """Return the next entries, all of one incarnation; empty if there are none for now."""


@dataclass(frozen=True)
class Limits:
    """Bounds of the transport."""

    batch_bytes: int = 4 << 20
    batch_items: int = 512
    in_flight: int = 2  # batches without an answer
    ack_seconds: float = 30.0  # a stream that owes an answer for longer is taken for dead
    conflict_seconds: float = 60.0  # between two tries where another writer holds our place
    backoff_first: float = 0.1
    backoff_longest: float = 5.0  # a daemon that is back is found soon, whatever its outage has piled up


class Backoff:
    """Exponential delays with jitter, so that a fleet does not come back all at once."""

    def __init__(self, limits: Limits, rng: random.Random) -> None:
        self._limits = limits
        self._rng = rng
        self._failures = 0

    def next_delay(self) -> float:
        """Return seconds to wait after one more failure: between half of the bound and the bound."""
        bound = min(self._limits.backoff_longest, self._limits.backoff_first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return bound * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again from the shortest delay."""
        self._failures = 0


@dataclass
class Pending:
    """Entries that are read and not yet answered for."""

    entries: list[Entry]
    batch_id: int = 0  # of the last sending; 0 while it waits to be sent
    sent_at: float = 0.0
    describe: bool = False  # carry the run descriptor in any case

    @property
    def first(self) -> int:
        """First sequence number."""
        return self.entries[0].seq

    @property
    def last(self) -> int:
        """Last sequence number."""
        return self.entries[-1].seq


@dataclass(frozen=True)
class Refused:
    """Items that the daemon does not take, for the log beside the spool."""

    entries: tuple[Entry, ...]
    reason: str
    curable: bool  # another daemon, or this one with other settings, may take them


@dataclass
class Progress:
    """What is known about one writer's shipping; `message` says what is wrong, in words, or is empty."""

    next_seq: int = 0  # the daemon has answered for everything below
    acked: int = 0
    rejected: int = 0
    message: str = ""
    connected: bool = False
    wished: tuple[ingest_pb2.SliceRequest, ...] = ()  # of the job, by the last answer that took a batch
    refused: list[Refused] = field(default_factory=list)  # not yet written down


class Shipper:
    """Keeps at most two batches on the way, in order, and resends until each is answered for."""

    def __init__(self, source: Source, progress: Progress, limits: Limits, rng: random.Random) -> None:
        self.progress = progress
        self.fenced = False
        self._source = source
        self._limits = limits
        self._backoff = Backoff(limits, rng)
        self._batch_bytes = limits.batch_bytes
        self._batch_items = limits.batch_items
        self._pending: list[Pending] = []
        self._last_id = 0
        self._described = -1  # incarnation that the daemon was told about on this stream
        self._hold_until = 0.0
        self._answered = progress.next_seq  # everything below it was answered or is pending

    @property
    def idle(self) -> bool:
        """Whether nothing is on the way or waiting to be sent again."""
        return not self._pending

    def next_batch(self, now: float) -> ingest_pb2.Batch | None:
        """Return the batch to send now, None if there is none or the daemon asked to wait."""
        if self.fenced or now < self._hold_until:
            return None
        batch = next((pending for pending in self._pending if not pending.batch_id), None)
        if batch is None:
            if len(self._pending) >= self._limits.in_flight:
                return None
            entries = self._source.read(self._batch_bytes, self._batch_items)
            if not entries:
                return None
            batch = Pending(entries)
            self._pending.append(batch)
        elif sum(1 for pending in self._pending if pending.batch_id) >= self._limits.in_flight:
            return None
        return self._encode(batch, now)

    def overdue(self, now: float) -> bool:
        """Whether the stream owes an answer for too long and has to be opened again."""
        sent = [pending.sent_at for pending in self._pending if pending.batch_id]
        return bool(sent) and now - min(sent) >= self._limits.ack_seconds

    def on_ack(self, ack: ingest_pb2.Ack, now: float) -> None:
        """Take an answer in."""
        batch = next((pending for pending in self._pending if pending.batch_id == ack.batch_id), None)
        if batch is None or not ack.batch_id:
            return
        retry_after = ack.retry_after.seconds + ack.retry_after.nanos / 1e9
        status = ack.status
        message = ""
        if status == ingest_pb2.ACK_STATUS_STORED:
            self._on_stored(batch, ack)
        elif status == ingest_pb2.ACK_STATUS_INVALID:
            self._refuse(batch, ack.detail or "the daemon found the batch malformed")
            message = f"a batch was refused: {ack.detail}"
        else:
            batch.batch_id = 0  # send it again
            if status == ingest_pb2.ACK_STATUS_UNKNOWN_RUN:
                if batch.describe:  # it was described already: do not spin
                    retry_after = max(retry_after, self._backoff.next_delay())
                batch.describe = True
            elif status == ingest_pb2.ACK_STATUS_WRITER_CONFLICT:
                retry_after = max(retry_after, self._limits.conflict_seconds)
                message = f"another process writes this run and rank: {ack.detail or 'give each run its own name'}"
            elif status == ingest_pb2.ACK_STATUS_FENCED:
                self.fenced = True
                message = f"another forwarder ships this spool: {ack.detail or 'this one stops'}"
            else:  # overloaded, cannot write, or a status of a newer daemon: all mean "later"
                retry_after = max(retry_after, self._backoff.next_delay())
                message = f"the daemon asks to wait: {ack.detail or ingest_pb2.AckStatus.Name(status)}"
        self.progress.message = message
        if retry_after > 0:
            self._hold_until = max(self._hold_until, now + retry_after)

    def on_connect(self) -> None:
        """A new stream is open: the daemon knows nothing of it yet."""
        self._described = -1

    def on_disconnect(self, message: str, *, too_large: bool = False) -> float:
        """Take the loss of the stream in; return seconds to wait before opening another.

        Args:
            message: What went wrong, in words.
            too_large: The daemon's limit on the size of a message was hit.
        """
        self.progress.connected = False
        self.progress.message = message
        sent = [pending for pending in self._pending if pending.batch_id]
        for pending in self._pending:
            pending.batch_id = 0
        if too_large and sent:
            self._split(max(sent, key=lambda pending: sum(entry.size for entry in pending.entries)), message)
        return self._backoff.next_delay()

    def _split(self, batch: Pending, message: str) -> None:
        if len(batch.entries) == 1:
            self._refuse(batch, message)
            return
        half = len(batch.entries) // 2
        at = self._pending.index(batch)
        self._pending[at : at + 1] = [Pending(batch.entries[:half]), Pending(batch.entries[half:])]
        self._batch_bytes = max(1, sum(entry.size for entry in batch.entries) // 2)

    def _on_stored(self, batch: Pending, ack: ingest_pb2.Ack) -> None:
        rejected = {rejection.seq: rejection for rejection in ack.rejections}
        alike: dict[tuple[str, bool], list[Entry]] = {}
        for entry in batch.entries:
            if entry.seq in rejected:
                rejection = rejected[entry.seq]
                curable = rejection.reason == ingest_pb2.REJECTION_REASON_NEWER_SCHEMA
                alike.setdefault((f"{_name_of(rejection.reason)}: {rejection.detail}", curable), []).append(entry)
        for (reason, curable), entries in alike.items():
            self.progress.refused.append(Refused(tuple(entries), reason, curable))
            self.progress.rejected += len(entries)
        self.progress.acked += len(batch.entries) - len(rejected)
        self.progress.connected = True
        self.progress.wished = tuple(ack.slice_requests)
        self._backoff.reset()
        self._finish(batch)

    def _refuse(self, batch: Pending, reason: str) -> None:
        self.progress.refused.append(Refused(tuple(batch.entries), reason, curable=True))
        self.progress.rejected += len(batch.entries)
        self._finish(batch)

    def _finish(self, batch: Pending) -> None:
        self._pending.remove(batch)
        self._answered = max(self._answered, batch.last + 1)
        # Answers may come out of order after a resend: never move past what is still open.
        self.progress.next_seq = min([self._answered, *(pending.first for pending in self._pending)])

    def _encode(self, batch: Pending, now: float) -> ingest_pb2.Batch:
        self._last_id += 1
        batch.batch_id, batch.sent_at = self._last_id, now
        descriptor = batch.entries[0].descriptor
        message = ingest_pb2.Batch(
            id=batch.batch_id,
            key=descriptor.key,
            rank=descriptor.rank,
            incarnation=descriptor.incarnation,
            writer_uuid=descriptor.writer_uuid,
            items=[entry.envelope for entry in batch.entries],
        )
        if batch.describe or self._described != descriptor.incarnation:
            message.descriptor.CopyFrom(descriptor)
            self._described = descriptor.incarnation
        return message


def _name_of(reason: ingest_pb2.RejectionReason) -> str:
    if reason not in ingest_pb2.RejectionReason.values():  # of a newer daemon
        return f"reason {reason}"
    return ingest_pb2.RejectionReason.Name(reason).removeprefix("REJECTION_REASON_").lower()
