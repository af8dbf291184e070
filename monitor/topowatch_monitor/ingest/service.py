"""The gRPC face of ingest: both calls of IngestService, and the standard health service."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from topowatch_monitor.access.gate import ANYBODY, DeniedError
from topowatch_monitor.access.tokens import WRITE
from topowatch_monitor.ingest.admission import refusal
from topowatch_protos.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from topowatch_monitor.access.audit import Audit
    from topowatch_monitor.access.gate import Gate, Identity
    from topowatch_monitor.access.tls import Certificates, Pems
    from topowatch_monitor.ingest.core import Ingest

LONGEST_WAIT = 1.0  # seconds that a stream is held back, at most, before the next batch is read
SERVICE = pb.DESCRIPTOR.services_by_name["IngestService"].full_name
M = TypeVar("M", pb.StreamBatchesRequest, pb.PushBatchRequest)


class AddressUnusableError(OSError):
    """The daemon cannot listen where it was told to."""


class IngestService:
    """Answers encoded requests: what cannot be decoded gets an ack that says so, and harms nothing else.

    Args:
        ingest: what takes batches.
        gate: tells who sends, anew for each batch: a token that was revoked ends its streams. None: everybody may.
        audit: where it is written down who was let in.
    """

    def __init__(self, ingest: Ingest, gate: Gate | None = None, audit: Audit | None = None) -> None:
        self._ingest, self._gate, self._audit = ingest, gate, audit
        self._streams = itertools.count(1)

    async def stream_batches(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamBatchesResponse]:
        """Answer the batches of one stream in order; a newer stream of the same writer ends it, and so does silence."""
        stream, limits = next(self._streams), self._ingest.limits
        opener = await self._let_in(context)
        await self._open(context, opener)
        try:
            if self._audit is not None:
                self._audit.write("stream_opened", peer=_host(context), token=opener.token, tenant=opener.tenant)
            patience = limits.first_batch_seconds
            while (encoded := await _next_of(requests, patience, context)) is not None:
                sender = await self._let_in(context)
                ack = await self._answer(pb.StreamBatchesRequest, encoded, stream, sender, context)
                yield pb.StreamBatchesResponse(ack=ack)
                if ack.status == pb.ACK_STATUS_FENCED:
                    return
                if ack.status == pb.ACK_STATUS_RESOURCE_EXHAUSTED:  # also for those who do not wait as they were told
                    await asyncio.sleep(min(ack.retry_after.ToTimedelta().total_seconds(), LONGEST_WAIT))
                patience = limits.idle_seconds
        finally:
            self._ingest.quotas.close_stream(opener.tenant)

    async def push_batch(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> pb.PushBatchResponse:
        """Answer one batch, which counts as a stream of its own; it is read once it is known who sends it."""
        sender = await self._let_in(context)
        await self._open(context, sender)
        try:
            encoded = await _next_of(requests, self._ingest.limits.first_batch_seconds, context)
            ack = await self._answer(pb.PushBatchRequest, encoded or b"", next(self._streams), sender, context)
        finally:
            self._ingest.quotas.close_stream(sender.tenant)
        return pb.PushBatchResponse(ack=ack)

    async def _let_in(self, context: grpc.aio.ServicerContext) -> Identity:
        """Tell who sends, or end the call."""
        if self._gate is None:
            return ANYBODY
        shown = dict(context.invocation_metadata() or ()).get("authorization")
        try:
            return self._gate.identify(shown if isinstance(shown, str) else None, WRITE)
        except DeniedError as denied:
            code = grpc.StatusCode.PERMISSION_DENIED if denied.known else grpc.StatusCode.UNAUTHENTICATED
            if self._audit is not None:
                self._audit.deny("grpc", _host(context), str(denied), token=denied.token)
            await context.abort(code, str(denied))
            raise  # abort has raised already

    async def _open(self, context: grpc.aio.ServicerContext, sender: Identity) -> None:
        """Count a call among the open ones of its tenant, or end it; whoever goes on closes it."""
        if (refused := self._ingest.quotas.open_stream(sender.tenant, time.monotonic())) is not None:
            self._note_limit(context, sender, refused)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, refused)

    def _note_limit(self, context: grpc.aio.ServicerContext, sender: Identity, why: str) -> None:
        if self._audit is not None:
            self._audit.limit(_host(context), why, tenant=sender.tenant, token=sender.token)

    async def _answer(
        self, kind: type[M], encoded: bytes, stream: int, sender: Identity, context: grpc.aio.ServicerContext
    ) -> pb.Ack:
        try:
            batch = kind.FromString(encoded).batch
        except DecodeError:
            self._ingest.quotas.take(sender.tenant, 0, len(encoded), time.monotonic())
            return refusal(
                0, pb.ACK_STATUS_INVALID, f"the bytes are not a {kind.DESCRIPTOR.name}: truncated or damaged"
            )
        ack = await self._ingest.handle(batch, stream, tenant=sender.tenant, size=len(encoded))
        if ack.status == pb.ACK_STATUS_RESOURCE_EXHAUSTED:
            self._note_limit(context, sender, ack.detail)
        return ack


async def _next_of(requests: AsyncIterator[bytes], patience: float, context: grpc.aio.ServicerContext) -> bytes | None:
    """Return the next request of a stream, None at its end; who sends none for so many seconds is cut off."""
    waiting, expired = asyncio.current_task(), False

    def expire() -> None:
        nonlocal expired
        expired = True
        if waiting is not None:
            waiting.cancel()

    timer = asyncio.get_running_loop().call_later(patience, expire)  # far cheaper than wait_for
    try:
        return await anext(requests, None)
    except asyncio.CancelledError:
        if expired:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no whole batch came within {patience:g} s")
        raise
    finally:
        timer.cancel()


def _host(context: grpc.aio.ServicerContext) -> str:
    """The address of who calls, without the port, which tells nothing."""
    return unquote(context.peer()).partition(":")[2].rpartition(":")[0].strip("[]")


async def start_server(
    ingest: Ingest,
    address: str,
    *,
    gate: Gate | None = None,
    audit: Audit | None = None,
    certificates: Certificates | None = None,
) -> tuple[grpc.aio.Server, int]:
    """Serve ingest and health; return the server and its port.

    Args:
        ingest: what takes batches.
        address: HOST:PORT; port 0 picks one.
        gate: tells who sends; None: everybody may.
        audit: where it is written down who was let in.
        certificates: for TLS; new connections have what these hold at the time.

    Raises:
        AddressUnusableError: the port is in use, or the address is not one of this machine.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", ingest.limits.max_message_bytes),
            ("grpc.so_reuseport", 0),  # a second daemon on the port must fail, not share it
            ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a small message must not unfold into a large one
            # Find out about clients that vanished, and let idle forwarders keep their connection.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ]
    )
    service = IngestService(ingest, gate, audit)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                SERVICE,
                {
                    "StreamBatches": grpc.stream_stream_rpc_method_handler(
                        service.stream_batches, response_serializer=pb.StreamBatchesResponse.SerializeToString
                    ),
                    "PushBatch": grpc.stream_unary_rpc_method_handler(
                        service.push_batch, response_serializer=pb.PushBatchResponse.SerializeToString
                    ),
                },
            ),
        )
    )
    health_pb2_grpc.add_HealthServicer_to_server(await _health_of(ingest), server)
    try:
        if certificates is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, _credentials(certificates))
    except RuntimeError as error:
        await server.stop(None)
        raise AddressUnusableError(f"cannot listen on {address}: {_why_unusable(address)}") from error
    await server.start()
    return server, port


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials that follow the certificates: gRPC asks at each handshake whether there are newer ones."""
    told: list[Pems] = []

    def newest() -> grpc.ServerCertificateConfiguration | None:
        pems = certificates.pems
        if told == [pems]:
            return None
        told[:] = [pems]
        return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], pems.client_ca)

    return grpc.dynamic_ssl_server_credentials(newest(), newest, require_client_authentication=certificates.mutual)


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
