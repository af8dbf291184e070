"""Shard carriers in this process that come, go, and die when the dice say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from topowatch_monitor.engine.pool import Call, ShardLostError, Standing

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

S = TypeVar("S")


class FlakyPool(Generic[S]):
    """Carriers that work when asked for results, and die when the dice say so, before or after they did the work.

    Args:
        make_shard: what each carries.
        size: how many there are to be.
        dice: decide.
        deaths: that may still come.
    """

    trouble = ""

    def __init__(self, make_shard: Callable[[], S], size: int, dice: random.Random, *, deaths: int = 0) -> None:
        self.make_shard = make_shard
        self.wanted = size
        self.dice = dice
        self.deaths = deaths
        self.rate = dice.choice([0.001, 0.01, 0.1])  # the larger, the likelier while something is made again as well
        self.shards: dict[int, S] = {}
        self.dead: set[int] = set()
        self.leaving: frozenset[int] = frozenset()
        self.under_way: dict[int, list[Call]] = {}
        self.most_under_way = 0
        self._begun = 0

    @property
    def carriers(self) -> Sequence[int]:
        return list(self.shards)

    def resize(self, size: int) -> None:
        """Have so many from now on: others are begun, or the first ones leave."""
        self.wanted = size
        staying = [carrier for carrier in self.shards if carrier not in self.leaving]
        self.leaving |= set(staying[: max(0, len(staying) - size)])

    def start(self) -> None:
        while not self.shards or len(self.shards) < self.wanted:
            self._begin()

    def tend(self) -> Standing:
        if len(self.shards.keys() - self.leaving) < self.wanted:
            self._begin()
        lost = {carrier: "out of reach" for carrier in self.dead & self.shards.keys() if self.dice.random() < 0.2}
        return Standing(self.leaving, lost)

    def call(self, carrier: int, method: str, *arguments: object) -> Call:
        self._maybe_die(carrier)
        if carrier in self.dead:
            raise ShardLostError(carrier, "dead")
        needs = next((argument.carrier for argument in arguments if isinstance(argument, Call)), None)
        call = Call(carrier, [method, arguments, None], needs)
        self.under_way[carrier].append(call)
        applies = [waiting for waiting in self.under_way[carrier] if waiting.handle[0] == "apply"]
        self.most_under_way = max(self.most_under_way, len(applies))
        return call

    def ready(self, calls: Sequence[Call], timeout: float) -> list[Call]:
        return [call for call in calls if self.dice.random() < 0.5 or timeout > 0]

    def result(self, call: Call, timeout: float) -> Any:
        self._run(call)
        answer = call.handle[2]
        if call.carrier in self.dead or answer is None:
            raise ShardLostError(call.carrier, "died")
        if isinstance(answer, ShardLostError):
            raise answer
        return answer

    def drop(self, carrier: int) -> None:
        del self.shards[carrier]
        self.dead.add(carrier)
        self.leaving -= {carrier}

    def put(self, value: object) -> object:
        return value

    def _begin(self) -> None:
        self.shards[self._begun] = self.make_shard()
        self.under_way[self._begun] = []
        self._begun += 1

    def _run(self, call: Call) -> None:
        """Work through what a carrier was asked, up to a call."""
        waiting = self.under_way[call.carrier]
        while call in waiting and call.carrier not in self.dead:
            first = waiting.pop(0)
            self._maybe_die(call.carrier)
            if call.carrier not in self.dead:
                first.handle[2] = self._answer(first)
            self._maybe_die(call.carrier)

    def _answer(self, call: Call) -> Any:
        method, arguments, _ = call.handle
        given = []
        for argument in arguments:
            if isinstance(argument, Call):
                try:
                    given.append(self.result(argument, 0.0))
                except ShardLostError as error:
                    return error
            else:
                given.append(argument)
        return getattr(self.shards[call.carrier], method)(*given)

    def _maybe_die(self, carrier: int) -> None:
        if self.deaths and self.dice.random() < self.rate:
            self.deaths -= 1
            self.dead.add(carrier)
