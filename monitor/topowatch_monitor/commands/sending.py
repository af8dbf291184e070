"""Sends synthetic runs to a daemon over its ingest stream, as a well-behaved forwarder would."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from topowatch_monitor.simulate import descriptor, synthetic_run
from topowatch_protos.v1 import ingest_pb2, ingest_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from topowatch_client.transport import Access
    from topowatch_monitor.simulate import RunPlan
    from topowatch_protos.v1 import run_pb2

CONNECT_SECONDS = 5.0
ATTEMPTS = 60  # for one batch


class SendingError(Exception):
    """The daemon ended a stream or refused a run for good; the message says which."""


class UnreachableError(SendingError):
    """No daemon answers."""


@dataclass
class Totals:
    """What became of what was sent."""

    stored: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    retries: int = 0
    finished: int = 0
    bytes: int = 0
    ack_seconds: list[float] = field(default_factory=list)

    def count(self, ack: ingest_pb2.Ack, items: int, seconds: float) -> None:
        """Count a batch of `items` items that was stored `seconds` after it was sent."""
        self.ack_seconds.append(seconds)
        self.duplicates += ack.duplicates
        self.stored += items - len(ack.rejections) - ack.duplicates
        for rejection in ack.rejections:
            name = ingest_pb2.RejectionReason.Name(rejection.reason)
            self.rejected[name.removeprefix("REJECTION_REASON_").lower()] += 1


class RateLimit:
    """Spreads items to `per_second` over all runs together; None is as fast as it goes."""

    def __init__(self, per_second: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap = 0.0 if per_second is None else 1.0 / per_second
        self._clock = clock
        self._next = clock()

    def delay(self, count: int) -> float:
        """Seconds to wait before `count` more items may be sent, which counts them as sent."""
        now = self._clock()
        self._next = max(self._next, now - 1.0)  # a late sender may catch up one second, not more
        wait = max(0.0, self._next - now)
        self._next += self._gap * count
        return wait


async def send_fleet(
    access: Access,
    plans: Sequence[RunPlan],
    *,
    rate: float | None = None,
    batch_items: int = 8,
    on_progress: Callable[[int], None] = lambda _: None,
    wall: Callable[[], float] = time.time,
) -> Totals:
    """Stream every plan's run to a daemon, all at the same time; return the totals.

    Args:
        access: how to reach the daemon.
        plans: the runs.
        rate: items a second over all runs; None for no limit.
        batch_items: items in a batch; one batch a rank is in flight.
        on_progress: called with the number of items that were just acked.
        wall: Unix time.

    Raises:
        OSError: a token or certificate cannot be read.
        SendingError: the daemon does not answer, ended the stream or refuses a run.
    """
    endpoint, metadata = access.endpoint, access.metadata()
    async with access.open() as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), CONNECT_SECONDS)
        except asyncio.TimeoutError:
            raise UnreachableError(
                f"no daemon answers at {endpoint}: start one with `topowatch serve`, or name another with --endpoint"
            ) from None
        stub = ingest_pb2_grpc.IngestServiceStub(channel)  # type: ignore[no-untyped-call] # generated, see pyproject
        sender = _Sender(
            stub, metadata, limit=RateLimit(rate), batch_items=batch_items, started_at=wall(), on_progress=on_progress
        )
        tasks = [asyncio.ensure_future(sender.send(plan, rank)) for plan in plans for rank in range(plan.ranks)]
        try:
            await asyncio.gather(*tasks)
        except grpc.aio.AioRpcError as error:
            raise SendingError(f"the daemon at {endpoint} ended the stream: {error.details()}") from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return sender.totals


class _Sender:
    """Sends runs over one stub, each on a stream of its own."""

    def __init__(
        self,
        stub: ingest_pb2_grpc.IngestServiceStub,
        metadata: tuple[tuple[str, str], ...],
        *,
        limit: RateLimit,
        batch_items: int,
        started_at: float,
        on_progress: Callable[[int], None],
    ) -> None:
        self.totals = Totals()
        self._stub, self._metadata = stub, metadata
        self._limit = limit
        self._batch_items = batch_items
        self._started_at = started_at
        self._on_progress = on_progress

    async def send(self, plan: RunPlan, rank: int = 0) -> None:
        """Send what a rank says of one run, from its descriptor to its end."""
        incarnation = round(self._started_at * 1000)
        described = descriptor(plan, incarnation=incarnation, started_at=self._started_at, rank=rank)
        call = self._stub.StreamBatches(metadata=self._metadata)
        for number, items in enumerate(self._batches(plan, rank)):
            await asyncio.sleep(self._limit.delay(len(items)))
            batch = ingest_pb2.Batch(
                id=number,
                key=described.key,
                rank=rank,
                incarnation=incarnation,
                writer_uuid=described.writer_uuid,
                descriptor=described if number == 0 else None,
                items=items,
            )
            await self._deliver(call, batch, described)
            self.totals.bytes += sum(len(item.item) for item in items)
            self._on_progress(len(items))
        await call.done_writing()
        self.totals.finished += rank == 0

    def _batches(self, plan: RunPlan, rank: int) -> Iterator[list[ingest_pb2.Envelope]]:
        envelopes = (
            ingest_pb2.Envelope(seq=seq, item=item)
            for seq, item in enumerate(synthetic_run(plan, started_at=self._started_at, rank=rank))
        )
        while items := list(itertools.islice(envelopes, self._batch_items)):
            yield items

    async def _deliver(
        self,
        call: grpc.aio.StreamStreamCall[ingest_pb2.StreamBatchesRequest, ingest_pb2.StreamBatchesResponse],
        batch: ingest_pb2.Batch,
        described: run_pb2.RunDescriptor,
    ) -> None:
        """Send one batch until it is stored, as its acks ask for."""
        for _ in range(ATTEMPTS):
            sent_at = time.monotonic()
            await call.write(ingest_pb2.StreamBatchesRequest(batch=batch))
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise SendingError(f"the daemon ended the stream of run {batch.key.run!r}: {await call.details()}")
            ack = answer.ack
            pause = ack.retry_after.ToTimedelta().total_seconds()
            if ack.status == ingest_pb2.ACK_STATUS_STORED:
                self.totals.count(ack, len(batch.items), time.monotonic() - sent_at)
                await asyncio.sleep(pause)
                return
            if ack.status == ingest_pb2.ACK_STATUS_UNKNOWN_RUN:
                batch.descriptor.CopyFrom(described)
            elif ack.status in {ingest_pb2.ACK_STATUS_RESOURCE_EXHAUSTED, ingest_pb2.ACK_STATUS_UNAVAILABLE}:
                await asyncio.sleep(pause or 1.0)
            else:
                status = ingest_pb2.AckStatus.Name(ack.status).removeprefix("ACK_STATUS_")
                raise SendingError(f"the daemon refused run {batch.key.run!r} ({status}): {ack.detail}")
            self.totals.retries += 1
        raise SendingError(f"the daemon did not store a batch of run {batch.key.run!r} in {ATTEMPTS} attempts")
