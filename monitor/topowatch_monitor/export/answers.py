"""Answers of the HTTP face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from topowatch_monitor.export.strict_json import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping


class RefusedError(Exception):
    """A request that is refused: the HTTP status, why in words, and what else its JSON tells."""

    def __init__(self, status: int, why: str, more: Mapping[str, Any] | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.more = dict(more or {})


def json_response(content: Any, status: int = 200) -> Response:
    """Return `content` as JSON; NaN and infinities, which JSON has no words for, become null."""
    return Response(dumps(content), status, media_type="application/json")
