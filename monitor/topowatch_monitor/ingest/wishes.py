"""Loss slices that somebody wants of a job: told in the answers to its batches, as there is no other way to it."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from topowatch_protos.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

Key = tuple[str, str, str]  # tenant, group, run
LASTS_SECONDS = 600.0  # how long a wish is told: a job looks at it when it takes a sample


class _Wish(NamedTuple):
    request: pb.SliceRequest
    until: float


class Wishes:
    """At most one wish a run, in memory. Lives in ingest's event loop.

    Args:
        now: seconds of a clock that never jumps.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._wishes: dict[Key, _Wish] = {}

    def ask(self, key: Key, side: int, answered: str = "") -> str:
        """Take a wish; who asks again before it is answered gets the same.

        Args:
            key: of the run.
            side: points along each side of the slice.
            answered: id of the request that the run has answered last.

        Returns:
            The id that the slice will come back with.
        """
        self._wishes = {each: wish for each, wish in self._wishes.items() if wish.until > self._now()}
        known = self._wishes.get(key)
        if known is not None and known.request.id != answered:
            return known.request.id
        request = pb.SliceRequest(id=secrets.token_hex(8), side=side)
        self._wishes[key] = _Wish(request, self._now() + LASTS_SECONDS)
        return request.id

    def of(self, key: Key) -> list[pb.SliceRequest]:
        """Return what is wanted of a run now."""
        wish = self._wishes.get(key)
        return [wish.request] if wish is not None and wish.until > self._now() else []
