"""Has the engine draw what somebody looks at, and hands it to all who wait for it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from topowatch_monitor.engine.look import Subject, has_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from topowatch_monitor.engine.look import CloseUp

FRESH_SECONDS = 4.0  # so long an answer is good for all who ask
PATIENCE_SECONDS = 8.0


class NotDrawnError(RuntimeError):
    """There is no close-up now; the message says why and what to do."""


class Viewer:
    """Close-ups by subject. Use from the event loop.

    Args:
        look: asks the engine for one; the answer comes to `take`.
        clock: seconds.
    """

    def __init__(self, look: Callable[[Subject], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._clock = clock
        self._kept: dict[Subject, tuple[float, CloseUp]] = {}
        self._coming: dict[Subject, asyncio.Future[CloseUp]] = {}

    async def at(self, subject: Subject) -> Any:
        """Return a close-up that is a few seconds old at most, None of a run that is gone; raises NotDrawnError."""
        drawn_at, close_up = self._kept.get(subject, (-FRESH_SECONDS, None))
        if close_up is None or self._clock() - drawn_at >= FRESH_SECONDS:
            close_up = await self._drawn(subject)
        if close_up["problem"]:
            raise NotDrawnError(close_up["problem"])
        return close_up["answer"]

    def take(self, close_ups: Iterable[CloseUp]) -> None:
        """Take in what the engine has drawn; what nobody waits for any more is good for the next who asks."""
        now = self._clock()
        for close_up in close_ups:
            subject = Subject(*close_up["subject"])
            self._kept[subject] = now, close_up
            coming = self._coming.pop(subject, None)
            if coming is not None and not coming.done():
                coming.set_result(close_up)
        for subject in [subject for subject, (at, _) in self._kept.items() if now - at >= FRESH_SECONDS]:
            del self._kept[subject]

    async def _drawn(self, subject: Subject) -> CloseUp:
        coming = self._coming.get(subject)
        if coming is None:
            if not has_room(self._coming, subject):
                raise NotDrawnError("too much is being looked at: try again in some seconds")
            coming = self._coming[subject] = asyncio.get_running_loop().create_future()
            self._look(subject)
        try:
            return await asyncio.wait_for(asyncio.shield(coming), PATIENCE_SECONDS)
        except asyncio.TimeoutError:
            if self._coming.get(subject) is coming:  # a host that was started anew does not know of it
                del self._coming[subject]
            raise NotDrawnError(
                f"the engine has not drawn it within {PATIENCE_SECONDS:g} s, it is busy or starting: try again"
            ) from None
