"""Stands before the HTTP face: who asks has to show a token, once there are any, and sees what is their tenant's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request

from topowatch_monitor.access.exposure import is_loopback
from topowatch_monitor.access.gate import ANYBODY, DeniedError
from topowatch_monitor.access.tokens import ADMIN, READ, WRITE
from topowatch_monitor.export.answers import json_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from topowatch_monitor.access.audit import Audit
    from topowatch_monitor.access.gate import Gate, Identity

# The page holds nothing of anybody's: it asks for a token. Probes of a cluster have none.
OPEN_TO_ALL = frozenset({"/", "/-/healthy", "/-/ready"})
_IDENTITY = "topowatch.identity"


class Guard:
    """Answers 401 to those without a token that is good, and 403 to those whose token is not good for this.

    Args:
        app: what is guarded.
        gate: tells who asks; None: everybody may do everything.
        audit: where it is written down.
        local: whether it is reached over loopback alone. Without tokens it then answers to the names of this machine
            only: a page of somebody's that was given this address by its own name server (DNS rebinding) reads nothing.
    """

    def __init__(self, app: ASGIApp, gate: Gate | None, audit: Audit | None, *, local: bool = False) -> None:
        self._app, self._gate, self._audit, self._local = app, gate, audit, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on who asks with the request, or answer it."""
        if scope["type"] != "http" or self._gate is None or scope["path"] in OPEN_TO_ALL:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            identity = self._let_in(request, self._gate)
        except DeniedError as denied:
            self._note(scope, denied)
            answer = json_response({"error": str(denied)}, 403 if denied.known else 401)
            if not denied.known:
                answer.headers["WWW-Authenticate"] = "Bearer"
            await answer(scope, receive, send)
            return
        scope[_IDENTITY] = identity
        await self._app(scope, receive, send)

    def _let_in(self, request: Request, gate: Gate) -> Identity:
        asking = READ if request.method in {"GET", "HEAD"} else WRITE  # only a job's owner may make it work
        identity = gate.identify(request.headers.get("authorization"), asking)
        if identity is ANYBODY and self._local and not is_loopback(_host_of(request)):
            raise DeniedError("without tokens this daemon answers to localhost and 127.0.0.1 only", known=True)
        return identity

    def _note(self, scope: Scope, denied: DeniedError) -> None:
        if self._audit is not None:
            self._audit.deny("http", peer_of(scope), str(denied), token=denied.token, path=scope["path"])


def who(request: Request) -> Identity:
    """Return who asks."""
    identity: Identity = request.scope.get(_IDENTITY, ANYBODY)
    return identity


def is_admin(request: Request, gate: Gate | None) -> bool:
    """Whether a request that needs no token shows one that may know everything, or none is asked for."""
    if gate is None:
        return True
    try:
        gate.identify(request.headers.get("authorization"), ADMIN)
    except DeniedError:
        return False
    return True


def peer_of(scope: Scope) -> str:
    """Return the address that a request came from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _host_of(request: Request) -> str:
    """The host that was asked for, without its port."""
    host = request.headers.get("host", "localhost")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
