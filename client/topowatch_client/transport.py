"""The gRPC side of the client: channels, TLS and tokens. Only the forwarder, `sync` and `doctor` import it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_client.config import Config

MAX_MESSAGE_BYTES = 16 << 20
# Waiting and trying again is the forwarder's business; the channel only has to connect when it is told to.
OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel means a new connection
    ("grpc.enable_http_proxy", 0),
)


_FILES = ("tls_ca", "tls_cert", "tls_key", "token_file")


@dataclass(frozen=True)
class Access:
    """How to reach a daemon."""

    endpoint: str
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    token: str | None = field(default=None, repr=False)
    owner: int | None = None  # the writer's user, where that is somebody else, who has to be able to read
    noted: frozenset[Path] = frozenset()  # these files, which the writer named

    @classmethod
    def of_writer(
        cls, meta: Mapping[str, Any], own: Config, endpoint: str | None = None, owner: int | None = None
    ) -> Access:
        """Combine what a writer noted beside its spool with this process's own settings.

        Args:
            meta: The writer's `meta.json`; what it names wins over `own`.
            own: This process's settings; the only place where a token can come from.
            endpoint: Wins over both.
            owner: The user id of the writer, if it is not ours. Its files are then read only where that user may
                read them, and what is ours goes nowhere but to where we were told to send.
        """
        noted = {name: Path(path) for name in _FILES if isinstance(path := meta.get(name), str)}
        target = endpoint or str(meta.get("endpoint") or own.endpoint)
        ours = owner is None or target == (endpoint or own.endpoint)
        files = {name: noted.get(name) or (getattr(own, name) if ours else None) for name in _FILES}
        token = own.token if ours and not (owner is not None and "token_file" in noted) else None
        return cls(endpoint=target, **files, token=token, owner=owner, noted=frozenset(noted.values()))

    @property
    def secure(self) -> bool:
        """Whether the connection uses TLS."""
        return bool(self.tls_ca or self.tls_cert)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what goes with every call; the token file is read anew each time.

        Raises:
            OSError: The token file cannot be read, is empty, or holds what no header can carry.
        """
        token = self.token
        if self.token_file:
            token = self._read(self.token_file).decode("utf-8", errors="replace").strip()
            if not token:
                raise OSError(f"{self.token_file} is empty")
        if token and not (token.isascii() and token.isprintable()):
            raise OSError(f"the token{f' in {self.token_file}' if self.token_file else ''} is no printable ASCII text")
        return (("authorization", f"Bearer {token}"),) if token else ()

    def credentials(self) -> grpc.ChannelCredentials:
        """Return TLS credentials from the files named.

        Raises:
            OSError: A certificate or key cannot be read.
        """
        files = (self.tls_ca, self.tls_key, self.tls_cert)
        return grpc.ssl_channel_credentials(*(self._read(path) if path else None for path in files))

    def _read(self, path: Path) -> bytes:
        """Read a file; raises OSError also where another user named one that is for others' eyes only."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            theirs = self.owner is not None and path in self.noted
            if theirs and status.st_uid != self.owner and not status.st_mode & stat.S_IROTH:
                raise PermissionError(f"{path} is not readable to the user (id {self.owner}) whose job named it")
            return file.read()

    def open(self) -> grpc.aio.Channel:
        """Return a channel for asyncio; nothing is connected yet. Raises OSError as `credentials` does."""
        if self.secure:
            return grpc.aio.secure_channel(self.endpoint, self.credentials(), options=OPTIONS)
        return grpc.aio.insecure_channel(self.endpoint, options=OPTIONS)


def is_too_large(error: grpc.RpcError) -> bool:
    """Say whether a call failed because a message exceeds the receiver's (or our own) limit."""
    return error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (error.details() or "").lower()
