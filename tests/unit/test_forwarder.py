"""What the forwarder decides, without gRPC, files or clocks: a simulated daemon that fails in every way it can."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from topowatch_client.shipper import Backoff, Limits, Progress, Shipper
from topowatch_client.spool_reader import Entry
from topowatch_protos.v1 import ingest_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

STORED = ingest_pb2.ACK_STATUS_STORED


def entry(seq: int, incarnation: int = 1, size: int = 100) -> Entry:
    descriptor = run_pb2.RunDescriptor(key=run_pb2.RunKey(group="g", run="r"), incarnation=incarnation, writer_uuid="w")
    return Entry(seq, ingest_pb2.Envelope(seq=seq, item=bytes(size)), size, descriptor)


class Listed:
    """A source with everything in memory."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)

    def read(self, max_bytes: int, max_items: int) -> list[Entry]:
        taken: list[Entry] = []
        while self.entries and len(taken) < max_items:
            following = self.entries[0]
            total = sum(e.size for e in taken) + following.size
            same = not taken or following.descriptor.incarnation == taken[0].descriptor.incarnation
            if not same or (taken and total > max_bytes):
                break
            taken.append(self.entries.pop(0))
        return taken


def make(count: int = 20, items: int = 5, **limits: float) -> Shipper:
    chosen = Limits(batch_items=items, **limits)  # type: ignore[arg-type] # keyword by keyword
    return Shipper(Listed([entry(seq) for seq in range(count)]), Progress(), chosen, random.Random(0))


def ack(batch: ingest_pb2.Batch | None, status: int = STORED, retry: float = 0.0, detail: str = "") -> ingest_pb2.Ack:
    assert batch is not None
    answer = ingest_pb2.Ack(batch_id=batch.id, status=status, detail=detail)  # type: ignore[arg-type] # an enum value
    answer.retry_after.FromNanoseconds(int(retry * 1e9))
    return answer


def seqs(batch: ingest_pb2.Batch | None) -> list[int]:
    return [] if batch is None else [envelope.seq for envelope in batch.items]


def test_two_batches_are_on_the_way_and_the_first_carries_the_descriptor() -> None:
    shipper = make()
    first, second, third = (shipper.next_batch(0) for _ in range(3))
    assert (seqs(first), seqs(second), third) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9], None)
    assert first is not None
    assert second is not None
    assert first.HasField("descriptor")
    assert not second.HasField("descriptor")
    assert (first.key.run, first.writer_uuid, first.incarnation) == ("r", "w", 1)
    shipper.on_ack(ack(first), 0)
    assert shipper.progress.next_seq == 5
    assert seqs(shipper.next_batch(0)) == [10, 11, 12, 13, 14]


def test_each_incarnation_is_described_and_never_mixed() -> None:
    shipper = Shipper(Listed([entry(0, 1), entry(1, 1), entry(2, 2)]), Progress(), Limits(), random.Random(0))
    first, second = shipper.next_batch(0), shipper.next_batch(0)
    assert first is not None
    assert second is not None
    assert (seqs(first), seqs(second)) == ([0, 1], [2])
    assert (first.descriptor.incarnation, second.descriptor.incarnation) == (1, 2)
    assert (first.incarnation, second.incarnation) == (1, 2)


def test_an_unknown_run_is_described_and_sent_again() -> None:
    shipper = make()
    first, second = shipper.next_batch(0), shipper.next_batch(0)
    shipper.on_ack(ack(second, ingest_pb2.ACK_STATUS_UNKNOWN_RUN), 0)
    again = shipper.next_batch(0)
    assert again is not None
    assert seqs(again) == seqs(second)
    assert again.HasField("descriptor")
    shipper.on_ack(ack(again), 0)
    assert shipper.progress.next_seq == 0  # the first batch is still open
    shipper.on_ack(ack(first), 0)
    assert shipper.progress.next_seq == 10


def test_a_daemon_that_never_knows_the_run_is_not_asked_without_pause() -> None:
    shipper = make(count=1)
    shipper.on_ack(ack(shipper.next_batch(0), ingest_pb2.ACK_STATUS_UNKNOWN_RUN), 0)
    shipper.on_ack(ack(shipper.next_batch(0), ingest_pb2.ACK_STATUS_UNKNOWN_RUN), 0)
    assert shipper.next_batch(0) is None
    assert seqs(shipper.next_batch(60)) == [0]


@pytest.mark.parametrize("status", [ingest_pb2.ACK_STATUS_RESOURCE_EXHAUSTED, ingest_pb2.ACK_STATUS_UNAVAILABLE, 99])
def test_a_daemon_that_asks_to_wait_is_given_time(status: int) -> None:
    shipper = make()
    shipper.on_ack(ack(shipper.next_batch(0), status, retry=7.0, detail="full"), 0)
    assert shipper.next_batch(6.9) is None
    assert seqs(shipper.next_batch(7.1)) == [0, 1, 2, 3, 4]
    if status != 99:
        assert "full" in shipper.progress.message


def test_a_pause_that_comes_with_a_stored_batch_is_kept_too() -> None:
    shipper = make()
    shipper.on_ack(ack(shipper.next_batch(0), STORED, retry=2.0), 0)
    assert shipper.next_batch(1.9) is None
    assert seqs(shipper.next_batch(2.1)) == [5, 6, 7, 8, 9]


def test_a_writer_conflict_is_said_and_tried_again_slowly() -> None:
    shipper = make()
    shipper.on_ack(ack(shipper.next_batch(0), ingest_pb2.ACK_STATUS_WRITER_CONFLICT, detail="held by x"), 0)
    assert "another process writes this run" in shipper.progress.message
    assert shipper.next_batch(59) is None
    retried = shipper.next_batch(61)
    assert seqs(retried) == [0, 1, 2, 3, 4]
    shipper.on_ack(ack(retried), 61)
    assert shipper.progress.message == ""


def test_a_fenced_stream_stops_for_good() -> None:
    shipper = make()
    shipper.on_ack(ack(shipper.next_batch(0), ingest_pb2.ACK_STATUS_FENCED), 0)
    assert shipper.fenced
    assert shipper.next_batch(1e9) is None
    assert shipper.progress.next_seq == 0


def test_a_malformed_batch_is_put_aside_and_the_rest_goes_on() -> None:
    shipper = make(count=7)
    shipper.on_ack(ack(shipper.next_batch(0), ingest_pb2.ACK_STATUS_INVALID, detail="bad name"), 0)
    (refused,) = shipper.progress.refused
    assert ([e.seq for e in refused.entries], refused.reason, refused.curable) == (
        [0, 1, 2, 3, 4],
        "bad name",
        True,
    )
    assert (shipper.progress.rejected, shipper.progress.next_seq) == (5, 5)
    assert seqs(shipper.next_batch(0)) == [5, 6]


def test_rejected_items_are_counted_with_their_reason() -> None:
    shipper = make(count=5)
    answer = ack(shipper.next_batch(0))
    answer.rejections.add(seq=3, reason=ingest_pb2.REJECTION_REASON_NOT_FINITE, detail="weights")
    shipper.on_ack(answer, 0)
    assert (shipper.progress.acked, shipper.progress.rejected, shipper.progress.next_seq) == (4, 1, 5)
    (refused,) = shipper.progress.refused
    assert ([e.seq for e in refused.entries], refused.reason, refused.curable) == ([3], "not_finite: weights", False)


def test_items_of_a_newer_schema_are_marked_for_a_later_try() -> None:
    """They are told apart from those that no daemon will ever take, and so is a reason that we do not know."""
    shipper = make(count=5)
    answer = ack(shipper.next_batch(0))
    for seq, reason in ((0, ingest_pb2.REJECTION_REASON_NEWER_SCHEMA), (1, 99), (2, 2)):
        answer.rejections.add(seq=seq, reason=reason, detail="so")  # type: ignore[arg-type] # an enum value
    shipper.on_ack(answer, 0)
    assert [([e.seq for e in r.entries], r.reason, r.curable) for r in shipper.progress.refused] == [
        ([0, 2], "newer_schema: so", True),
        ([1], "reason 99: so", False),
    ]
    assert (shipper.progress.acked, shipper.progress.rejected, shipper.progress.next_seq) == (2, 3, 5)


def test_a_stream_that_owes_an_answer_is_overdue_and_everything_is_sent_again_in_order() -> None:
    shipper = make(ack_seconds=30.0)
    shipper.next_batch(0)
    shipper.next_batch(5)
    assert not shipper.overdue(29)
    assert shipper.overdue(30)
    delay = shipper.on_disconnect("no answer")
    assert 0 < delay <= 0.1
    shipper.on_connect()
    first, second = shipper.next_batch(40), shipper.next_batch(40)
    assert (seqs(first), seqs(second)) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    assert first is not None
    assert first.HasField("descriptor")


def test_a_late_answer_to_an_older_sending_is_ignored() -> None:
    shipper = make(count=5)
    old = shipper.next_batch(0)
    shipper.on_disconnect("gone")
    new = shipper.next_batch(1)
    shipper.on_ack(ack(old), 1)
    assert shipper.progress.next_seq == 0
    shipper.on_ack(ack(new), 1)
    assert shipper.progress.next_seq == 5


def test_a_batch_too_large_for_the_server_is_split_down_to_the_item_that_is() -> None:
    """A server that takes 350 bytes a message gets everything but the one item of 1000."""
    sizes = [100, 100, 1000, 100, 100, 100]
    source = Listed([entry(seq, size=size) for seq, size in enumerate(sizes)])
    shipper = Shipper(source, Progress(), Limits(), random.Random(0))
    now, stored = 0.0, []
    for _ in range(50):
        batch = shipper.next_batch(now)
        if batch is None:
            break
        if sum(len(envelope.item) for envelope in batch.items) > 350:
            now += shipper.on_disconnect("larger than max", too_large=True)
            shipper.on_connect()
        else:
            stored += seqs(batch)
            shipper.on_ack(ack(batch), now)
    assert sorted(stored) == [0, 1, 3, 4, 5]
    assert [refused.entries[0].seq for refused in shipper.progress.refused] == [2]
    assert shipper.progress.next_seq == 6
    assert shipper.idle


def test_backoff_doubles_with_jitter_up_to_its_bound_and_starts_over() -> None:
    backoff = Backoff(Limits(), random.Random(1))
    delays = [backoff.next_delay() for _ in range(15)]
    for number, delay in enumerate(delays):
        bound = min(5.0, 0.1 * 2**number)
        assert bound / 2 <= delay <= bound
    assert len(set(delays)) == len(delays)
    backoff.reset()
    assert backoff.next_delay() <= 0.1


@pytest.mark.parametrize("seed", range(150))
def test_nothing_is_lost_whatever_the_daemon_and_the_network_do(seed: int) -> None:
    """A seeded storm of lost answers, broken streams, pauses and forgetful daemons: each item is stored, in the end."""
    rng = random.Random(seed)
    total = rng.randrange(1, 60)
    entries = [entry(seq, incarnation=1 + seq // 25, size=rng.randrange(1, 400)) for seq in range(total)]
    limits = Limits(batch_items=rng.randrange(1, 9), batch_bytes=rng.randrange(100, 2000))
    shipper = Shipper(Listed(entries), Progress(), limits, rng)
    stored: set[int] = set()
    known: set[int] = set()
    wire: list[ingest_pb2.Batch] = []
    now, calm = 0.0, 400
    for turn in range(2000):
        now += rng.random()
        stormy = turn < calm
        while (batch := shipper.next_batch(now)) is not None:
            wire.append(batch)
        assert len(wire) <= limits.in_flight
        if shipper.overdue(now) or (stormy and rng.random() < 0.1):
            wire.clear()
            now += shipper.on_disconnect("broken")
            shipper.on_connect()
            continue
        if stormy and rng.random() < 0.1:
            known.clear()  # the daemon lost its memory of the run, not what it stored
        if not wire:
            if shipper.idle and shipper.progress.next_seq == total:
                break
            now += 1.0
            continue
        batch = wire.pop(0)
        if batch.HasField("descriptor"):
            known.add(batch.incarnation)
            assert batch.descriptor.incarnation == batch.incarnation
        status = STORED if not stormy else rng.choice([STORED, STORED, 5, 6])
        if batch.incarnation not in known:
            status = ingest_pb2.ACK_STATUS_UNKNOWN_RUN
        if status == STORED:
            stored |= set(seqs(batch))
        if stormy and rng.random() < 0.1:
            continue  # the answer is lost
        shipper.on_ack(ack(batch, status, retry=rng.random() if status != STORED else 0.0), now)
        assert set(range(shipper.progress.next_seq)) <= stored
    assert stored == set(range(total))
    assert shipper.progress.next_seq == total
