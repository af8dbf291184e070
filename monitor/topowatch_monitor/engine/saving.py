"""When which virtual shard is saved, within the disk's share for that."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from topowatch_monitor.engine.pool import Call, ShardLostError, ShardPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from topowatch_monitor.engine.checkpoints import Checkpoints
    from topowatch_monitor.engine.ledger import Virtual

SNAPSHOT_BYTES_PER_SECOND = 8 << 20  # share of the disk; 1,000 runs with full windows take about ten minutes
IDLE_SAVE_SECONDS = 0.25  # between two looks whether a snapshot is due
AT_ONCE = 8  # snapshots that carriers take while one is written


class Saving:
    """Keeps snapshots of the virtual shards fresh.

    Args:
        virtual: all of them, by number.
        pool: their carriers.
        checkpoints: where they are kept.
        lose: called with the error where a carrier is lost.
        timeout: seconds after which a carrier that does not answer is.
        seconds: time between two snapshots of one that changes, at least.
    """

    def __init__(
        self,
        virtual: Sequence[Virtual],
        pool: ShardPool,
        checkpoints: Checkpoints,
        lose: Callable[[ShardLostError], None],
        *,
        timeout: float,
        seconds: float,
    ) -> None:
        self._virtual = virtual
        self._pool = pool
        self._checkpoints = checkpoints
        self._lose = lose
        self._timeout = timeout
        self._seconds = seconds
        self._next_at = 0.0

    def due(self, now: float, position: int) -> None:
        """Save the one that changed and was saved longest ago, if that is due.

        It is due after `seconds`, and no sooner than the disk's share for snapshots allows.
        """
        if now < self._next_at:
            return
        due = [
            one for one in self._virtual if one.unsaved and one.origin is None and now - one.saved_at >= self._seconds
        ]
        self._next_at = now + IDLE_SAVE_SECONDS
        if due:
            chosen = min(due, key=lambda virtual: virtual.saved_at)
            chosen.saved_at = now
            size = self._save([self._virtual.index(chosen)])
            self._note_spans(position)
            self._next_at = now + size / SNAPSHOT_BYTES_PER_SECOND

    def all(self, position: int) -> None:
        """Save every virtual shard that changed."""
        unsaved = [number for number, virtual in enumerate(self._virtual) if virtual.unsaved]
        self._save(unsaved)
        if unsaved:
            self._note_spans(position)

    def _save(self, numbers: Iterable[int]) -> int:
        """Save virtual shards; return the bytes of their states. Those are left out whose carrier is lost over it."""
        size = 0
        for number, offset, state in self._snapshots(numbers):
            size += len(state)
            if self._checkpoints.save(number, offset, state):
                self._virtual[number].saved_offset, self._virtual[number].unsaved = offset, False
        return size

    def _snapshots(self, numbers: Iterable[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield number, offset and state of each; carriers are some ahead, so that they work while one is written."""
        calls: deque[Call] = deque()
        for number in [*numbers, *[None] * AT_ONCE]:
            try:
                if number is not None:
                    calls.append(self._pool.call(self._virtual[number].carrier, "snapshot", [number]))
                if calls and (number is None or len(calls) == AT_ONCE):
                    yield from self._pool.result(calls.popleft(), self._timeout)
            except ShardLostError as error:  # noqa: PERF203 - the others can be saved
                self._lose(error)

    def _note_spans(self, position: int) -> None:
        """Note how far the log holds nothing new for what is saved, so that a restart skips that span."""
        saved = {number: v.saved_offset for number, v in enumerate(self._virtual) if not v.unsaved}
        self._checkpoints.note_spans(position, saved)
