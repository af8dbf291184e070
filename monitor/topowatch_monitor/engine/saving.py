"""When which virtual shard is saved, within the disk's share for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from topowatch_monitor.engine.checkpoints import Checkpoints
    from topowatch_monitor.engine.ledger import Virtual

SNAPSHOT_BYTES_PER_SECOND = 8 << 20  # share of the disk; 1,000 runs with full windows take about ten minutes
IDLE_SAVE_SECONDS = 0.25  # between two looks whether a snapshot is due


class Saving:
    """Keeps snapshots of the virtual shards fresh.

    Args:
        virtual: all of them, by number.
        snapshot: offset and state of one by its number; None if its carrier was lost over it.
        checkpoints: where they are kept.
        seconds: time between two snapshots of one that changes, at least.
    """

    def __init__(
        self,
        virtual: Sequence[Virtual],
        snapshot: Callable[[int], tuple[int, bytes] | None],
        checkpoints: Checkpoints,
        seconds: float,
    ) -> None:
        self._virtual = virtual
        self._snapshot = snapshot
        self._checkpoints = checkpoints
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
            size = self._save(self._virtual.index(chosen))
            self._note_spans(position)
            self._next_at = now + size / SNAPSHOT_BYTES_PER_SECOND

    def all(self, position: int) -> None:
        """Save every virtual shard that changed."""
        unsaved = [number for number, virtual in enumerate(self._virtual) if virtual.unsaved]
        for number in unsaved:
            self._save(number)
        if unsaved:
            self._note_spans(position)

    def _save(self, number: int) -> int:
        """Save one virtual shard; return the bytes written."""
        found = self._snapshot(number)
        if found is None:
            return 0
        offset, state = found
        if self._checkpoints.save(number, offset, state):
            self._virtual[number].saved_offset, self._virtual[number].unsaved = offset, False
        return len(state)

    def _note_spans(self, position: int) -> None:
        """Note how far the log holds nothing new for what is saved, so that a restart skips that span."""
        saved = {number: v.saved_offset for number, v in enumerate(self._virtual) if not v.unsaved}
        self._checkpoints.note_spans(position, saved)
