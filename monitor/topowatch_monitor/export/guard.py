"""Stands before the HTTP face: who asks has to show a token, once there are any, and sees what is their tenant's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request

from topowatch_monitor.access.gate import ANYBODY, DeniedError
from topowatch_monitor.access.tokens import READ, WRITE
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
    """

    def __init__(self, app: ASGIApp, gate: Gate | None, audit: Audit | None) -> None:
        self._app, self._gate, self._audit = app, gate, audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on who asks with the request, or answer it."""
        if scope["type"] != "http" or self._gate is None or scope["path"] in OPEN_TO_ALL:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        asking = READ if request.method in {"GET", "HEAD"} else WRITE  # only a job's owner may make it work
        try:
            identity = self._gate.identify(request.headers.get("authorization"), asking)
        except DeniedError as denied:
            self._note("denied", request, denied.token, why=str(denied))
            answer = json_response({"error": str(denied)}, 403 if denied.known else 401)
            if not denied.known:
                answer.headers["WWW-Authenticate"] = "Bearer"
            await answer(scope, receive, send)
            return
        if asking == WRITE:
            self._note("asked_of_job", request, identity.token, tenant=identity.tenant)
        scope[_IDENTITY] = identity
        await self._app(scope, receive, send)

    def _note(self, event: str, request: Request, token: str, **facts: str) -> None:
        if self._audit is not None:
            peer = request.client.host if request.client is not None else ""
            self._audit.write(event, over="http", peer=peer, path=request.url.path, token=token, **facts)


def who(request: Request) -> Identity:
    """Return who asks."""
    identity: Identity = request.scope.get(_IDENTITY, ANYBODY)
    return identity
