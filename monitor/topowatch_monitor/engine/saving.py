"""When which virtual shard is saved, within the disk's share for that."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from topowatch_monitor.engine.pool import Call, ShardLostError, ShardPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from topowatch_monitor.engine.checkpoints import Checkpoints
    from topowatch_monitor.engine.ledger import Virtual

SNAPSHOT_BYTES_PER_SECOND = 8 << 20  # share of the disk; 1,000 runs with full windows take about ten minutes
IDLE_SAVE_SECONDS = 0.25  # between two looks whether a snapshot is due
TAKEN_AT_ONCE = 8  # snapshots that are on their way while another one is written


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
            size = self._save([self._virtual.index(chosen)])
            self._note_spans(position)
            self._next_at = now + size / SNAPSHOT_BYTES_PER_SECOND

    def all(self, position: int) -> None:
        """Save every virtual shard that changed."""
        unsaved = [number for number, virtual in enumerate(self._virtual) if virtual.unsaved]
        if unsaved:
            self._save(unsaved)
            self._note_spans(position)

    def _save(self, numbers: Iterable[int]) -> int:
        """Save virtual shards, while their carriers work side by side on the next ones; return the bytes written."""
        calls: deque[tuple[int, Call]] = deque()
        written = 0
        for number in self._alternating(numbers):
            try:
                call = self._pool.call(self._virtual[number].carrier, "snapshot", [number])
            except ShardLostError as error:
                self._lose(error)
                continue
            calls.append((number, call))
            if len(calls) > TAKEN_AT_ONCE:
                written += self._keep(*calls.popleft())
        return written + sum(self._keep(*each) for each in calls)

    def _alternating(self, numbers: Iterable[int]) -> list[int]:
        """Order virtual shards so that each carrier has its turn: those in a row are mostly with the same one."""
        turns: Counter[int] = Counter()

        def turn(number: int) -> int:
            carrier = self._virtual[number].carrier
            turns[carrier] += 1
            return turns[carrier]

        return sorted(numbers, key=turn)

    def _keep(self, number: int, call: Call) -> int:
        """Write a snapshot, if its carrier is not lost over it; return its bytes."""
        try:
            [(_, offset, state)] = self._pool.result(call, self._timeout)
        except ShardLostError as error:
            self._lose(error)
            return 0
        if self._checkpoints.save(number, offset, state):
            self._virtual[number].saved_offset, self._virtual[number].unsaved = offset, False
        return len(state)

    def _note_spans(self, position: int) -> None:
        """Note how far the log holds nothing new for what is saved, so that a restart skips that span."""
        saved = {number: v.saved_offset for number, v in enumerate(self._virtual) if not v.unsaved}
        self._checkpoints.note_spans(position, saved)
