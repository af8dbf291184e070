"""Admission: exactly-once against a plain set, fencing, conflicts, limits, and the same state after a restart."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from topowatch_monitor.access.tokens import DEFAULT_TENANT
from topowatch_monitor.ingest.admission import Admission, Admitted
from topowatch_monitor.ingest.limits import Limits
from topowatch_monitor.ingest.registry import RunName, RunSummary
from topowatch_monitor.store.log import Record
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import ingest_pb2 as pb
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

UUID, OTHER = "a" * 32, "b" * 32


def sample(step: int) -> sample_pb2.Item:
    return sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=step))


def end(step: int = 9) -> sample_pb2.Item:
    return sample_pb2.Item(schema=1, end=sample_pb2.RunEnd(step=step))


def dropped(first: int, last: int, incarnation: int = 1) -> sample_pb2.Item:
    return sample_pb2.Item(
        schema=1, dropped=sample_pb2.DroppedRange(incarnation=incarnation, first_seq=first, last_seq=last)
    )


def batch(
    items: dict[int, sample_pb2.Item] | None = None,
    *,
    run: str = "r",
    rank: int = 0,
    incarnation: int = 1,
    uuid: str = UUID,
    describe: bool = True,
    **described: object,
) -> pb.Batch:
    key = run_pb2.RunKey(tenant="somebody else", group="g", run=run)
    made = pb.Batch(id=5, key=key, rank=rank, incarnation=incarnation, writer_uuid=uuid)
    for seq, item in (items or {}).items():
        made.items.add(seq=seq, item=item.SerializeToString())
    if describe:
        made.descriptor.CopyFrom(
            run_pb2.RunDescriptor(key=key, rank=rank, world_size=8, incarnation=incarnation, writer_uuid=uuid)
        )
        made.descriptor.MergeFrom(run_pb2.RunDescriptor(**described))  # type: ignore[arg-type]  # fields by name
    return made


class Ledger:
    """An admission and the log that it fills, without a disk."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.admission = Admission(self.limits)
        self.records: list[tuple[int, bytes]] = []
        self.segment: list[tuple[int, bytes]] = []
        self.now = 1000.0

    def admit(self, made: pb.Batch, stream: int = 1, tenant: str = DEFAULT_TENANT) -> Admitted:
        self.now += 0.125
        return self.admission.admit(made, self.now, stream, tenant)

    def store(self, made: pb.Batch, stream: int = 1, tenant: str = DEFAULT_TENANT) -> pb.Ack:
        admitted = self.admit(made, stream, tenant)
        assert (admitted.token is None) == (not admitted.records)
        if admitted.token is not None:
            self.records += admitted.records
            self.segment += admitted.records
            self.admission.commit(admitted.token)
        return admitted.ack

    def rotate(self) -> None:
        self.segment = self.admission.head()

    def restored(self) -> Admission:
        admission = Admission(self.limits)
        admission.restore(Record(offset, kind, payload) for offset, (kind, payload) in enumerate(self.segment))
        assert admission.orphans == 0
        return admission

    def stored_seqs(self, run: str = "r") -> list[int]:
        stored = [
            log_pb2.StoredItem.FromString(payload) for kind, payload in self.records if kind == LogKind.STORED_ITEM
        ]
        return [item.seq for item in stored if item.key.run == run]

    def newly_dropped(self) -> list[int]:
        """What the log says of each dropped range."""
        stored = [
            log_pb2.StoredItem.FromString(payload) for kind, payload in self.records if kind == LogKind.STORED_ITEM
        ]
        return [one.newly_dropped for one in stored if sample_pb2.Item.FromString(one.item).HasField("dropped")]

    @property
    def run(self) -> RunSummary:
        (run,) = self.admission.runs()
        return run


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_a_first_batch_opens_the_run_and_is_stored(ledger: Ledger) -> None:
    ack = ledger.store(batch({0: sample(0), 1: sample(1)}))
    assert ack == pb.Ack(batch_id=5, status=pb.ACK_STATUS_STORED)
    assert [kind for kind, _ in ledger.records] == [LogKind.RUN_OPENED, LogKind.STORED_ITEM, LogKind.STORED_ITEM]
    stored = log_pb2.StoredItem.FromString(ledger.records[2][1])
    assert (stored.key.run, stored.rank, stored.incarnation, stored.seq) == ("r", 0, 1, 1)
    assert stored.item == sample(1).SerializeToString()
    assert stored.received_at.ToNanoseconds() == 1000_125_000_000
    assert ledger.run.key == RunName("default", "g", "r")
    assert (ledger.run.samples, ledger.run.last_step, ledger.run.last_received_at) == (2, 1, 1000.125)


def test_the_tenant_is_the_daemons_choice(ledger: Ledger) -> None:
    """Whatever tenant the client claims, its records carry the one that its credentials gave it."""
    ledger.store(batch({0: sample(0)}))
    opened = log_pb2.RunOpened.FromString(ledger.records[0][1])
    assert opened.descriptor.key.tenant == "default"
    assert log_pb2.StoredItem.FromString(ledger.records[1][1]).key.tenant == "default"
    ledger.admission.admit(batch({0: sample(0)}), 1.0, 1, tenant="acme")
    assert ledger.admission.admit(batch(describe=False), 1.0, 1, tenant="acme").ack.status == pb.ACK_STATUS_UNKNOWN_RUN


def test_an_unknown_run_is_asked_to_introduce_itself(ledger: Ledger) -> None:
    ack = ledger.store(batch({0: sample(0)}, describe=False))
    assert ack.status == pb.ACK_STATUS_UNKNOWN_RUN
    assert "descriptor" in ack.detail
    ledger.store(batch())
    assert ledger.store(batch({0: sample(0)}, describe=False)).status == pb.ACK_STATUS_STORED
    assert ledger.store(batch(describe=False, incarnation=2)).status == pb.ACK_STATUS_UNKNOWN_RUN
    assert ledger.store(batch(describe=False, rank=1)).status == pb.ACK_STATUS_UNKNOWN_RUN


def test_what_is_known_is_acked_again_and_stored_once(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0), 1: sample(1)}))
    ack = ledger.store(batch({0: sample(0), 1: sample(1), 2: sample(2)}))
    assert (ack.status, ack.duplicates) == (pb.ACK_STATUS_STORED, 2)
    assert ledger.stored_seqs() == [0, 1, 2]
    assert ledger.admit(batch({1: sample(1)})).token is None
    assert ledger.run.samples == 3


def test_a_late_item_fills_its_gap_once(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0), 5: sample(5)}))
    assert ledger.run.missing == 4
    assert ledger.store(batch({3: sample(3)})).duplicates == 0
    assert ledger.store(batch({3: sample(3)})).duplicates == 1
    assert ledger.stored_seqs() == [0, 5, 3]
    assert ledger.run.missing == 3


def test_bad_items_are_named_and_the_rest_is_stored(ledger: Ledger) -> None:
    """A rejected item spends its seq, also over a restart, and is counted once."""
    bad = sample(1)
    bad.sample.weights.values = b"\x00" * 4
    ack = ledger.store(batch({0: sample(0), 1: bad, 2: sample(-1), 3: sample(3)}))
    assert ack.status == pb.ACK_STATUS_STORED
    assert [(r.seq, r.reason) for r in ack.rejections] == [
        (1, pb.REJECTION_REASON_SKETCH_DIMENSION),
        (2, pb.REJECTION_REASON_NEGATIVE_STEP),
    ]
    assert all(rejection.detail for rejection in ack.rejections)
    assert ledger.stored_seqs() == [0, 3]
    assert (ledger.run.samples, ledger.run.rejected, ledger.run.missing) == (2, 2, 0)
    again = ledger.restored().admit(batch({1: bad, 2: sample(-1)}), 1.0, 1).ack
    assert (again.duplicates, len(again.rejections)) == (2, 0)


def test_only_a_commit_counts(ledger: Ledger) -> None:
    """A batch whose records could not be written leaves no trace, and can come again."""
    admitted = ledger.admit(batch({0: sample(0)}))
    assert admitted.token is not None
    ledger.admission.abandon(admitted.token)
    assert ledger.admission.runs() == []
    assert ledger.admission.head() == []
    assert ledger.store(batch({0: sample(0)}, describe=False)).status == pb.ACK_STATUS_UNKNOWN_RUN
    assert ledger.store(batch({0: sample(0)})).duplicates == 0
    assert ledger.run.samples == 1


def test_a_newer_stream_of_the_same_spool_closes_the_older(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0)}), stream=1)
    ledger.store(batch({1: sample(1)}), stream=2)
    ack = ledger.store(batch({2: sample(2)}), stream=1)
    assert ack.status == pb.ACK_STATUS_FENCED
    assert "newer stream" in ack.detail
    assert ledger.stored_seqs() == [0, 1]
    assert ledger.store(batch({2: sample(2)}), stream=2).status == pb.ACK_STATUS_STORED


def test_streams_of_other_ranks_and_runs_are_left_alone(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0)}), stream=1)
    ledger.store(batch({0: sample(0)}, rank=1), stream=2)
    ledger.store(batch({0: sample(0)}, run="other"), stream=3)
    assert ledger.store(batch({1: sample(1)}), stream=1).status == pb.ACK_STATUS_STORED


def test_another_writer_of_the_same_life_is_turned_away(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0)}), stream=1)
    ack = ledger.store(batch({1: sample(1)}, uuid=OTHER), stream=2)
    assert ack.status == pb.ACK_STATUS_WRITER_CONFLICT
    assert "another run name" in ack.detail
    assert ledger.store(batch({1: sample(1)}, uuid=OTHER, incarnation=2), stream=2).status == pb.ACK_STATUS_STORED
    assert ledger.store(batch({1: sample(1)}), stream=1).status == pb.ACK_STATUS_STORED  # and the first goes on
    restored = ledger.restored()
    assert restored.admit(batch({9: sample(9)}, uuid=OTHER), 1.0, 1).ack.status == pb.ACK_STATUS_WRITER_CONFLICT


def test_late_items_of_an_older_life_are_kept_too(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0)}))
    ledger.store(batch({5: sample(3)}, incarnation=2, first_seq=5, start_step=3))
    ledger.store(batch({1: sample(1), 2: sample(4)}, describe=False))
    assert ledger.stored_seqs() == [0, 5, 1, 2]
    assert (ledger.run.incarnation, ledger.run.samples, ledger.run.last_step) == (2, 4, 3)


def test_dropped_ranges_are_counted_less_what_came_through(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0), 1: sample(1), 4: sample(4)}))
    ledger.store(batch({10: dropped(0, 9)}))
    assert (ledger.run.dropped, ledger.run.missing, ledger.run.samples) == (7, 0, 3)
    assert ledger.store(batch({2: sample(2)})).duplicates == 1
    ledger.store(batch({11: dropped(0, 9)}))
    assert ledger.run.dropped == 7


def test_the_log_says_how_much_of_a_dropped_range_is_news(ledger: Ledger) -> None:
    """Neither what came through nor what was reported before is news, within a batch as between batches."""
    ledger.store(batch({0: sample(0), 1: sample(1), 4: sample(4)}))
    bad = sample(-1)
    ledger.store(batch({8: sample(8), 9: bad, 10: dropped(0, 9), 11: dropped(2, 9)}))
    assert ledger.newly_dropped() == [5, 0]
    ledger.store(batch({20: dropped(0, 19)}))
    assert ledger.newly_dropped() == [5, 0, 8]
    assert ledger.run.dropped == 13
    assert (ledger.run.samples, ledger.run.rejected, ledger.run.missing) == (4, 1, 0)


def test_a_batch_that_is_not_written_leaves_its_drops_to_be_reported_again(ledger: Ledger) -> None:
    ledger.store(batch())
    admitted = ledger.admit(batch({9: dropped(0, 8)}))
    assert admitted.token is not None
    ledger.admission.abandon(admitted.token)
    ledger.store(batch({9: dropped(0, 8)}))
    assert ledger.newly_dropped() == [9]


def test_what_was_dropped_with_its_descriptor_is_counted_once(ledger: Ledger) -> None:
    """Whichever life reports it, how often, and over a restart; its items that still come are known as dropped."""
    ledger.store(batch({30: dropped(0, 9, incarnation=1)}, incarnation=3, first_seq=30))
    ledger.store(batch({31: dropped(0, 14, incarnation=1)}, incarnation=3, first_seq=30))
    ledger.rotate()
    ledger.admission = ledger.restored()
    ledger.store(batch({40: dropped(0, 14, incarnation=1)}, incarnation=4, first_seq=40))
    assert ledger.newly_dropped() == [10, 5, 0]
    # A batch that was on its way when its segment was dropped introduces an older life after all.
    ack = ledger.store(batch({12: sample(0), 14: sample(1), 17: sample(2)}, incarnation=1))
    assert (ack.status, ack.duplicates) == (pb.ACK_STATUS_STORED, 2)
    assert ledger.stored_seqs()[-1] == 17
    ledger.store(batch({41: dropped(0, 19, incarnation=1)}, incarnation=4, first_seq=40))
    assert ledger.newly_dropped() == [10, 5, 0, 4]
    assert ledger.run.dropped == 19
    assert ledger.run.missing == 0
    assert ledger.restored().runs() == ledger.admission.runs()


def test_a_range_where_nothing_of_the_spool_lies_counts_nothing(ledger: Ledger) -> None:
    """A report that names a life that cannot have been there is stored, and harms nothing."""
    ledger.store(batch({20: dropped(12, 14, incarnation=7)}, first_seq=10))
    assert (ledger.newly_dropped(), ledger.run.dropped) == ([0], 0)
    assert ledger.store(batch({13: sample(0)}, first_seq=10)).duplicates == 0


def test_a_range_dropped_from_an_older_life_is_counted_there(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0)}))
    ledger.store(batch({20: dropped(1, 14)}, incarnation=2, first_seq=15))
    assert ledger.run.dropped == 14
    assert ledger.run.missing == 5  # 15..19 of the new life may still come
    assert ledger.store(batch({3: sample(3)}, describe=False)).duplicates == 1


def test_a_range_dropped_with_its_descriptor_is_counted_on_the_reporter(ledger: Ledger) -> None:
    ledger.store(batch({20: dropped(0, 14, incarnation=1)}, incarnation=2, first_seq=20))
    assert ledger.run.dropped == 15
    ledger.rotate()
    assert ledger.restored().runs()[0].dropped == 15


def test_a_range_that_was_not_sent_yet_cannot_have_been_dropped(ledger: Ledger) -> None:
    ack = ledger.store(batch({3: dropped(0, 3)}))
    assert [rejection.reason for rejection in ack.rejections] == [pb.REJECTION_REASON_MALFORMED]
    assert ledger.run.dropped == 0


def test_lives_of_a_spool_that_are_each_blamed_for_all_drop_it_once(ledger: Ledger) -> None:
    """No more is dropped than was numbered, and a head can be written at the end of the range of numbers."""
    end_of_seqs = 1 << 63
    for incarnation in (1, 2, 3):
        ledger.store(batch(incarnation=incarnation))
    blamed = {end_of_seqs - 6 + n: dropped(0, end_of_seqs - 11, incarnation=n + 1) for n in range(3)}
    ledger.store(batch(blamed, incarnation=3))
    assert ledger.run.dropped == end_of_seqs - 10
    assert sum(ledger.newly_dropped()) == end_of_seqs - 10
    ledger.rotate()
    assert ledger.restored().runs() == ledger.admission.runs()


def test_a_dropped_range_ends_where_the_next_life_begins(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0)}))
    ledger.store(batch({10: sample(10)}, incarnation=2, first_seq=10))
    ledger.store(batch({30: dropped(0, 29, 1), 31: dropped(0, 29, 2)}, incarnation=2, first_seq=10))
    assert ledger.newly_dropped() == [9, 19]
    assert (ledger.run.dropped, ledger.run.missing) == (28, 0)


def test_a_life_that_becomes_known_late_does_not_drop_twice(ledger: Ledger) -> None:
    ledger.store(batch({30: dropped(0, 29)}))
    ledger.store(batch({31: dropped(0, 30, 2)}, incarnation=2, first_seq=10))
    assert sum(ledger.newly_dropped()) == ledger.run.dropped <= 32


def test_a_run_ends_and_is_taken_up_again(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0), 1: end()}))
    assert ledger.run.ended
    ledger.rotate()
    assert ledger.restored().runs()[0].ended
    ledger.store(batch(incarnation=2))
    assert not ledger.run.ended
    assert not ledger.restored().runs()[0].ended
    assert ledger.run.samples == 1


def test_the_lowest_rank_ends_the_run(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0)}, rank=0, incarnation=100))
    ledger.store(batch({0: end()}, rank=1, incarnation=103))
    assert not ledger.run.ended
    ledger.store(batch({1: end()}, rank=0, incarnation=100))
    assert ledger.run.ended


def test_a_changed_descriptor_is_logged_and_the_same_one_is_not(ledger: Ledger) -> None:
    ledger.store(batch({0: sample(0)}))
    assert ledger.admit(batch()).token is None
    ledger.store(batch(labels={"lr": "0.1"}))
    assert [kind for kind, _ in ledger.records].count(LogKind.RUN_OPENED) == 2
    assert dict(ledger.run.descriptor.labels) == {"lr": "0.1"}
    assert ledger.run.samples == 1
    assert ledger.store(batch({0: sample(0)})).duplicates == 1


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (batch(run=""), "no name"),
        (batch(run="a/b"), "slash"),
        (batch(uuid="short"), "writer_uuid"),
        (batch(start_step=-1), "negative"),
        (batch({3: sample(0)}, first_seq=4), "before 4"),
        (batch({1 << 63: sample(0)}), "2**63"),
        (batch({3: sample(0), 2: sample(0)}), "must rise"),
    ],
)
def test_a_malformed_batch_is_refused_as_a_whole(ledger: Ledger, made: pb.Batch, says: str) -> None:
    ack = ledger.store(made)
    assert ack.status == pb.ACK_STATUS_INVALID
    assert says in ack.detail
    assert ledger.admission.runs() == []


def test_a_descriptor_of_something_else_is_refused(ledger: Ledger) -> None:
    made = batch()
    made.descriptor.rank = 1
    assert "names another run, rank" in ledger.store(made).detail


def test_an_incarnation_cannot_move(ledger: Ledger) -> None:
    ledger.store(batch())
    assert "cannot change" in ledger.store(batch(start_step=5)).detail


def test_all_ranks_of_a_run_sketch_alike(ledger: Ledger) -> None:
    """Sketches of different dimension or seed do not add up; also while the first rank is still being written."""
    spec = run_pb2.SketchSpec(dimension=7, seed=1)
    first = ledger.admit(batch(sketch=spec))
    ack = ledger.store(batch(rank=1, sketch=run_pb2.SketchSpec(dimension=7, seed=2)))
    assert ack.status == pb.ACK_STATUS_INVALID
    assert "another dimension or seed" in ack.detail
    assert first.token is not None
    ledger.admission.commit(first.token)
    assert ledger.store(batch(rank=1, sketch=spec)).status == pb.ACK_STATUS_STORED


def test_limits_hold() -> None:
    ledger = Ledger(Limits(max_runs=1, max_writers=2, max_items=2, max_missing_ranges=2))
    assert "at most 2" in ledger.store(batch({0: sample(0), 1: sample(1), 2: sample(2)})).detail
    ledger.store(batch({0: sample(0)}))
    full = ledger.store(batch(run="second"))
    assert full.status == pb.ACK_STATUS_RESOURCE_EXHAUSTED
    assert full.retry_after.seconds > 0
    ledger.store(batch(rank=1))
    assert ledger.store(batch(rank=2)).status == pb.ACK_STATUS_RESOURCE_EXHAUSTED
    ledger.store(batch({2: sample(0), 4: sample(0)}))
    gaps = ledger.store(batch({6: sample(0)}))
    assert gaps.status == pb.ACK_STATUS_INVALID
    assert "gaps" in gaps.detail
    assert ledger.store(batch({1: sample(0), 5: sample(0)})).status == pb.ACK_STATUS_STORED
    assert ledger.store(batch({7: sample(0)})).status == pb.ACK_STATUS_STORED


def test_runs_that_have_ended_make_room_for_new_ones() -> None:
    """A daemon takes jobs for ever, however many have been there, also after a restart."""
    ledger = Ledger(Limits(max_runs=2, max_writers=3))
    for number in range(6):
        assert ledger.store(batch({0: sample(0)}, run=f"r{number}")).status == pb.ACK_STATUS_STORED
        if number == 3:
            ledger.rotate()
            ledger.admission = ledger.restored()
        assert ledger.store(batch({1: end()}, run=f"r{number}")).status == pb.ACK_STATUS_STORED
    ledger.store(batch(run="a"))
    ledger.store(batch(run="b"))
    full = ledger.store(batch(run="c"))
    assert full.status == pb.ACK_STATUS_RESOURCE_EXHAUSTED
    assert "2 live runs" in full.detail
    assert ledger.restored().admit(batch(run="c"), ledger.now, 1).ack.status == pb.ACK_STATUS_RESOURCE_EXHAUSTED
    assert ledger.store(batch(run="a", rank=1)).status == pb.ACK_STATUS_STORED
    assert "3 writers" in ledger.store(batch(run="b", rank=1)).detail
    ledger.store(batch({0: end()}, run="a"))
    assert ledger.store(batch(run="c")).status == pb.ACK_STATUS_STORED
    assert ledger.store(batch(run="b", rank=1)).status == pb.ACK_STATUS_STORED


def test_a_run_that_is_taken_up_again_is_live_again() -> None:
    ledger = Ledger(Limits(max_runs=1))
    ledger.store(batch({0: end()}, run="a"))
    assert ledger.store(batch(run="a", incarnation=2)).status == pb.ACK_STATUS_STORED
    assert ledger.store(batch(run="b")).status == pb.ACK_STATUS_RESOURCE_EXHAUSTED


def test_a_tenant_with_as_many_runs_as_it_may_have_keeps_no_other_out() -> None:
    ledger = Ledger(Limits(tenant_runs=1))
    assert ledger.store(batch(run="a"), tenant="vision").status == pb.ACK_STATUS_STORED
    refused = ledger.store(batch(run="b"), tenant="vision")
    assert (refused.status, "tenant vision" in refused.detail) == (pb.ACK_STATUS_RESOURCE_EXHAUSTED, True)
    assert ledger.store(batch(run="b"), tenant="speech").status == pb.ACK_STATUS_STORED


def test_a_run_that_is_being_opened_has_its_place() -> None:
    ledger = Ledger(Limits(max_runs=1))
    admitted = ledger.admit(batch(run="a"))
    assert ledger.admit(batch(run="b")).ack.status == pb.ACK_STATUS_RESOURCE_EXHAUSTED
    assert admitted.token is not None
    ledger.admission.abandon(admitted.token)
    assert ledger.store(batch(run="b")).status == pb.ACK_STATUS_STORED


@pytest.mark.parametrize("restart", [False, True])
def test_a_run_that_died_without_a_word_does_not_keep_its_place_for_ever(restart: bool) -> None:
    ledger = Ledger(Limits(max_runs=2, silent_seconds=100.0))
    ledger.store(batch({0: sample(0)}, run="on"))
    ledger.store(batch({0: sample(0)}, run="dead"))
    ledger.now += 90
    ledger.store(batch({1: sample(1)}, run="on"))
    assert ledger.store(batch(run="new")).status == pb.ACK_STATUS_RESOURCE_EXHAUSTED
    if restart:
        ledger.rotate()
        ledger.admission = ledger.restored()
    ledger.now += 20
    assert ledger.store(batch(run="new")).status == pb.ACK_STATUS_STORED
    assert ledger.store(batch(run="newer")).status == pb.ACK_STATUS_RESOURCE_EXHAUSTED
    assert ledger.store(batch({1: sample(1)}, run="dead")).status == pb.ACK_STATUS_STORED
    assert len(ledger.admission.runs()) == 3


def test_only_runs_that_changed_are_told_again(ledger: Ledger) -> None:
    for run in "abc":
        ledger.store(batch({0: sample(0)}, run=run))
    assert ledger.admission.take_changed() == ledger.admission.runs()
    assert ledger.admission.take_changed() == []
    ledger.store(batch({0: sample(0)}, run="a"))  # known already
    admitted = ledger.admit(batch({0: sample(0)}, run="d"))
    assert ledger.admission.take_changed() == []
    assert admitted.token is not None
    ledger.admission.commit(admitted.token)
    ledger.store(batch({1: sample(-1)}, run="c"))
    ledger.store(batch({1: sample(1)}, run="b"))
    changed = ledger.admission.take_changed()
    assert [(run.key.run, run.samples, run.rejected) for run in changed] == [("d", 1, 0), ("c", 1, 1), ("b", 2, 0)]
    ledger.rotate()
    restored = ledger.restored()
    assert {run.key.run for run in restored.take_changed()} == {"a", "b", "c", "d"}


def test_items_without_their_descriptor_are_noticed() -> None:
    """Only damage can leave a log like that; nothing is made up for it."""
    ledger = Ledger()
    ledger.store(batch({0: sample(0), 1: sample(-1)}))
    admission = Admission()
    admission.restore(Record(n, kind, payload) for n, (kind, payload) in enumerate(ledger.records[1:]))
    assert admission.orphans == 2
    assert admission.runs() == []


@st.composite
def batches(draw: st.DrawFn) -> pb.Batch:
    """A batch of one of a few writers, with jumps, repeats, bad items, ends and dropped ranges."""
    incarnation = draw(st.integers(1, 2))
    first_seq = 10 * (incarnation - 1)
    items: dict[int, sample_pb2.Item] = {}
    for seq in sorted(draw(st.sets(st.integers(first_seq, first_seq + 24), max_size=6))):
        kind = draw(st.sampled_from(["sample", "sample", "bad", "end", "dropped"]))
        if kind == "dropped" and seq > 0:
            first = draw(st.integers(0, seq - 1))
            items[seq] = dropped(first, draw(st.integers(first, seq - 1)), draw(st.integers(1, 3)))
        else:
            items[seq] = end() if kind == "end" else sample(seq if kind == "sample" else -1)
    rank = draw(st.integers(0, 1))
    return batch(
        items, rank=rank, incarnation=incarnation, uuid=draw(st.sampled_from([UUID, UUID, OTHER])),
        run=draw(st.sampled_from("rs")), describe=draw(st.booleans()), first_seq=first_seq,
        labels={"note": draw(st.sampled_from("xy"))},
    )  # fmt: skip


steps = st.lists(
    st.tuples(batches(), st.sampled_from(["commit", "commit", "commit", "abandon", "rotate"])), max_size=25
)


@given(steps)
def test_the_last_segment_restores_the_live_state(script: list[tuple[pb.Batch, str]]) -> None:
    """After any sequence of batches, failures and rotations a restart knows exactly what the live daemon knew."""
    ledger = Ledger()
    for number, (made, action) in enumerate(script):
        if action == "abandon":
            admitted = ledger.admit(made, number)
            if admitted.token is not None:
                ledger.admission.abandon(admitted.token)
        else:
            ledger.store(made, number)
        if action == "rotate":
            ledger.rotate()
        restored = ledger.restored()
        assert restored.head() == ledger.admission.head()
        assert restored.runs() == ledger.admission.runs()
        assert sum(ledger.newly_dropped()) == sum(run.dropped for run in ledger.admission.runs())


def life(owner: dict[tuple[str, int, int], str], name: tuple[str, int, int]) -> set[int]:
    """Seqs that can belong to a life of a spool: it ends where the next one that is known begins."""
    run, rank, incarnation = name
    first = 10 * (incarnation - 1)
    ended = owner.get((run, rank, incarnation + 1)) == owner[name]
    return set(range(first, first + (10 if ended else 1000)))


@given(steps)
def test_exactly_once_against_a_plain_set(script: list[tuple[pb.Batch, str]]) -> None:
    """A seq is stored if it was never stored, rejected or dropped before, and only then."""
    ledger = Ledger()
    spent: dict[tuple[str, int, int], set[int]] = {}
    owner: dict[tuple[str, int, int], str] = {}
    early: dict[tuple[str, int, str], set[int]] = {}
    samples = 0
    for number, (made, action) in enumerate(script):
        name = (made.key.run, made.rank, made.incarnation)
        # No spool sends what it has reported as dropped; of a life that is known, the daemon takes care even so.
        assume(not early.get((*name[:2], made.writer_uuid), set()) & {envelope.seq for envelope in made.items})
        stored_before = len(ledger.records)
        ack = ledger.store(made, number)
        if action == "rotate":
            ledger.rotate()
            ledger.admission = ledger.restored()
        if name not in owner and not made.HasField("descriptor"):
            assert ack.status in (pb.ACK_STATUS_UNKNOWN_RUN, pb.ACK_STATUS_INVALID)
            continue
        if owner.get(name, made.writer_uuid) != made.writer_uuid:
            assert ack.status == pb.ACK_STATUS_WRITER_CONFLICT
            continue
        assert ack.status == pb.ACK_STATUS_STORED
        owner[name] = made.writer_uuid
        seen = spent.setdefault(name, set())
        fresh = {envelope.seq: envelope.item for envelope in made.items if envelope.seq not in seen}
        rejected = {seq for seq, item in fresh.items() if sample_pb2.Item.FromString(item).sample.step < 0}
        stored = [
            log_pb2.StoredItem.FromString(payload).seq
            for kind, payload in ledger.records[stored_before:]
            if kind == LogKind.STORED_ITEM
        ]
        assert stored == sorted(set(fresh) - rejected)
        assert {rejection.seq for rejection in ack.rejections} == rejected
        assert ack.duplicates == len(made.items) - len(fresh)
        seen |= set(fresh)
        for seq in stored:
            item = sample_pb2.Item.FromString(fresh[seq])
            samples += item.HasField("sample")
            if item.HasField("dropped"):
                place = (*name[:2], item.dropped.incarnation)
                reported = set(range(item.dropped.first_seq, item.dropped.last_seq + 1))
                if owner.get(place) == made.writer_uuid:
                    spent[place] |= life(owner, place) & reported
                elif place not in owner:
                    early.setdefault((*name[:2], made.writer_uuid), set()).update(reported)
    assert sum(run.samples for run in ledger.admission.runs()) == samples
