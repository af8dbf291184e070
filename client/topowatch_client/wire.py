"""What speaks on a port, found out with a greeting: gRPC's errors do not tell a wrong port from a wrong certificate."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topowatch_client.transport import Access

_SETTINGS = 4  # type of the frame that HTTP/2 begins with (RFC 9113, 3.4)
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))
_FRAME_HEAD = 9


def hear(host: str, port: int, seconds: float, tls: ssl.SSLContext | None = None) -> bytes:
    """Greet in HTTP/2 and return the first bytes of the answer; empty if the other side hung up on the greeting.

    Raises:
        ssl.SSLError: TLS was wanted and failed; also when the other side refuses our certificate and says so.
        OSError: No connection, or no answer within `seconds`.
    """
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection((host, port), timeout=seconds))
        speaker = stack.enter_context(tls.wrap_socket(plain, server_hostname=host)) if tls is not None else plain
        answer = b""
        with contextlib.suppress(ConnectionError):
            speaker.sendall(_GREETING)
            while len(answer) < _FRAME_HEAD and (part := speaker.recv(_FRAME_HEAD)):
                answer += part
        return answer


def is_http2(answer: bytes) -> bool:
    """Say whether an answer to the greeting begins as HTTP/2 does."""
    return len(answer) >= _FRAME_HEAD and answer[3] == _SETTINGS and answer[5:9] == bytes(4)


def speaks_tls(host: str, port: int, seconds: float) -> bool:
    """Say whether the port answers in TLS, whatever certificates it has or wants."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=seconds) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # refused, but in TLS
    except OSError:
        return False


def context_of(access: Access) -> ssl.SSLContext:
    """Return TLS settings like those that gRPC will use.

    Raises:
        ssl.SSLError: A file holds no certificate or key, or the key is another certificate's.
        OSError: A file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not the default context: that is stricter than gRPC
    context.set_alpn_protocols(["h2"])
    if access.tls_ca is not None:
        context.load_verify_locations(access.tls_ca)
    else:
        context.load_default_certs()
    if access.tls_cert is not None:
        context.load_cert_chain(access.tls_cert, access.tls_key)
    return context
