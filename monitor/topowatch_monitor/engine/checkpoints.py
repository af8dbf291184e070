"""Saved states of the virtual shards, and how far along the log each is known to be complete."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, NamedTuple

from topowatch_monitor.engine.routing import VIRTUAL_SHARDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from topowatch_monitor.store.snapshots import SnapshotStore

log = logging.getLogger("topowatch.engine")

SPANS = VIRTUAL_SHARDS  # number under which the store keeps the note of spans
GROUPS = SPANS + 1  # and that under which it keeps what is known of groups


class Checkpoint(NamedTuple):
    """A saved state (None: there is none), the offset that it was taken at, and the first one that it lacks."""

    saved_offset: int
    next_offset: int
    state: bytes | None


EMPTY = Checkpoint(0, 0, None)


class Checkpoints:
    """Keeps and finds checkpoints; trouble with the disk costs a longer replay, never the engine.

    Args:
        store: where snapshots lie.
    """

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._failed: set[int] = set()  # those that could not be written the last time

    def load(self, numbers: Iterable[int], durable: int) -> Iterator[tuple[int, Checkpoint]]:
        """Yield the newest checkpoint of each virtual shard that the log, which ends at `durable`, still covers."""
        spans = self._spans(durable)
        for number in numbers:
            offset, state = self._store.load(number) or (0, None)
            if offset > durable:
                yield number, EMPTY  # taken of a log that has lost its tail since
                continue
            first, last = spans.get(number, (0, 0))
            yield number, Checkpoint(offset, max(offset, last) if first == offset else offset, state)

    def save(self, number: int, offset: int, state: bytes) -> bool:
        """Keep a state; return whether that was possible. The first failure is logged, another once all are kept."""
        try:
            self._store.save(number, offset, state)
        except OSError as error:
            if not self._failed:
                log.warning("snapshots cannot be written (%s): a restart would replay more of the log", error)
            self._failed.add(number)
            return False
        self._failed.discard(number)
        return True

    def note_spans(self, position: int, saved: Mapping[int, int]) -> None:
        """Note that the log holds nothing for these shards from the offset at which each was saved up to `position`."""
        spans = {number: (offset, position) for number, offset in saved.items()}
        self.save(SPANS, position, json.dumps(spans).encode())

    def load_groups(self) -> bytes | None:
        """Return what was saved of the groups; None if there is nothing.

        It counts though the log has lost its tail since: names that were told stay, and the log does not hold them.
        """
        _, state = self._store.load(GROUPS) or (0, None)
        return state

    def save_groups(self, position: int, state: bytes) -> None:
        """Keep what is known of the groups when the log has been followed up to `position`."""
        self.save(GROUPS, position, state)

    def _spans(self, durable: int) -> dict[int, tuple[int, int]]:
        note = self._store.load(SPANS)
        if note is None or note[0] > durable:
            return {}
        return {int(number): (first, last) for number, (first, last) in json.loads(note[1]).items()}
