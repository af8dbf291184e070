"""How uvicorn serves: who brings no whole head of a request within some seconds is cut off, TLS is as it is given."""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import ssl

    from starlette.types import ASGIApp

HEAD_SECONDS = 10.0
MOST_CONNECTIONS = 2048
_SPARE_FILES = 512  # for the log, snapshots and gRPC


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever for what a client has to say."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes; wait for more of a head, but not for what a request asked for."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        self.transport.close()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def http_config(app: ASGIApp, context: ssl.SSLContext | None) -> uvicorn.Config:
    """Return a loaded configuration.

    Args:
        app: to serve.
        context: for TLS; None: without.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=3,
        limit_concurrency=min(MOST_CONNECTIONS, max(16, files - _SPARE_FILES)),
        proxy_headers=False,  # whoever sends them may say anything
        server_header=False,
    )
    config.load()
    config.ssl = context
    return config
