"""Synthetic runs, and how they are sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from topowatch_client.transport import Access
from topowatch_monitor.commands.sending import RateLimit, SendingError, Totals, UnreachableError, send_fleet
from topowatch_monitor.detect import History, Thresholds, detect_all
from topowatch_monitor.ingest.validation import Reject, check_descriptor, check_item
from topowatch_monitor.simulate import FAILING, HEALTHY, KINDS, RunPlan, descriptor, fleet, synthetic_run
from topowatch_protos.v1 import ingest_pb2, ingest_pb2_grpc, sample_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

EXPECTED = {
    "nan": "non_finite_loss",
    "exploding": "exploding_update",
    "flat": "loss_not_decreasing",
    "rising": "loss_rise",
}


def items_of(plan: RunPlan, rank: int = 0) -> list[sample_pb2.Item]:
    return [sample_pb2.Item.FromString(item) for item in synthetic_run(plan, rank=rank)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_plan_gives_the_same_bytes_and_another_seed_others(kind: str):
    plan = RunPlan(kind=kind, seed=3, samples=20, probes=4)
    assert list(synthetic_run(plan)) == list(synthetic_run(plan))
    assert list(synthetic_run(plan)) != list(synthetic_run(RunPlan(kind=kind, seed=4, samples=20, probes=4)))


@pytest.mark.parametrize("kind", KINDS)
def test_items_are_what_the_daemon_takes(kind: str):
    plan = RunPlan(kind=kind, samples=12, probes=8)
    described = descriptor(plan, incarnation=1)
    for item in synthetic_run(plan):
        checked = check_item(item, described)
        assert not isinstance(checked, Reject), checked


def test_the_parts_of_a_sharded_run_add_up_to_the_run_of_one_rank():
    plan = RunPlan(samples=6, probes=2, dimension=64, ranks=3)
    parts = [items_of(plan, rank)[:-1] for rank in range(3)]
    for whole, *mine in zip(items_of(replace(plan, ranks=1))[:-1], *parts, strict=True):
        for name in ("weights", "update"):
            sketches = [np.frombuffer(getattr(item.sample, name).values, "<f4") for item in mine]
            np.testing.assert_array_equal(sum(sketches), np.frombuffer(getattr(whole.sample, name).values, "<f4"))
        assert mine[0].sample.predictions == whole.sample.predictions
        assert not mine[1].sample.HasField("predictions")
    described = [descriptor(plan, incarnation=1, rank=rank) for rank in range(3)]
    assert [check_descriptor(each) for each in described] == [None, None, None]
    assert len({each.writer_uuid for each in described}) == 3


def test_a_loss_is_logged_at_every_step():
    plan = RunPlan(samples=5, interval=4)
    steps = [
        step
        for item in items_of(plan)
        for series in item.sample.scalars
        if series.name == "loss"
        for step in series.steps
    ]
    assert steps == list(range(20))


def test_a_run_ends_unless_it_stalls():
    assert items_of(RunPlan(samples=6))[-1].end.step == 23
    stalled = items_of(RunPlan(kind="stalled", samples=6))
    assert len(stalled) == 3
    assert all(item.HasField("sample") for item in stalled)


def test_a_healthy_path_contracts():
    points = [np.frombuffer(item.sample.weights.values, "<f4") for item in items_of(RunPlan(samples=50))[:-1]]
    moves = np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert moves[:5].mean() > 3 * moves[-5:].mean()


def test_an_orbiting_path_comes_back():
    """Six turns: after a sixth of the run it is nearer to where it was than half a turn before."""
    points = [np.frombuffer(item.sample.weights.values, "<f4") for item in items_of(RunPlan(kind="orbiting"))[:-1]]
    turn = len(points) // 6
    late = points[len(points) - turn - 1]
    assert np.linalg.norm(points[-1] - late) < 0.5 * np.linalg.norm(points[-1 - turn // 2] - late)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"stalled"}))
@pytest.mark.parametrize("seed", range(3))
def test_failing_runs_raise_their_detector_and_healthy_ones_none(kind: str, seed: int):
    history = History()
    active: dict[str, str] = {}
    raised: dict[str, int] = {}
    plan = RunPlan(kind=kind, seed=seed)
    for item in items_of(plan):
        for series in item.sample.scalars:
            history.extend(series.name, list(series.steps), list(series.values))
        active = detect_all(history, active, Thresholds()).reasons
        for name in active:
            raised.setdefault(name, item.sample.step)
        history.looked()
    if kind in HEALTHY:
        assert raised == {}
    else:
        assert EXPECTED[kind] in raised
        assert kind == "flat" or raised[EXPECTED[kind]] >= plan.samples * plan.interval // 2


@pytest.mark.parametrize(("share", "failing"), [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_a_fleet_has_the_share_of_failing_runs(share: float, failing: int):
    plans = fleet(20, failing=share, seed=1)
    assert len({plan.run for plan in plans}) == 20
    assert len({plan.seed for plan in plans}) == 20
    counts = Counter(plan.kind for plan in plans if plan.kind in FAILING)
    assert sum(counts.values()) == failing
    assert not counts or max(counts.values()) - min(counts[kind] for kind in FAILING) <= 1


@pytest.mark.parametrize(
    "wrong", [{"kind": "odd"}, {"samples": 0}, {"interval": 0}, {"probes": -1}, {"dimension": 1}, {"ranks": 0}]
)
def test_an_impossible_plan_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="run"):
        RunPlan(**wrong)


def test_the_rate_is_kept_and_not_caught_up_for_long():
    now = 0.0
    limit = RateLimit(10.0, lambda: now)
    assert [limit.delay(5) for _ in range(3)] == [0.0, 0.5, 1.0]
    now = 100.0
    assert [limit.delay(10) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert RateLimit(None, lambda: now).delay(10**6) == 0.0


class Scripted(ingest_pb2_grpc.IngestServiceServicer):
    """A daemon that answers with the given statuses, then stores everything."""

    def __init__(self, statuses: Sequence[int]) -> None:
        self.statuses = list(statuses)
        self.batches: list[ingest_pb2.Batch] = []

    async def StreamBatches(  # noqa: N802 - named by the protocol
        self,
        requests: AsyncIterator[ingest_pb2.StreamBatchesRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[ingest_pb2.StreamBatchesResponse]:
        async for request in requests:
            self.batches.append(request.batch)
            ack = ingest_pb2.Ack(batch_id=request.batch.id, status=ingest_pb2.ACK_STATUS_STORED, detail="as asked")
            if self.statuses:
                ack.status = self.statuses.pop(0)
                ack.retry_after.FromMilliseconds(1)
            yield ingest_pb2.StreamBatchesResponse(ack=ack)


def send(daemon: Scripted, plans: Sequence[RunPlan]) -> Totals:
    async def scenario() -> Totals:
        server = grpc.aio.server()
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(daemon, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            return await send_fleet(Access(f"127.0.0.1:{port}"), plans, batch_items=4)
        finally:
            await server.stop(None)

    return asyncio.run(scenario())


def test_runs_arrive_whole_and_in_order():
    daemon = Scripted([])
    plans = fleet(3, samples=10)
    totals = send(daemon, plans)
    assert (totals.stored, totals.finished, totals.retries) == (33, 3, 0)
    for plan in plans:
        batches = [batch for batch in daemon.batches if batch.key.run == plan.run]
        assert batches[0].HasField("descriptor")
        assert [item.seq for batch in batches for item in batch.items] == list(range(11))


def test_every_rank_of_a_sharded_run_has_a_stream_of_its_own():
    daemon = Scripted([])
    totals = send(daemon, fleet(1, samples=10, ranks=2))
    assert (totals.stored, totals.finished) == (22, 1)
    for rank in (0, 1):
        batches = [batch for batch in daemon.batches if batch.rank == rank]
        assert batches[0].descriptor.rank == rank
        assert [item.seq for batch in batches for item in batch.items] == list(range(11))


def test_the_descriptor_is_sent_again_when_the_daemon_does_not_know_the_run():
    daemon = Scripted([ingest_pb2.ACK_STATUS_STORED, ingest_pb2.ACK_STATUS_UNKNOWN_RUN])
    totals = send(daemon, fleet(1, samples=10))
    assert [batch.HasField("descriptor") for batch in daemon.batches] == [True, False, True, False]
    assert (totals.stored, totals.retries) == (11, 1)


@pytest.mark.parametrize("status", [ingest_pb2.ACK_STATUS_RESOURCE_EXHAUSTED, ingest_pb2.ACK_STATUS_UNAVAILABLE])
def test_a_daemon_that_cannot_now_is_asked_again(status: int):
    daemon = Scripted([status, status])
    totals = send(daemon, fleet(1, samples=3))
    assert [batch.id for batch in daemon.batches] == [0, 0, 0]
    assert (totals.stored, totals.retries) == (4, 2)


@pytest.mark.parametrize("status", [ingest_pb2.ACK_STATUS_WRITER_CONFLICT, ingest_pb2.ACK_STATUS_INVALID])
def test_a_refusal_for_good_ends_with_the_daemons_words(status: int):
    with pytest.raises(SendingError, match="as asked"):
        send(Scripted([status]), fleet(1, samples=3))


def test_a_daemon_that_is_not_there_is_said_to_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topowatch_monitor.commands.sending.CONNECT_SECONDS", 0.2)
    with pytest.raises(UnreachableError, match="topowatch serve"):
        asyncio.run(send_fleet(Access("127.0.0.1:1"), fleet(1)))
