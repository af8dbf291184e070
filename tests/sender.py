"""A writer for tests that speaks to a daemon directly: a random walk in sketch space, batch by batch, acked or not."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import grpc
import numpy as np

from topowatch_protos.v1 import ingest_pb2, run_pb2, sample_pb2
from topowatch_protos.v1.ingest_pb2_grpc import IngestServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator

DIMENSION = 64
POSITIONS = 4


def walk(seed: int, start: int = 0) -> Iterator[bytes]:
    """Encoded Items, one a step, for ever: weights and predictions drift while the loss falls."""
    generator = np.random.default_rng(seed)
    point = np.zeros(DIMENSION, dtype=np.float32)
    step = 0
    while True:
        update = generator.normal(size=DIMENSION).astype(np.float32) / (1 + step / 50)
        point = point + update
        if step >= start:
            loss = sample_pb2.ScalarSeries(name="loss", steps=[step], values=[2.0 / (1 + step / 20)])
            weights = sample_pb2.Sketch(values=point.astype("<f4").tobytes())
            sample = sample_pb2.Sample(step=step, scalars=[loss], weights=weights)
            sample.predictions.sketch.values = np.cos(point).astype("<f4").tobytes()
            sample.probe_losses = np.full(POSITIONS, loss.values[0], dtype="<f4").tobytes()
            yield sample_pb2.Item(schema=1, sample=sample).SerializeToString()
        step += 1


def part_of(item: bytes, rank: int, ranks: int) -> bytes:
    """A rank's part of an Item of `walk`: every `ranks`-th number of the weights; rank 0 keeps all else as well."""
    decoded = sample_pb2.Item.FromString(item)
    whole = np.frombuffer(decoded.sample.weights.values, dtype="<f4")
    part = np.where(np.arange(len(whole)) % ranks == rank, whole, np.float32(0))
    if rank:
        decoded = sample_pb2.Item(schema=decoded.schema, sample=sample_pb2.Sample(step=decoded.sample.step))
    decoded.sample.weights.values = part.tobytes()
    decoded.sample.scalars.add(name="weight_norm", steps=[decoded.sample.step], values=[float(np.linalg.norm(part))])
    return decoded.SerializeToString()


class Sender:
    """One writer of one run; of a sharded one if `ranks` is above 1. With credentials it speaks TLS."""

    def __init__(
        self,
        endpoint: str,
        run: str,
        *,
        seed: int = 0,
        group: str = "tests",
        rank: int = 0,
        ranks: int = 1,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
        self.channel = (
            grpc.insecure_channel(endpoint, options)
            if credentials is None
            else grpc.secure_channel(endpoint, credentials, options)
        )
        self.metadata = [] if token is None else [("authorization", f"Bearer {token}")]
        self.stub = IngestServiceStub(self.channel)
        self.key = run_pb2.RunKey(group=group, run=run)
        self.descriptor = run_pb2.RunDescriptor(
            key=self.key,
            rank=rank,
            world_size=ranks,
            contributing_ranks=ranks,
            incarnation=1,
            writer_uuid=uuid.uuid4().hex,
            labels={"seed": str(seed)},
            sketch=run_pb2.SketchSpec(dimension=DIMENSION),
            probe=run_pb2.ProbeSpec(positions=POSITIONS, outputs=3, kind=run_pb2.OUTPUT_KIND_LOGITS),
        )
        self.items = walk(seed) if ranks == 1 else (part_of(item, rank, ranks) for item in walk(seed))
        self.next_seq = 0
        self.acked: list[int] = []

    def batch(self, size: int) -> ingest_pb2.Batch:
        """The next `size` items, with the descriptor."""
        envelopes = [ingest_pb2.Envelope(seq=self.next_seq + i, item=next(self.items)) for i in range(size)]
        self.next_seq += size
        return ingest_pb2.Batch(
            id=self.next_seq,
            key=self.key,
            rank=self.descriptor.rank,
            incarnation=1,
            writer_uuid=self.descriptor.writer_uuid,
            descriptor=self.descriptor,
            items=envelopes,
        )

    def push(self, batch: ingest_pb2.Batch, timeout: float = 10.0) -> ingest_pb2.Ack:
        """Send one batch once; raises grpc.RpcError."""
        request = ingest_pb2.PushBatchRequest(batch=batch)
        return self.stub.PushBatch(request, timeout=timeout, metadata=self.metadata).ack

    def push_until_stored(self, batch: ingest_pb2.Batch, *, within: float = 60.0) -> None:
        """Send a batch again and again until it is acked."""
        deadline = time.monotonic() + within
        while True:
            try:
                ack = self.push(batch)
                if ack.status == ingest_pb2.ACK_STATUS_STORED:
                    assert not ack.rejections
                    self.acked += [envelope.seq for envelope in batch.items]
                    return
                last: object = ack
            except grpc.RpcError as error:
                last = error
            if time.monotonic() > deadline:
                raise AssertionError(f"not stored within {within:g} s: {last}")
            time.sleep(0.05)

    def close(self) -> None:
        self.channel.close()
