"""The forwarder as a real process against a small real server: what is in the spool arrives, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING

import grpc
import pytest
from topowatch_client import messages, spool
from topowatch_client.cli import main
from topowatch_client.spool_reader import SpoolReader
from topowatch_protos.v1 import ingest_pb2, ingest_pb2_grpc, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Daemon(ingest_pb2_grpc.IngestServiceServicer):
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

    def start(self, options: tuple[tuple[str, int], ...] = ()) -> Daemon:
        self._server = grpc.server(futures.ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 0), *options))
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
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

    def StreamBatches(self, request_iterator, context):  # noqa: N802, ANN001, ANN201 -- the generated name
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


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    server = Daemon().start()
    yield server
    server.stop()


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def writer(spool_dir: Path, endpoint: str, name: str = "w", mode: str = "online", **changes: int) -> spool.SpoolWriter:
    made = spool.SpoolWriter(spool_dir, name, {"endpoint": endpoint, "mode": mode}, changes.pop("max_bytes", 256 << 20))
    made.begin(1, descriptor(name, **changes))
    return made


def descriptor(name: str, incarnation: int = 1, start_step: int = 0, first_seq: int = 0) -> bytes:
    facts = messages.RunFacts("g", "r", 0, 1, name, {}, 1021, 0, 10)
    return messages.encode_descriptor(
        facts, incarnation=incarnation, start_step=start_step, first_seq=first_seq, probe=None
    )


def sample(step: int, size: int = 0) -> bytes:
    return sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=step, probe_losses=b"\0" * size)).SerializeToString()


@pytest.fixture
def forwarder(spool_dir: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(grace: float = 0.5, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "topowatch_client.forwarder", str(spool_dir), "--grace", str(grace)],
            env={**os.environ, **environment},
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_ships_a_closed_spool_and_leaves_nothing_behind(daemon, spool_dir, forwarder) -> None:
    """A spool whose writer is gone arrives whole, its directory goes, and the forwarder goes too."""
    spooled = writer(spool_dir, daemon.endpoint)
    for step in range(50):
        spooled.append(sample(step))
    spooled.close(ended=True)
    process = forwarder()
    assert process.wait(20) == 0
    assert daemon.seqs == list(range(50))
    assert not spooled.directory.exists()
