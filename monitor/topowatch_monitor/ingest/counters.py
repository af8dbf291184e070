"""What ingest counts of itself since it started: plain numbers, read at scrape time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from topowatch_protos.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from topowatch_monitor.ingest.admission import Token

ACK_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


STATUSES = tuple(_word(name, "ACK_STATUS_") for name, status in pb.AckStatus.items() if status)
REASONS = tuple(_word(name, "REJECTION_REASON_") for name, reason in pb.RejectionReason.items() if reason)


class Histogram:
    """Observations by upper bound; the last bucket has none."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[float, int]]:
        """Return (upper bound, observations at or below it); the last bound is infinite."""
        total = 0
        result = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            result.append((bound, total))
        return result


@dataclass
class Counters:
    """Counts since the start of the daemon.

    Attributes:
        samples_total: samples stored.
        rejected_total: items refused, by reason (`sketch_dimension`, `not_finite`, ...); each reason is there from the
            start, because Prometheus sees no increase where a series begins above 0.
        acks_total: batches answered, by status (`stored`, `unknown_run`, ...); each is there from the start as well.
        bytes_total: bytes of the items stored, as they came.
        ack_seconds: from a batch's arrival to its ack, of batches that were taken.
    """

    samples_total: int = 0
    rejected_total: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    acks_total: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STATUSES, 0)))
    bytes_total: int = 0
    ack_seconds: Histogram = field(default_factory=lambda: Histogram(ACK_BOUNDS))

    def count_ack(self, ack: pb.Ack, seconds: float) -> None:
        """Count an answer, what it rejects and how long it took; only batches that were taken enter the histogram."""
        self.acks_total[_word(pb.AckStatus.Name(ack.status), "ACK_STATUS_")] += 1
        for rejection in ack.rejections:
            self.rejected_total[_word(pb.RejectionReason.Name(rejection.reason), "REJECTION_REASON_")] += 1
        if ack.status == pb.ACK_STATUS_STORED:
            self.ack_seconds.observe(seconds)

    def count_stored(self, token: Token) -> None:
        """Count what has become durable."""
        self.samples_total += sum(item.HasField("sample") for _, item in token.stored)
        self.bytes_total += token.stored_bytes
