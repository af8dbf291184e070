"""Answers of the HTTP face."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from topowatch_monitor.export.strict_json import dumps


def json_response(content: Any, status: int = 200) -> Response:
    """Return `content` as JSON; NaN and infinities, which JSON has no words for, become null."""
    return Response(dumps(content), status, media_type="application/json")
