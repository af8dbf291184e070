"""When which virtual shard is saved, within the disk's share for that."""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import TYPE_CHECKING

from topowatch_monitor.engine.pool import Call, ShardLostError, ShardPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from topowatch_monitor.engine.checkpoints import Checkpoints
    from topowatch_monitor.engine.ledger import Virtual

log = logging.getLogger("topowatch.engine")

SNAPSHOT_BYTES_PER_SECOND = 8 << 20  # share of the disk; 1,000 runs with full windows take about ten minutes
IDLE_SAVE_SECONDS = 0.25  # between two looks whether a snapshot is due
AHEAD = 2  # snapshots a carrier: one that it works on, one that is on its way


class Saving:
    """Keeps snapshots of the virtual shards fresh.

    Args:
        virtual: all of them, by number.
        pool: their carriers.
        lose: called with the loss of a carrier, to make again what it had.
        checkpoints: where snapshots are kept.
        seconds: time between two snapshots of one that changes, at least.
        timeout: seconds after which a carrier that does not answer counts as lost.
    """

    def __init__(
        self,
        virtual: Sequence[Virtual],
        pool: ShardPool,
        lose: Callable[[ShardLostError], None],
        checkpoints: Checkpoints,
        *,
        seconds: float,
        timeout: float,
    ) -> None:
        self._virtual = virtual
        self._pool = pool
        self._lose = lose
        self._checkpoints = checkpoints
        self._seconds = seconds
        self._timeout = timeout
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
            size, _ = self._save([self._virtual.index(chosen)])
            self._note_spans(position)
            self._next_at = now + size / SNAPSHOT_BYTES_PER_SECOND

    def all(self, position: int) -> None:
        """Save every virtual shard that changed."""
        unsaved = [number for number, virtual in enumerate(self._virtual) if virtual.unsaved]
        if unsaved:
            _, left = self._save(unsaved)
            _, lost = self._save(left)
            if lost:
                log.warning("%d virtual shards are not saved: a start makes their runs again from the log", len(lost))
            self._note_spans(position)

    def _save(self, numbers: Sequence[int]) -> tuple[int, list[int]]:
        """Save virtual shards; return the bytes written, and those whose carrier was lost over it."""
        written, left = 0, []
        for number, taken in self._snapshots(numbers):
            if taken is None:
                left.append(number)
                continue
            offset, state = taken
            if self._checkpoints.save(number, offset, state):
                self._virtual[number].saved_offset, self._virtual[number].unsaved = offset, False
            written += len(state)
        return written, left

    def _snapshots(self, numbers: Sequence[int]) -> Iterator[tuple[int, tuple[int, bytes] | None]]:
        """Yield each with offset and state, None if its carrier was lost, while the carriers work on the next ones."""
        most = AHEAD * len({self._virtual[number].carrier for number in numbers})
        calls: deque[tuple[int, Call | None]] = deque()
        for number in self._alternating(numbers):
            if len(calls) == most:
                yield self._taken(*calls.popleft())
            calls.append((number, self._begun(number)))
        for each in calls:
            yield self._taken(*each)

    def _begun(self, number: int) -> Call | None:
        try:
            return self._pool.call(self._virtual[number].carrier, "snapshot", [number])
        except ShardLostError as error:
            self._lose(error)
        return None

    def _taken(self, number: int, call: Call | None) -> tuple[int, tuple[int, bytes] | None]:
        if call is None:
            return number, None
        try:
            [(_, offset, state)] = self._pool.result(call, self._timeout)
        except ShardLostError as error:
            self._lose(error)
            return number, None
        return number, (offset, state)

    def _alternating(self, numbers: Iterable[int]) -> list[int]:
        """Order virtual shards so that each carrier has its turn: those in a row are mostly with the same one."""
        turns: Counter[int] = Counter()

        def turn(number: int) -> int:
            carrier = self._virtual[number].carrier
            turns[carrier] += 1
            return turns[carrier]

        return sorted(numbers, key=turn)

    def _note_spans(self, position: int) -> None:
        """Note how far the log holds nothing new for what is saved, so that a restart skips that span."""
        saved = {number: v.saved_offset for number, v in enumerate(self._virtual) if not v.unsaved}
        self._checkpoints.note_spans(position, saved)
