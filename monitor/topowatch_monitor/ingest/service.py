"""The gRPC face of ingest: both calls of IngestService, and the standard health service."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from topowatch_monitor.ingest.admission import refusal
from topowatch_protos.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from topowatch_monitor.ingest.core import Ingest

SERVICE = pb.DESCRIPTOR.services_by_name["IngestService"].full_name
M = TypeVar("M", pb.StreamBatchesRequest, pb.PushBatchRequest)


class AddressUnusableError(OSError):
    """The daemon cannot listen where it was told to."""


class IngestService:
    """Answers encoded requests: what cannot be decoded gets an ack that says so, and harms nothing else."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._streams = itertools.count(1)

    async def stream_batches(
        self, requests: AsyncIterator[bytes], _context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamBatchesResponse]:
        """Answer the batches of one stream in order; a newer stream of the same writer ends it."""
        stream = next(self._streams)
        async for encoded in requests:
            ack = await self._answer(pb.StreamBatchesRequest, encoded, stream)
            yield pb.StreamBatchesResponse(ack=ack)
            if ack.status == pb.ACK_STATUS_FENCED:
                return

    async def push_batch(self, encoded: bytes, _context: grpc.aio.ServicerContext) -> pb.PushBatchResponse:
        """Answer one batch, which counts as a stream of its own."""
        return pb.PushBatchResponse(ack=await self._answer(pb.PushBatchRequest, encoded, next(self._streams)))

    async def _answer(self, kind: type[M], encoded: bytes, stream: int) -> pb.Ack:
        try:
            batch = kind.FromString(encoded).batch
        except DecodeError:
            return refusal(
                0, pb.ACK_STATUS_INVALID, f"the bytes are not a {kind.DESCRIPTOR.name}: truncated or damaged"
            )
        return await self._ingest.handle(batch, stream, size=len(encoded))


async def start_server(ingest: Ingest, address: str) -> tuple[grpc.aio.Server, int]:
    """Serve ingest and health on `address` (HOST:PORT; port 0 picks one); return the server and its port.

    Raises:
        AddressUnusableError: the port is in use, or the address is not one of this machine.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", ingest.limits.max_message_bytes),
            ("grpc.so_reuseport", 0),  # a second daemon on the port must fail, not share it
            # Find out about clients that vanished, and let idle forwarders keep their connection.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ]
    )
    service = IngestService(ingest)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                SERVICE,
                {
                    "StreamBatches": grpc.stream_stream_rpc_method_handler(
                        service.stream_batches, response_serializer=pb.StreamBatchesResponse.SerializeToString
                    ),
                    "PushBatch": grpc.unary_unary_rpc_method_handler(
                        service.push_batch, response_serializer=pb.PushBatchResponse.SerializeToString
                    ),
                },
            ),
        )
    )
    health_pb2_grpc.add_HealthServicer_to_server(await _health_of(ingest), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        await server.stop(None)
        raise AddressUnusableError(f"cannot listen on {address}: {_why_unusable(address)}") from error
    await server.start()
    return server, port


async def _health_of(ingest: Ingest) -> health.aio.HealthServicer:
    """Return a health service that follows the readiness of ingest."""
    servicer = health.aio.HealthServicer()
    tasks: set[asyncio.Task[Any]] = set()

    async def tell() -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await servicer.set(name, status.SERVING if ingest.ready else status.NOT_SERVING)

    def follow(_ready: bool) -> None:
        task = asyncio.get_running_loop().create_task(tell())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await tell()
    ingest.watch(follow)
    return servicer


def _why_unusable(address: str) -> str:
    """Find the operating system's reason, which gRPC does not hand on."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return "it cannot be bound"
