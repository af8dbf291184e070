"""A small real ingest server for the client's tests: records what comes and answers as it is told."""

from __future__ import annotations

import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING

import grpc

from topowatch_protos.v1 import ingest_pb2, ingest_pb2_grpc, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Callable


class RecordingDaemon(ingest_pb2_grpc.IngestServiceServicer):
    """Records batches and answers as told; a run has to be described first, as with the real one."""

    def __init__(self) -> None:
        self.items: dict[str, dict[int, bytes]] = {}
        self.lives: dict[tuple[str, int], tuple[int, int]] = {}  # (writer, seq) -> (incarnation, start step)
        self.known: dict[tuple[str, int], int] = {}
        self.tokens: set[str | None] = set()
        self.script: list[ingest_pb2.Ack] = []
        self.batches = 0
        self.forget = False
        self.silent = threading.Event()
        self.port = 0
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None

    def start(
        self, options: tuple[tuple[str, int], ...] = (), credentials: grpc.ServerCredentials | None = None
    ) -> RecordingDaemon:
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 0), *options))
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(self, self._server)
        if credentials is None:
            self.port = self._server.add_insecure_port(self.endpoint)
        else:
            self.port = self._server.add_secure_port(self.endpoint, credentials)
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def seqs(self) -> list[int]:
        with self._lock:
            return sorted(seq for items in self.items.values() for seq in items)

    def bodies(self) -> list[sample_pb2.Item]:
        with self._lock:
            return [
                sample_pb2.Item.FromString(item) for items in self.items.values() for _, item in sorted(items.items())
            ]

    def StreamBatches(self, request_iterator, context):  # noqa: N802 -- the generated name
        metadata = dict(context.invocation_metadata())
        for request in request_iterator:
            with self._lock:
                self.tokens.add(metadata.get("authorization"))
                ack = self._answer(request.batch)
            if not self.silent.is_set():
                yield ingest_pb2.StreamBatchesResponse(ack=ack)

    def _answer(self, batch: ingest_pb2.Batch) -> ingest_pb2.Ack:
        self.batches += 1
        if self.forget:
            self.known.clear()
            self.forget = False
        if batch.HasField("descriptor"):
            self.known[batch.writer_uuid, batch.incarnation] = batch.descriptor.start_step
        if (batch.writer_uuid, batch.incarnation) not in self.known:
            return ingest_pb2.Ack(batch_id=batch.id, status=ingest_pb2.ACK_STATUS_UNKNOWN_RUN)
        if self.script:
            ack = self.script.pop(0)
            ack.batch_id = batch.id
            if ack.status != ingest_pb2.ACK_STATUS_STORED:
                return ack
        else:
            ack = ingest_pb2.Ack(batch_id=batch.id, status=ingest_pb2.ACK_STATUS_STORED)
        refused = {rejection.seq for rejection in ack.rejections}
        items = self.items.setdefault(batch.writer_uuid, {})
        for envelope in batch.items:
            if envelope.seq not in refused:
                items[envelope.seq] = envelope.item
                start = self.known[batch.writer_uuid, batch.incarnation]
                self.lives[batch.writer_uuid, envelope.seq] = (batch.incarnation, start)
        return ack


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
