"""Follows the log and keeps the shards at its end: routes records, rebuilds lost shards, asks for snapshots.

Shard state is a pure function of (snapshot, log suffix), so whatever is lost is made again from the log. Every delivery
carries (epoch, expected offset, next offset): a shard that is not exactly there refuses it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topowatch_monitor.engine.checkpoints import EMPTY, Checkpoint, Checkpoints
from topowatch_monitor.engine.pool import Call, ShardLostError, ShardPool
from topowatch_monitor.engine.routing import VIRTUAL_SHARDS, shards_of
from topowatch_monitor.engine.shard import ApplyResult, Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from topowatch_monitor.engine.group_fit import GroupFit
    from topowatch_monitor.engine.group_forecast import ForecastFit
    from topowatch_monitor.engine.placing import GroupKey
    from topowatch_monitor.engine.view import RunView
    from topowatch_monitor.store.log import Record
    from topowatch_monitor.store.reader import LogReader

CHUNK_RECORDS = 1024
CHUNK_BYTES = 4 << 20
IN_FLIGHT = 2  # batches a carrier: one that it works on, one that waits
ATTEMPTS = 3  # to rebuild a carrier before the engine gives up and is started anew
SNAPSHOT_BYTES_PER_SECOND = 8 << 20  # share of the disk; 1,000 runs with full windows take about ten minutes
IDLE_SAVE_SECONDS = 0.25  # between two looks whether a snapshot is due


@dataclass(eq=False)
class _Virtual:
    """Where a virtual shard stands: who carries it, what it was handed, what is saved of it."""

    carrier: int
    epoch: int = 0
    next_offset: int = 0
    saved_offset: int = 0
    saved_at: float = 0.0
    unsaved: bool = False


@dataclass(frozen=True)
class _Flight:
    """A call that is under way, answered by an `ApplyResult`, and the first log offset that depends on it."""

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
        checkpoints: where shard states are kept.
        timeout: seconds after which a carrier that does not answer counts as lost.
        snapshot_seconds: time between two snapshots of a virtual shard that changes, at least.
    """

    def __init__(
        self,
        reader: LogReader,
        pool: ShardPool,
        checkpoints: Checkpoints,
        *,
        timeout: float = 120.0,
        snapshot_seconds: float = 60.0,
    ) -> None:
        self._reader = reader
        self._pool = pool
        self._checkpoints = checkpoints
        self._timeout = timeout
        self._snapshot_seconds = snapshot_seconds
        self._virtual = [_Virtual(carrier=number % pool.size) for number in range(VIRTUAL_SHARDS)]
        self._flights: list[deque[_Flight]] = [deque() for _ in range(pool.size)]
        self._views: dict[tuple[str, str, str], RunView] = {}
        self._published: dict[GroupKey, tuple[Any, dict[str, int]]] = {}
        self._forecasts: dict[GroupKey, Any] = {}
        self._waiting: set[int] = set()  # carriers with runs whose place among their siblings is still to be found
        self._next_save_at = 0.0
        self._durable = 0
        self.position = 0
        self._damaged = 0
        self.restarts = 0

    @property
    def applied(self) -> int:
        """Every record below this offset is part of the shards' state."""
        return min((flights[0].first_offset for flights in self._flights if flights), default=self.position)

    @property
    def lost_records(self) -> int:
        """Log records that could not be read, decoded or taken in, so far; rebuilding counts some again."""
        return self._reader.lost_records + self._damaged

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
            for carrier in [carrier for carrier in self._waiting if not self._flights[carrier]]:
                self._begin(carrier, self.position, "apply", [])
            return moved
        chunk = self._chunk(self.position, durable)
        for carrier in range(self._pool.size):
            self._wait_for_room(carrier)  # before grouping: a carrier that is rebuilt here changes epoch
        first, self.position = self.position, chunk.end
        for carrier, parts in self._parts(chunk).items():
            self._begin(carrier, first, "apply", parts)
        return True

    def settle(self) -> None:
        """Wait until nothing is under way."""
        while any(self._flights):
            self._collect(timeout=self._timeout)

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for a delivery to end; return whether any did."""
        return self._collect(timeout)

    def save_due(self, now: float) -> None:
        """Save the virtual shard that changed and was saved longest ago, if that is due.

        It is due after `snapshot_seconds`, and no sooner than the disk's share for snapshots allows.
        """
        if now < self._next_save_at:
            return
        due = [v for v in self._virtual if v.unsaved and now - v.saved_at >= self._snapshot_seconds]
        self._next_save_at = now + IDLE_SAVE_SECONDS
        if due:
            chosen = min(due, key=lambda virtual: virtual.saved_at)
            chosen.saved_at = now
            size = self._save(self._virtual.index(chosen))
            self._note_spans()
            self._next_save_at = now + size / SNAPSHOT_BYTES_PER_SECOND

    def save(self) -> None:
        """Save every virtual shard that changed."""
        unsaved = [number for number, virtual in enumerate(self._virtual) if virtual.unsaved]
        for number in unsaved:
            self._save(number)
        if unsaved:
            self._note_spans()

    # Groups

    def ask(self, method: str, *arguments: object) -> list[Call]:
        """Begin a method of every carrier's shard; what they answer is the caller's. One that is lost is rebuilt."""
        return [self._ask(carrier, method, *arguments) for carrier in range(self._pool.size)]

    def publish(self, group: GroupKey, fit: GroupFit, outside: Mapping[str, int]) -> None:
        """Give every carrier a refit of a group, and again to one that is rebuilt; see `Shard.publish`."""
        shared = self._pool.put(fit)
        self._published[group] = shared, dict(outside)
        for carrier in range(self._pool.size):
            self._begin(carrier, self.position, "publish", group, shared, outside)

    def stand(self, group: GroupKey, outside: Mapping[str, int]) -> None:
        """Tell every carrier for how long the live runs of a published group were outside; see `Shard.stand`."""
        self._published[group] = self._published[group][0], dict(outside)
        for carrier in range(self._pool.size):
            self._begin(carrier, self.position, "stand", group, outside)

    def publish_forecast(self, group: GroupKey, fit: ForecastFit) -> None:
        """Give every carrier what was learned from a group, and again to one that is rebuilt."""
        shared = self._forecasts[group] = self._pool.put(fit)
        for carrier in range(self._pool.size):
            self._begin(carrier, self.position, "publish_forecast", group, shared)

    def check(self) -> None:
        """Have every carrier answer, so that one that is lost is noticed and rebuilt though nothing is sent to it."""
        for carrier in range(self._pool.size):
            self._begin(carrier, self.position, "apply", [])

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

    def _begin(self, carrier: int, first_offset: int, method: str, *arguments: object) -> None:
        try:
            self._flights[carrier].append(_Flight(self._pool.call(carrier, method, *arguments), first_offset))
        except ShardLostError as error:
            self._rebuild(error)

    def _ask(self, carrier: int, method: str, *arguments: object) -> Call:
        try:
            return self._pool.call(carrier, method, *arguments)
        except ShardLostError as error:
            self._rebuild(error)
        return self._pool.call(carrier, method, *arguments)

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
        self._damaged += result.damaged
        self._remember(result.views)
        if result.waiting:
            self._waiting.add(carrier)
        else:
            self._waiting.discard(carrier)

    def _remember(self, views: Iterable[RunView]) -> None:
        for view in views:
            self._views[view["tenant"], view["group"], view["run"]] = view

    # Recovery

    def _load(self, carrier: int) -> None:
        """Fill a carrier's virtual shards from the newest snapshots; one that is of no use costs a replay from 0."""
        numbers = [number for number, _ in self._carried(carrier)]
        calls = [
            (number, self._load_one(number, checkpoint))
            for number, checkpoint in self._checkpoints.load(numbers, self._durable)
        ]
        for number, call in calls:
            if not self._pool.result(call, self._timeout):
                self._pool.result(self._load_one(number, EMPTY), self._timeout)
        self._remember(self._pool.result(self._pool.call(carrier, "views"), self._timeout))

    def _load_one(self, number: int, checkpoint: Checkpoint) -> Call:
        virtual = self._virtual[number]
        virtual.epoch += 1
        virtual.saved_offset, virtual.next_offset, state = checkpoint
        virtual.unsaved = False
        return self._pool.call(virtual.carrier, "load", number, virtual.epoch, virtual.next_offset, state)

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
                for group, (fit, outside) in self._published.items():  # before anybody sees its runs without a class
                    call = self._pool.call(carrier, "publish", group, fit, outside)
                    self._accept(carrier, self._pool.result(call, self._timeout))
                for group, learned in self._forecasts.items():
                    call = self._pool.call(carrier, "publish_forecast", group, learned)
                    self._accept(carrier, self._pool.result(call, self._timeout))
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

    def _save(self, number: int) -> int:
        """Save one virtual shard; return the bytes written."""
        virtual = self._virtual[number]
        try:
            call = self._pool.call(virtual.carrier, "snapshot", [number])
            [(_, offset, state)] = self._pool.result(call, self._timeout)
        except ShardLostError as error:
            self._rebuild(error)
            return 0
        if self._checkpoints.save(number, offset, state):
            virtual.saved_offset, virtual.unsaved = offset, False
        return len(state)

    def _note_spans(self) -> None:
        """Note how far the log holds nothing new for what is saved, so that a restart skips that span."""
        saved = {number: v.saved_offset for number, v in enumerate(self._virtual) if not v.unsaved}
        self._checkpoints.note_spans(self.position, saved)
