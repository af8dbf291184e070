"""Follows the log and keeps the shards at its end: routes records, moves and rebuilds shards, asks for snapshots.

Shard state is a pure function of (snapshot, log suffix), so whatever is lost is made again from the log. Every delivery
carries (epoch, expected offset, next offset): a shard that is not exactly there refuses it.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from topowatch_monitor.engine.balance import balanced
from topowatch_monitor.engine.checkpoints import EMPTY, Checkpoint, Checkpoints
from topowatch_monitor.engine.ledger import Flight, Virtual, deliveries, read_chunk
from topowatch_monitor.engine.pool import Call, ShardLostError, ShardPool
from topowatch_monitor.engine.routing import VIRTUAL_SHARDS
from topowatch_monitor.engine.saving import Saving

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from topowatch_monitor.engine.group_fit import GroupFit
    from topowatch_monitor.engine.group_forecast import ForecastFit
    from topowatch_monitor.engine.placing import GroupKey
    from topowatch_monitor.engine.shard import ApplyResult
    from topowatch_monitor.engine.view import RunView
    from topowatch_monitor.store.reader import LogReader

log = logging.getLogger("topowatch.engine")

IN_FLIGHT = 2  # batches a carrier: one that it works on, one that waits
ATTEMPTS = 3  # to begin with new carriers after all were lost, before the engine gives up and is started anew
MOVES_AT_ONCE = 8  # virtual shards that are being handed over, so that samples do not wait for long
LOADS_AT_ONCE = 16  # virtual shards whose snapshots are on their way


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
        self._virtual = [Virtual() for _ in range(VIRTUAL_SHARDS)]
        self._saving = Saving(self._virtual, pool, self._lose, checkpoints, seconds=snapshot_seconds, timeout=timeout)
        self._flights: dict[int, deque[Flight]] = {}  # by carrier, in the order in which they were begun
        self._serial = 0
        self._missing: set[int] = set()  # virtual shards that were lost and are not in place again
        self._level: list[int] | None = None  # the carriers among which all is balanced
        self._views: dict[tuple[str, str, str], RunView] = {}
        self._published: dict[tuple[str, GroupKey], tuple[Any, ...]] = {}  # arguments, by method and group
        self._waiting: set[int] = set()  # carriers with runs whose place among their siblings is still to be found
        self._durable = 0
        self.position = 0
        self._damaged = 0
        self.restarts = 0

    @property
    def applied(self) -> int:
        """Every record below this offset is part of the shards' state."""
        return min((flights[0].first_offset for flights in self._flights.values() if flights), default=self.position)

    @property
    def carriers(self) -> int:
        """How many carriers there are."""
        return len(self._flights)

    @property
    def trouble(self) -> str:
        """What keeps the carriers from carrying all that they should, in a sentence; empty if nothing does."""
        return self._pool.trouble

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
        self._missing = set(range(VIRTUAL_SHARDS))
        self._make_again()
        self.position = min(virtual.next_offset for virtual in self._virtual)

    def pump(self, durable: int) -> bool:
        """Deliver the next records below offset `durable`; return whether anything moved."""
        moved = self.wait(timeout=0.0)
        self._durable = max(self._durable, durable)
        if self.position >= durable:
            for carrier in [carrier for carrier in self._waiting if not self._flights[carrier]]:
                self._begin(carrier, "apply", [])
            return moved
        chunk = read_chunk(self._reader, self.position, durable)
        for carrier in list(self._flights):
            self._wait_for_room(carrier)  # before grouping: what is made again here changes epoch
        first, self.position = self.position, chunk.end
        for carrier, parts in deliveries(self._virtual, chunk).items():
            # What a carrier that is lost here had was made again up to where the chunk ends.
            fresh = [part for part in parts if part.epoch == self._virtual[part.vshard].epoch]
            self._begin(carrier, "apply", fresh, first_offset=first)
        return True

    def tend(self) -> bool:
        """Take in new carriers, give up lost and leaving ones, and hand on what that takes; return whether it did.

        Virtual shards pass from carrier to carrier by snapshot, a few at a time, while samples go on.
        """
        standing = self._pool.tend()
        for carrier, why in standing.lost.items():
            if carrier in self._flights:
                self._lose(ShardLostError(carrier, why))
        try:
            self._welcome()
        except ShardLostError as error:
            self._lose(error)
        staying = [carrier for carrier in self._flights if carrier not in standing.leaving] or list(self._flights)
        for carrier in self._flights.keys() - staying:
            if not self._flights[carrier] and not any(carrier in (one.carrier, one.origin) for one in self._virtual):
                self._dismiss(carrier)
        return staying != self._level and self._balance(staying)

    def settle(self) -> None:
        """Wait until nothing is under way; who does not answer in time is lost, and what it had is made again."""
        while waited_for := [carrier for carrier, flights in self._flights.items() if flights]:
            self._finish(waited_for[0])

    def wait(self, timeout: float) -> bool:
        """Take in every delivery that has ended, in order, and say whether any has; wait so many seconds for one."""
        ended = self._pool.ready([flights[0].call for flights in self._flights.values() if flights], timeout)
        for call in ended:
            flights = self._flights.get(call.carrier)
            if flights and flights[0].call is call:  # else it was taken in, or lost, with another one
                self._finish(call.carrier)
        return bool(ended)

    def save_due(self, now: float) -> None:
        """Save the virtual shard that changed and was saved longest ago, if that is due; see `Saving.due`."""
        self._saving.due(now, self.position)

    def save(self) -> None:
        """Save every virtual shard that changed."""
        self._saving.all(self.position)

    # Groups

    def ask(self, method: str, *arguments: object) -> list[Call]:
        """Begin a method of every carrier's shard; what they answer is the caller's."""
        try:
            return [self._pool.call(carrier, method, *arguments) for carrier in self._flights]
        except ShardLostError as error:
            self._lose(error)
        return self.ask(method, *arguments)  # its runs are with the others now

    def publish(self, group: GroupKey, fit: GroupFit, outside: Mapping[str, int]) -> None:
        """Give every carrier a refit of a group, and every one that comes later; see `Shard.publish`."""
        self._publish("publish", group, self._pool.put(fit), dict(outside))

    def stand(self, group: GroupKey, outside: Mapping[str, int]) -> None:
        """Tell every carrier for how long the live runs of a published group were outside; see `Shard.stand`."""
        fit, _ = self._published["publish", group]
        self._published["publish", group] = fit, dict(outside)
        self._begin_all("stand", group, outside)

    def publish_forecast(self, group: GroupKey, fit: ForecastFit) -> None:
        """Give every carrier what was learned from a group, and every one that comes later."""
        self._publish("publish_forecast", group, self._pool.put(fit))

    def forget_group(self, group: GroupKey) -> None:
        """Let everything go that was published of a group: it has no run any more."""
        for method in ("publish", "publish_forecast"):
            self._published.pop((method, group), None)
        self._begin_all("forget_group", group)

    def check(self) -> None:
        """Have every carrier answer, so that one that is lost is noticed though nothing is sent to it."""
        self._begin_all("apply", [])

    # Delivery

    def _publish(self, method: str, group: GroupKey, *arguments: object) -> None:
        self._published[method, group] = arguments
        self._begin_all(method, group, *arguments)

    def _begin_all(self, method: str, *arguments: object) -> None:
        for carrier in list(self._flights):
            self._begin(carrier, method, *arguments)

    def _begin(self, carrier: int, method: str, *arguments: object, first_offset: int | None = None) -> None:
        """Begin a method of a carrier's shard; of one that was lost since the caller chose it, nothing is asked."""
        try:
            if carrier in self._flights:
                self._fly(carrier, method, *arguments, first_offset=first_offset)
        except ShardLostError as error:
            self._lose(error)

    def _fly(
        self,
        carrier: int,
        method: str,
        *arguments: object,
        first_offset: int | None = None,
        receives: int | None = None,
    ) -> None:
        call = self._pool.call(carrier, method, *arguments)
        self._serial += 1
        offset = self.position if first_offset is None else first_offset
        self._flights[carrier].append(Flight(call, offset, self._serial, receives))

    def _wait_for_room(self, carrier: int) -> None:
        while len(self._flights.get(carrier, ())) >= IN_FLIGHT:
            self._finish(carrier)

    def _finish(self, carrier: int) -> None:
        """Take in the oldest delivery of a carrier, waiting for it."""
        try:
            self._take(carrier)
        except ShardLostError as error:
            self._lose(error)
        if self._missing:
            self._make_again()

    def _take(self, carrier: int) -> None:
        """As `_finish`; raises ShardLostError."""
        flight = self._flights[carrier].popleft()
        moved = None if flight.receives is None else self._virtual[flight.receives]
        if moved is not None and moved.origin is not None:
            self._take_all(moved.origin, before=flight.serial)  # what it says of these runs is older
        result = self._pool.result(flight.call, self._timeout)
        if flight.receives is not None and result.refused:  # another carrier would not take it either
            log.warning("virtual shard %d cannot be handed over: it is made again", flight.receives)
            self._missing.add(flight.receives)
        self._accept(carrier, result)
        if moved is not None:
            moved.origin = None

    def _take_all(self, carrier: int, before: int | None = None) -> None:
        """Take in all deliveries of a carrier, or those that were begun before one; raises ShardLostError."""
        flights = self._flights[carrier]
        while flights and (before is None or flights[0].serial < before):
            self._take(carrier)

    def _accept(self, carrier: int, result: ApplyResult) -> None:
        for number, epoch, offset in result.refused:
            if number not in self._missing:
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

    # Carriers that come and go

    def _welcome(self) -> None:
        """Give new carriers what was published, before they have runs, so that nobody sees these without a class.

        Raises ShardLostError.
        """
        for carrier in self._pool.carriers:
            if carrier in self._flights:
                continue
            self._flights[carrier] = deque()
            for (method, group), arguments in self._published.items():
                self._fly(carrier, method, group, *arguments)

    def _balance(self, staying: list[int]) -> bool:
        """Begin with the next moves, if any are needed and not too many under way; return whether it did."""
        wanted = balanced([virtual.carrier for virtual in self._virtual], staying)
        moves = [number for number, carrier in enumerate(wanted) if self._virtual[number].carrier != carrier]
        under_way = sum(virtual.origin is not None for virtual in self._virtual)
        if not moves and not under_way:
            self._level = staying
        begun = [number for number in moves if self._virtual[number].origin is None][: MOVES_AT_ONCE - under_way]
        try:
            for number in begun:
                self._hand_over(number, wanted[number])
        except ShardLostError as error:
            self._lose(error)
        return bool(begun)

    def _hand_over(self, number: int, carrier: int) -> None:
        """Have a virtual shard pass to another carrier, which gets all that is delivered from now on."""
        virtual = self._virtual[number]
        origin, epoch = virtual.carrier, virtual.epoch
        state = self._pool.call(origin, "snapshot", [number])
        virtual.carrier, virtual.origin, virtual.epoch = carrier, origin, epoch + 1
        self._fly(carrier, "receive", number, virtual.epoch, virtual.next_offset, state, receives=number)
        self._fly(origin, "drop", number, epoch)

    def _dismiss(self, carrier: int) -> None:
        """End a carrier, and forget it."""
        self._flights.pop(carrier, None)
        self._waiting.discard(carrier)
        self._pool.drop(carrier)

    # Recovery

    def _lose(self, error: ShardLostError) -> None:
        """Make again what a lost carrier had; nothing is to be done for one that was given up before."""
        if error.carrier in self._flights:
            self._give_up(error)
            self._make_again()

    def _give_up(self, error: ShardLostError) -> None:
        log.warning("%s: its runs are made again from snapshot and log", error)
        self.restarts += 1
        self._dismiss(error.carrier)
        for number, virtual in enumerate(self._virtual):
            if error.carrier in (virtual.carrier, virtual.origin):
                virtual.origin = None
                self._missing.add(number)

    def _make_again(self) -> None:
        """Put what is missing in place on the carriers that there are; new ones are begun where none is left.

        Raises:
            ShardLostError: all carriers were lost again and again.
            NoCarrierError: none could be begun.
        """
        begun = 0
        while self._missing:
            if not self._flights:
                begun += 1
                self._pool.start()
            try:
                self._welcome()
                for carrier in list(self._flights):
                    self._take_all(carrier)  # what was said before is older than what will be
                self._fill(sorted(self._missing))
            except ShardLostError as error:
                if error.carrier in self._flights:
                    self._give_up(error)
                if begun == ATTEMPTS and not self._flights:
                    raise
            else:
                self._missing.clear()
        self._level = None

    def _fill(self, numbers: list[int]) -> None:
        """Load virtual shards from the newest snapshots, and replay to where the others are; raises ShardLostError."""
        owners = [None if number in self._missing else one.carrier for number, one in enumerate(self._virtual)]
        chosen = balanced(owners, list(self._flights))
        for number in numbers:
            self._virtual[number].carrier = chosen[number]
        for carrier in self._flights:  # an attempt that came to nothing, or half a move, may have left copies
            kept = [number for number, one in enumerate(self._virtual) if one.carrier == carrier]
            self._pool.result(self._pool.call(carrier, "retain", kept), self._timeout)
        calls: deque[tuple[int, Call]] = deque()
        for number, checkpoint in self._checkpoints.load(numbers, self._durable):
            calls.append((number, self._load(number, checkpoint)))
            if len(calls) == LOADS_AT_ONCE:
                self._loaded(*calls.popleft())
        for call in calls:
            self._loaded(*call)
        self._replay(set(numbers))
        for carrier in self._flights:
            carried = [number for number in numbers if self._virtual[number].carrier == carrier]
            self._remember(self._pool.result(self._pool.call(carrier, "views", carried), self._timeout))

    def _load(self, number: int, checkpoint: Checkpoint) -> Call:
        virtual = self._virtual[number]
        virtual.epoch += 1
        virtual.saved_offset, virtual.next_offset, state = checkpoint
        virtual.unsaved = False
        return self._pool.call(virtual.carrier, "load", number, virtual.epoch, virtual.next_offset, state)

    def _loaded(self, number: int, call: Call) -> None:
        """Wait for a snapshot to be in place; one that is of no use costs a replay from 0."""
        if not self._pool.result(call, self._timeout):
            self._pool.result(self._load(number, EMPTY), self._timeout)

    def _replay(self, numbers: Collection[int]) -> None:
        position = min(self._virtual[number].next_offset for number in numbers)
        while position < self.position:
            chunk = read_chunk(self._reader, position, self.position)
            parts = deliveries(self._virtual, chunk, only=numbers)
            for carrier, call in [(carrier, self._pool.call(carrier, "apply", parts[carrier])) for carrier in parts]:
                self._accept(carrier, self._pool.result(call, self._timeout))
            position = chunk.end
