"""A real gRPC server and client on a real disk: what each kind of bad input gets, and that it harms no one."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from topowatch_monitor.ingest.admission import Admission
from topowatch_monitor.ingest.core import Ingest
from topowatch_monitor.ingest.limits import Limits
from topowatch_monitor.ingest.service import SERVICE, AddressUnusableError, start_server
from topowatch_monitor.store.commit import GroupCommit
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import Log
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import ingest_pb2 as pb
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2
from topowatch_protos.v1.ingest_pb2_grpc import IngestServiceStub

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

DIMENSION = 1021
UUID = "c0" * 16
DEADLINE = 10.0


class Server:
    """Ingest in an event loop of its own thread."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self.directory = directory
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.log = Log.open(directory, OsDisk())
        self.call(self._start(limits))

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE)

    def stored(self) -> list[tuple[str, int]]:
        records = LogReader(self.directory, OsDisk()).read(0, self.log.next_offset)
        items = [log_pb2.StoredItem.FromString(entry.payload) for entry in records if entry.kind == LogKind.STORED_ITEM]
        return [(item.key.run, item.seq) for item in items]

    def close(self) -> None:
        self.call(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self.log.close()

    async def _start(self, limits: Limits) -> None:
        admission = Admission(limits)
        admission.restore(self.log.last_segment())
        self.ingest = Ingest(admission, GroupCommit(self.log), limits=limits)
        self.server, self.port = await start_server(self.ingest, "127.0.0.1:0")

    async def _stop(self) -> None:
        await self.server.stop(None)
        await self.ingest.close()


@contextmanager
def serving(directory: Path, limits: Limits | None = None) -> Iterator[Server]:
    server = Server(directory, limits or Limits(retry_unavailable=0.01))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "log") as server:
        yield server


@contextmanager
def connected(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.fixture
def stub(server: Server) -> Iterator[IngestServiceStub]:
    with connected(server) as channel:
        yield IngestServiceStub(channel)


class Stream:
    """A client's end of StreamBatches."""

    def __init__(self, stub: IngestServiceStub) -> None:
        self._requests: queue.SimpleQueue[pb.StreamBatchesRequest | None] = queue.SimpleQueue()
        self._call = stub.StreamBatches(iter(self._requests.get, None))

    def send(self, batch: pb.Batch) -> pb.Ack:
        self._requests.put(pb.StreamBatchesRequest(batch=batch))
        return next(self._call).ack

    def ended(self) -> bool:
        return next(self._call, None) is None

    def close(self) -> None:
        self._requests.put(None)


def sample(step: int, weights: np.ndarray | None = None) -> sample_pb2.Item:
    numbers = np.full(DIMENSION, 0.5) if weights is None else weights
    sketch = sample_pb2.Sketch(values=numbers.astype("<f4").tobytes())
    return sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=step, weights=sketch))


def batch(
    items: dict[int, sample_pb2.Item | bytes], *, run: str = "run", uuid: str = UUID, describe: bool = True
) -> pb.Batch:
    key = run_pb2.RunKey(group="group", run=run)
    made = pb.Batch(id=7, key=key, incarnation=1, writer_uuid=uuid)
    for seq, item in items.items():
        made.items.add(seq=seq, item=item if isinstance(item, bytes) else item.SerializeToString())
    if describe:
        made.descriptor.CopyFrom(
            run_pb2.RunDescriptor(
                key=key, world_size=1, incarnation=1, writer_uuid=uuid, sketch=run_pb2.SketchSpec(dimension=DIMENSION)
            )
        )
    return made


def push(stub: IngestServiceStub, made: pb.Batch) -> pb.Ack:
    ack: pb.Ack = stub.PushBatch(pb.PushBatchRequest(batch=made), timeout=DEADLINE).ack
    return ack


def assert_unharmed(server: Server, stub: IngestServiceStub) -> None:
    """Another run is still served."""
    before = len(server.stored())
    ack = push(stub, batch({before: sample(1)}, run="bystander", uuid="b0" * 16))
    assert ack.status == pb.ACK_STATUS_STORED
    assert server.stored()[-1] == ("bystander", before)


def test_a_stream_of_batches_is_acked_in_order_and_on_disk(server: Server, stub: IngestServiceStub) -> None:
    stream = Stream(stub)
    for part in range(5):
        made = batch({seq: sample(seq) for seq in range(4 * part, 4 * part + 4)}, describe=part == 0)
        made.id = part + 1
        ack = stream.send(made)
        assert (ack.batch_id, ack.status, ack.duplicates, list(ack.rejections)) == (
            part + 1, pb.ACK_STATUS_STORED, 0, []
        )  # fmt: skip
        assert len(server.stored()) == 4 * part + 4
    stream.close()
    assert stream.ended()
    assert server.stored() == [("run", seq) for seq in range(20)]


def test_acked_items_are_known_after_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as server, connected(server) as channel:
        push(IngestServiceStub(channel), batch({0: sample(0), 1: b"\xff", 2: sample(2)}))
    with serving(tmp_path) as server, connected(server) as channel:
        stub = IngestServiceStub(channel)
        ack = push(stub, batch({0: sample(0), 1: b"\xff", 2: sample(2), 3: sample(3)}, describe=False))
        assert (ack.status, ack.duplicates) == (pb.ACK_STATUS_STORED, 3)
        assert server.stored() == [("run", 0), ("run", 2), ("run", 3)]
        (run,) = server.ingest.runs()
        assert (run.samples, run.rejected) == (3, 1)


@pytest.mark.parametrize(
    ("bad", "reason", "says"),
    [
        (sample(1, np.zeros(DIMENSION + 1)), pb.REJECTION_REASON_SKETCH_DIMENSION, "1021 float32 numbers have 4084"),
        (sample(1, np.full(DIMENSION, np.nan)), pb.REJECTION_REASON_NOT_FINITE, "NaN or infinite"),
        (sample(1, np.full(DIMENSION, -np.inf)), pb.REJECTION_REASON_NOT_FINITE, "NaN or infinite"),
        (sample(-5), pb.REJECTION_REASON_NEGATIVE_STEP, "step -5 is negative"),
        (sample_pb2.Item(schema=99, sample=sample_pb2.Sample(step=1)), pb.REJECTION_REASON_NEWER_SCHEMA, "schema 99"),
        (sample(1).SerializeToString()[:-7], pb.REJECTION_REASON_UNDECODABLE, "truncated or damaged"),
        (sample_pb2.Item(schema=1), pb.REJECTION_REASON_MALFORMED, "no body"),
    ],
)  # fmt: skip
def test_a_bad_item_is_named_and_its_neighbours_are_stored(
    server: Server, stub: IngestServiceStub, bad: sample_pb2.Item | bytes, reason: pb.RejectionReason, says: str
) -> None:
    ack = push(stub, batch({0: sample(0), 1: bad, 2: sample(2)}))
    assert ack.status == pb.ACK_STATUS_STORED
    (rejection,) = ack.rejections
    assert (rejection.seq, rejection.reason) == (1, reason)
    assert says in rejection.detail
    assert server.stored() == [("run", 0), ("run", 2)]
    assert_unharmed(server, stub)


def test_an_unknown_run_introduces_itself_and_goes_on(server: Server, stub: IngestServiceStub) -> None:
    stream = Stream(stub)
    assert stream.send(batch({0: sample(0)}, describe=False)).status == pb.ACK_STATUS_UNKNOWN_RUN
    assert server.stored() == []
    assert stream.send(batch({0: sample(0)})).status == pb.ACK_STATUS_STORED
    stream.close()


def test_a_batch_over_the_message_limit_ends_its_call_only(tmp_path: Path) -> None:
    with serving(tmp_path, Limits(max_message_bytes=100_000)) as server, connected(server) as channel:
        stub = IngestServiceStub(channel)
        large = batch({seq: sample(seq) for seq in range(30)})
        with pytest.raises(grpc.RpcError) as refused:
            push(stub, large)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        stream = Stream(stub)
        assert stream.send(batch({0: sample(0)})).status == pb.ACK_STATUS_STORED
        with pytest.raises(grpc.RpcError) as refused:
            stream.send(large)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert server.stored() == [("run", 0)]
        assert_unharmed(server, stub)


def test_a_request_that_is_no_message_gets_an_answer(server: Server, stub: IngestServiceStub) -> None:
    """Truncated bytes on the wire do not cost the stream: the next batch is taken."""
    whole = pb.StreamBatchesRequest(batch=batch({0: sample(0)})).SerializeToString()
    with connected(server) as channel:
        raw = channel.stream_stream(
            f"/{SERVICE}/StreamBatches", response_deserializer=pb.StreamBatchesResponse.FromString
        )
        torn, good = (response.ack for response in raw(iter([whole[:-9], whole]), timeout=DEADLINE))
        assert torn.status == pb.ACK_STATUS_INVALID
        assert "not a StreamBatchesRequest" in torn.detail
        assert good.status == pb.ACK_STATUS_STORED
        push_raw = channel.unary_unary(f"/{SERVICE}/PushBatch", response_deserializer=pb.PushBatchResponse.FromString)
        assert push_raw(b"\xff\xff", timeout=DEADLINE).ack.status == pb.ACK_STATUS_INVALID
    assert_unharmed(server, stub)


def test_a_second_writer_is_turned_away_and_the_first_goes_on(server: Server, stub: IngestServiceStub) -> None:
    first, second = Stream(stub), Stream(stub)
    assert first.send(batch({0: sample(0)})).status == pb.ACK_STATUS_STORED
    ack = second.send(batch({1: sample(1)}, uuid="d0" * 16))
    assert ack.status == pb.ACK_STATUS_WRITER_CONFLICT
    assert "another process writes rank 0" in ack.detail
    assert first.send(batch({1: sample(1)}, describe=False)).status == pb.ACK_STATUS_STORED
    assert server.stored() == [("run", 0), ("run", 1)]
    first.close()
    second.close()


def test_a_newer_stream_of_the_same_writer_ends_the_older(server: Server, stub: IngestServiceStub) -> None:
    older = Stream(stub)
    assert older.send(batch({0: sample(0)})).status == pb.ACK_STATUS_STORED
    newer = Stream(stub)
    assert newer.send(batch({1: sample(1)})).status == pb.ACK_STATUS_STORED
    assert older.send(batch({2: sample(2)})).status == pb.ACK_STATUS_FENCED
    assert older.ended()
    assert newer.send(batch({2: sample(2)})).status == pb.ACK_STATUS_STORED
    assert server.stored() == [("run", 0), ("run", 1), ("run", 2)]
    older.close()
    newer.close()


def test_overload_is_throttled_with_a_delay(tmp_path: Path) -> None:
    """Many writers at once, over what may wait: each gets all of its items in when it comes again as told."""
    limits = Limits(max_pending_bytes=30_000, retry_after=0.001)
    throttled: list[float] = []
    with serving(tmp_path, limits) as server, connected(server) as channel:
        stub = IngestServiceStub(channel)

        def write(number: int) -> None:
            stream = Stream(stub)
            made = batch({seq: sample(seq) for seq in range(6)}, run=f"run-{number}", uuid=f"{number:032x}")
            while (ack := stream.send(made)).status != pb.ACK_STATUS_STORED:
                assert ack.status == pb.ACK_STATUS_RESOURCE_EXHAUSTED
                throttled.append(ack.retry_after.ToMilliseconds())
            stream.close()

        held = threading.Event()
        server.ingest._commit.run_exclusive(lambda _: held.wait(DEADLINE))
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        deadline = threading.Event()
        for _ in range(1000):
            if throttled or deadline.wait(0.01):
                break
        held.set()
        for writer in writers:
            writer.join(DEADLINE)
        assert set(throttled) == {1}
        assert sorted(server.stored()) == [(f"run-{number}", seq) for number in range(4) for seq in range(6)]


def test_calls_that_bring_no_whole_batch_in_time_make_room_for_an_honest_stream(tmp_path: Path) -> None:
    """Streams and single batches alike; and a stream that falls silent later ends as well."""
    limits = Limits(tenant_streams=2, first_batch_seconds=3.0, idle_seconds=0.5)
    silence = threading.Event()

    def says_nothing() -> Iterator[bytes]:
        silence.wait()
        yield from ()

    with serving(tmp_path, limits) as server, connected(server) as channel:
        kinds = ("StreamBatches", "PushBatch", "StreamBatches")
        calls = [channel.stream_stream(f"/{SERVICE}/{kind}")(says_nothing(), timeout=60.0) for kind in kinds]
        assert sorted((call.code().name, call.details()) for call in calls) == [
            ("DEADLINE_EXCEEDED", "no whole batch came within 3 s"),
            ("DEADLINE_EXCEEDED", "no whole batch came within 3 s"),
            ("RESOURCE_EXHAUSTED", "tenant default has 2 streams open, as many as it may: close some"),
        ]
        stub = IngestServiceStub(channel)
        honest = Stream(stub)
        assert honest.send(batch({0: sample(0)})).status == pb.ACK_STATUS_STORED
        with pytest.raises(grpc.RpcError) as ended:
            honest.ended()
        assert ended.value.details() == "no whole batch came within 0.5 s"
        silence.set()
        honest.close()
        for _ in range(2 * limits.tenant_streams):
            assert_unharmed(server, stub)


def test_a_port_in_use_is_said_so(server: Server, tmp_path: Path) -> None:
    async def second() -> None:
        log = Log.open(tmp_path / "other", OsDisk())
        ingest = Ingest(Admission(), GroupCommit(log))
        try:
            await start_server(ingest, f"127.0.0.1:{server.port}")
        finally:
            await ingest.close()
            log.close()

    with pytest.raises(AddressUnusableError, match=f"cannot listen on 127.0.0.1:{server.port}: Address already in use"):
        asyncio.run(second())


@pytest.mark.parametrize("address", ["127.0.0.1:notaport", "192.0.2.1:0"])
def test_an_address_that_cannot_be_used_is_said_so(tmp_path: Path, address: str) -> None:
    async def attempt() -> None:
        log = Log.open(tmp_path, OsDisk())
        ingest = Ingest(Admission(), GroupCommit(log))
        try:
            await start_server(ingest, address)
        finally:
            await ingest.close()
            log.close()

    with pytest.raises(AddressUnusableError, match=f"cannot listen on {address}: "):
        asyncio.run(attempt())


def test_health_follows_readiness(server: Server) -> None:
    with connected(server) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.loop.call_soon_threadsafe(server.ingest._fail, OSError("no space"))
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


def test_a_client_that_hangs_up_in_mid_batch_harms_no_one(server: Server, stub: IngestServiceStub) -> None:
    """Half a request on a raw socket, then silence."""
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + b"garbage")
    assert_unharmed(server, stub)
