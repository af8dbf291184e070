"""Follows the log and keeps the shards at its end: routes records, rebuilds lost shards, asks for snapshots.

Shard state is a pure function of (snapshot, log suffix), so whatever is lost is made again from the log. Every delivery
carries (epoch, expected offset, next offset): a shard that is not exactly there refuses it.
"""

from __future__ import annotations

import json
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.engine.pool import Call, ShardLostError, ShardPool
from topowatch_monitor.engine.routing import VIRTUAL_SHARDS, shards_of
from topowatch_monitor.engine.shard import ApplyResult, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from topowatch_monitor.engine.view import RunView
    from topowatch_monitor.store.log import Record
    from topowatch_monitor.store.reader import LogReader
    from topowatch_monitor.store.snapshots import SnapshotStore

CHUNK_RECORDS = 1024
CHUNK_BYTES = 4 << 20
IN_FLIGHT = 2  # batches a carrier: one that it works on, one that waits
ATTEMPTS = 3  # to rebuild a carrier before the engine gives up and is started anew
PROGRESS = VIRTUAL_SHARDS  # number under which the snapshot store keeps the dispatcher's own notes


@dataclass
class _Virtual:
    """Where a virtual shard stands: who carries it, what it was handed, what is saved of it."""

    carrier: int
    epoch: int = 0
    next_offset: int = 0
    saved_offset: int = 0
    unsaved: bool = False


@dataclass(frozen=True)
class _Flight:
    """A delivery that is under way, and the first log offset that depends on it."""

    call: Call
    first_offset: int


@dataclass(frozen=True)
class _Chunk:
    """Records of the log below offset `end`, in order."""

    records: list[Record]
    end: int


class Dispatcher:
    """Drives a pool of shards along the log.

    Args:
        reader: the log.
        pool: the carriers.
        snapshots: where shard states are kept.
        timeout: seconds after which a carrier that does not answer counts as lost.
        snapshot_seconds: age at which a changed virtual shard is saved again, roughly.
    """

    def __init__(
        self,
        reader: LogReader,
        pool: ShardPool,
        snapshots: SnapshotStore,
        *,
        timeout: float = 120.0,
        snapshot_seconds: float = 60.0,
    ) -> None:
        self._reader = reader
        self._pool = pool
        self._snapshots = snapshots
        self._timeout = timeout
        self._snapshot_seconds = snapshot_seconds
        self._virtual = [_Virtual(carrier=number % pool.size) for number in range(VIRTUAL_SHARDS)]
        self._flights: list[deque[_Flight]] = [deque() for _ in range(pool.size)]
        self._views: dict[tuple[str, str, str], RunView] = {}
        self._next_snapshot_at = 0.0
        self._durable = 0
        self.position = 0
        self.restarts = 0

    @property
    def applied(self) -> int:
        """Every record below this offset is part of the shards' state."""
        return min((flights[0].first_offset for flights in self._flights if flights), default=self.position)

    def take_views(self) -> list[RunView]:
        """Newest views of the runs that changed since the last call."""
        views, self._views = list(self._views.values()), {}
        return views

    def restore(self, durable: int) -> None:
        """Fill all carriers from their snapshots and go to the first record that any of them lacks.

        Args:
            durable: the log's end. A snapshot from beyond it is of a log that lost its tail, and is left out.
        """
        self._durable = durable
        for carrier in range(self._pool.size):
            self._load(carrier)
        self.position = min(virtual.next_offset for virtual in self._virtual)

    def pump(self, durable: int) -> bool:
        """Deliver the next records below offset `durable`; return whether anything moved."""
        moved = self._collect(timeout=0.0)
        self._durable = max(self._durable, durable)
        if self.position >= durable:
            return moved
        chunk = self._chunk(self.position, durable)
        for carrier in range(self._pool.size):
            self._wait_for_room(carrier)  # before grouping: a carrier that is rebuilt here changes epoch
        first, self.position = self.position, chunk.end
        for carrier, parts in self._parts(chunk).items():
            self._deliver(carrier, parts, first)
        return True

    def settle(self) -> None:
        """Wait until nothing is under way."""
        while any(self._flights):
            self._collect(timeout=self._timeout)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a delivery to end; return whether any did."""
        return self._collect(timeout)

    def save_due(self, now: float) -> None:
        """Once a second, save the share of the changed virtual shards that keeps all within `snapshot_seconds`."""
        if now >= self._next_snapshot_at:
            self._next_snapshot_at = now + 1.0
            unsaved = sum(virtual.unsaved for virtual in self._virtual)
            self.save(math.ceil(unsaved / self._snapshot_seconds))

    def save(self, count: int = VIRTUAL_SHARDS) -> None:
        """Save up to `count` changed virtual shards, those saved longest ago first."""
        unsaved = [number for number, virtual in enumerate(self._virtual) if virtual.unsaved]
        unsaved.sort(key=lambda number: self._virtual[number].saved_offset)
        for number in unsaved[:count]:
            self._save(number)
        if unsaved:
            self._save_progress()

    # Delivery

    def _chunk(self, start: int, end: int) -> _Chunk:
        """Read on from `start`; what the log cannot read any more is passed over."""
        end = min(end, start + CHUNK_RECORDS)
        records: list[Record] = []
        size = 0
        for record in self._reader.read(start, end):
            records.append(record)
            size += len(record.payload)
            if size >= CHUNK_BYTES:
                return _Chunk(records, record.offset + 1)
        return _Chunk(records, end)

    def _parts(self, chunk: _Chunk, only: int | None = None) -> dict[int, list[Part]]:
        """Group records by carrier and virtual shard, leaving out what a shard already has; moves `next_offset`."""
        records: dict[int, list[tuple[int, int, bytes]]] = {}
        for offset, kind, payload in chunk.records:
            for number in shards_of(kind, payload):
                virtual = self._virtual[number]
                if offset >= virtual.next_offset and only in (None, virtual.carrier):
                    records.setdefault(number, []).append((offset, kind, payload))
        parts: dict[int, list[Part]] = {}
        for number, found in records.items():
            virtual = self._virtual[number]
            part = Part(number, virtual.epoch, virtual.next_offset, chunk.end, found)
            parts.setdefault(virtual.carrier, []).append(part)
            virtual.next_offset = chunk.end
            virtual.unsaved = True
        return parts

    def _deliver(self, carrier: int, parts: list[Part], first_offset: int) -> None:
        try:
            self._flights[carrier].append(_Flight(self._pool.call(carrier, "apply", parts), first_offset))
        except ShardLostError as error:
            self._rebuild(error)

    def _wait_for_room(self, carrier: int) -> None:
        while len(self._flights[carrier]) >= IN_FLIGHT:
            self._finish(carrier, self._timeout)

    def _collect(self, timeout: float) -> bool:
        """Take in every delivery that has ended, in order; wait up to `timeout` seconds for the first."""
        oldest = [flights[0].call for flights in self._flights if flights]
        if not oldest:
            return False
        ended = self._pool.ready(oldest, timeout)
        for call in ended:
            self._finish(call.carrier, self._timeout)
        return bool(ended)

    def _finish(self, carrier: int, timeout: float) -> None:
        flight = self._flights[carrier][0]
        try:
            self._accept(carrier, self._pool.result(flight.call, timeout))
        except ShardLostError as error:
            self._rebuild(error)
            return
        self._flights[carrier].popleft()

    def _accept(self, carrier: int, result: ApplyResult) -> None:
        if result.refused:
            number, epoch, offset = result.refused[0]
            raise ShardLostError(carrier, f"virtual shard {number} stands at epoch {epoch}, offset {offset}")
        self._remember(result.views)

    def _remember(self, views: Iterable[RunView]) -> None:
        for view in views:
            self._views[view["tenant"], view["group"], view["run"]] = view

    # Recovery

    def _load(self, carrier: int) -> None:
        """Fill a carrier's virtual shards from the newest snapshots."""
        clean = self._clean_spans()
        calls = []
        for number, virtual in self._carried(carrier):
            offset, state = self._snapshots.load(number) or (0, None)
            if offset > self._durable:
                offset, state = 0, None
            first, last = clean.get(number, (0, 0))
            virtual.epoch += 1
            virtual.saved_offset = offset
            virtual.unsaved = False
            # No record of this shard lies between its snapshot and the end of a span noted for that snapshot.
            virtual.next_offset = max(offset, last) if first == offset else offset
            calls.append(self._pool.call(carrier, "load", number, virtual.epoch, virtual.next_offset, state))
        for call in calls:
            self._pool.result(call, self._timeout)
        self._remember(self._pool.result(self._pool.call(carrier, "views"), self._timeout))

    def _rebuild(self, error: ShardLostError) -> None:
        """Put a new shard in place of a lost carrier's and bring it to where the others are."""
        carrier = error.carrier
        for _attempt in range(ATTEMPTS):
            self.restarts += 1
            self._flights[carrier].clear()
            try:
                self._pool.replace(carrier)
                self._load(carrier)
                self._replay(carrier)
            except ShardLostError as again:
                error = again
            else:
                return
        raise error

    def _replay(self, carrier: int) -> None:
        position = min(virtual.next_offset for _, virtual in self._carried(carrier))
        while position < self.position:
            chunk = self._chunk(position, self.position)
            for parts in self._parts(chunk, only=carrier).values():
                call = self._pool.call(carrier, "apply", parts)
                self._accept(carrier, self._pool.result(call, self._timeout))
            position = chunk.end

    def _carried(self, carrier: int) -> Iterator[tuple[int, _Virtual]]:
        return ((number, virtual) for number, virtual in enumerate(self._virtual) if virtual.carrier == carrier)

    # Snapshots

    def _save(self, number: int) -> None:
        carrier = self._virtual[number].carrier
        try:
            call = self._pool.call(carrier, "snapshot", [number])
            [(_, offset, state)] = self._pool.result(call, self._timeout)
        except ShardLostError as error:
            self._rebuild(error)
            return
        self._snapshots.save(number, offset, state)
        self._virtual[number].saved_offset = offset
        self._virtual[number].unsaved = False

    def _save_progress(self) -> None:
        """Note for each saved shard how far the log holds nothing new for it, so that a restart skips that span."""
        spans = {
            number: (virtual.saved_offset, self.position)
            for number, virtual in enumerate(self._virtual)
            if not virtual.unsaved
        }
        self._snapshots.save(PROGRESS, self.position, json.dumps(spans).encode())

    def _clean_spans(self) -> dict[int, tuple[int, int]]:
        note = self._snapshots.load(PROGRESS)
        if note is None or note[0] > self._durable:
            return {}
        return {int(number): (first, last) for number, (first, last) in json.loads(note[1]).items()}
