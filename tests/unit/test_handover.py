"""Virtual shards that pass from carrier to carrier, or are lost on the way, are what one carrier would have made."""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flaky_pool import FlakyPool
from group_runs import GROUP, TENANT, ended, handed_out, named, opened, two_ways, went, whole
from memory_store import MemoryLog, MemorySnapshots
from topowatch_monitor.engine.checkpoints import Checkpoints
from topowatch_monitor.engine.dispatcher import ATTEMPTS, Dispatcher
from topowatch_monitor.engine.group_fit import GroupFit, fit_group
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.placing import TO_COME
from topowatch_monitor.engine.pool import InlinePool
from topowatch_monitor.engine.routing import VIRTUAL_SHARDS
from topowatch_monitor.engine.shard import Part, Shard
from topowatch_monitor.engine.told import RunSettings

if TYPE_CHECKING:
    from topowatch_monitor.engine.pool import ShardPool
    from topowatch_monitor.engine.view import RunView

SMALL = RunSettings(path=PathSettings(window=32, h1_every=100, h1_landmarks=8, shape_every=500))
OVER, UNDER = two_ways(16, 8)
SETTLED = named(OVER[:13], UNDER[:3])
ENDED = {run: SETTLED[run] for run in ("a00", "b00")}  # those of them that are in the log
LIVE = {"live-over": OVER[14], "live-under": UNDER[4], "live-too": UNDER[5], "late": OVER[15]}


@cache
def siblings() -> GroupFit:
    """What a comparison of the ended runs finds."""
    fit = fit_group({}, 1, handed_out(SETTLED))
    assert isinstance(fit, GroupFit)
    return fit


def records(dice: random.Random) -> MemoryLog:
    """Ended runs, then live ones side by side, one of which rolls back and one ends."""
    waiting = [opened(run) + went(run, path) for run, path in LIVE.items()]
    waiting[0] += opened("live-over", incarnation=2, start=9) + went("live-over", OVER[14][9:], start=9, incarnation=2)
    waiting[1] += ended("live-under", acc=0.5)
    live = []
    while any(waiting):
        chosen = dice.choice([run for run in waiting if run])
        live.append(chosen.pop(0))
    return MemoryLog(whole(ENDED) + live)


class Followed:
    """A dispatcher over a log, and all that it has told."""

    def __init__(self, log: MemoryLog, pool: ShardPool) -> None:
        self.log = log
        self.pool = pool
        self.dispatcher = Dispatcher(log, pool, Checkpoints(MemorySnapshots()))
        self.told: list[RunView] = []
        self.dispatcher.restore(durable=0)

    def listen(self) -> None:
        self.told += self.dispatcher.take_views()

    def publish(self) -> None:
        self.dispatcher.publish((TENANT, GROUP), siblings(), {"live-too": 1})
        self.dispatcher.stand((TENANT, GROUP), {"live-too": 4})

    def settle(self) -> None:
        """Until all is applied, handed over and placed."""
        self.dispatcher.check()
        quiet = 0
        while quiet < 10:
            self.dispatcher.pump(len(self.log.records))
            quiet = 0 if self.dispatcher.tend() else quiet + 1
            self.dispatcher.settle()
        self.listen()

    def newest(self) -> dict[str, RunView]:
        """What was told of each run last."""
        return {view["run"]: view for view in self.told}

    def states(self) -> dict[int, bytes]:
        """Of all virtual shards, wherever they are."""
        found: list[tuple[int, int, bytes]] = []
        for carrier in self.pool.carriers:
            numbers = [
                number for number in range(VIRTUAL_SHARDS) if self.dispatcher._virtual[number].carrier == carrier
            ]
            found += self.pool.result(self.pool.call(carrier, "snapshot", numbers), 1.0)
        assert len(found) == VIRTUAL_SHARDS
        return {number: state for number, _, state in found}

    def views(self) -> dict[str, RunView]:
        """Of all runs, wherever they are."""
        calls = [self.pool.call(carrier, "views") for carrier in self.pool.carriers]
        found = [view for call in calls for view in self.pool.result(call, 1.0)]
        assert len({view["run"] for view in found}) == len(found), "a run is with two carriers"
        return {view["run"]: view for view in found}


@cache
def undisturbed(seed: int) -> tuple[dict[str, str], dict[int, bytes]]:
    """Views, as text, and states that one carrier makes of the log of a seed."""
    alone = Followed(records(random.Random(seed)), InlinePool(lambda: Shard(SMALL)))
    alone.dispatcher.pump(len(alone.log.records))
    alone.publish()
    alone.settle()
    assert alone.views()["late"]["path_class"]["label"] == 1
    return told_of(alone.views()), alone.states()


def told_of(views: dict[str, RunView]) -> dict[str, str]:
    """Views as text, in which NaN is equal to itself."""
    return {run: repr(sorted(view.items())) for run, view in views.items()}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 3), turns=st.integers(0, 2**32 - 1), deaths=st.integers(0, ATTEMPTS - 1))
def test_shards_that_move_and_die_are_what_one_undisturbed_carrier_makes(seed: int, turns: int, deaths: int) -> None:
    dice = random.Random(turns)
    pool = FlakyPool(lambda: Shard(SMALL), dice.randrange(1, 4), dice)
    followed = Followed(records(random.Random(seed)), pool)
    pool.deaths = deaths
    durable, now = 0, 0.0
    published = dice.randrange(len(followed.log.records))
    while followed.dispatcher.position < len(followed.log.records):
        before, durable = durable, min(len(followed.log.records), durable + dice.randrange(120))
        followed.dispatcher.pump(durable)
        if before <= published < durable:
            followed.publish()
        if dice.random() < 0.3:
            followed.dispatcher.save_due(now := now + dice.uniform(0, 100))
        if dice.random() < 0.2:
            pool.resize(dice.randrange(1, 5))
        for _ in range(dice.randrange(4)):
            followed.dispatcher.tend()
        if dice.random() < 0.5:
            followed.listen()
    pool.deaths = 0
    followed.settle()
    views, states = undisturbed(seed)
    assert told_of(followed.views()) == views
    assert told_of(followed.newest()) == views
    assert followed.states() == states


@settings(max_examples=8, deadline=None)
@given(turns=st.integers(0, 2**32 - 1))
def test_nobody_sees_a_run_without_its_class_while_it_is_handed_over(turns: int) -> None:
    dice = random.Random(turns)
    pool = FlakyPool(lambda: Shard(SMALL), 2, dice)
    followed = Followed(records(dice), pool)
    half = len(whole(ENDED)) + 80
    while followed.dispatcher.pump(half):
        pass
    followed.publish()
    for _ in range(20):
        followed.dispatcher.pump(half)
        followed.dispatcher.settle()
    followed.told.clear()
    followed.listen()
    followed.told.clear()
    durable = half
    while followed.dispatcher.position < len(followed.log.records):
        pool.resize(dice.randrange(1, 4))
        durable = min(len(followed.log.records), durable + 5)
        followed.dispatcher.pump(durable)
        followed.dispatcher.tend()
        followed.listen()
    followed.settle()
    assert followed.told
    assert TO_COME not in {view["path_class"]["reason"] for view in followed.told}


def test_a_carrier_refuses_what_still_comes_for_a_shard_that_it_handed_over() -> None:
    old, new = Shard(SMALL), Shard(SMALL)
    assert old.load(3, 1, 0, None)
    state: Any = old.snapshot([3])
    assert new.receive(3, 2, 0, state).refused == []
    assert old.drop(3, 2).refused == []
    assert old.snapshot([3]), "what was put in place there anew stays"
    old.drop(3, 1)
    assert old.apply([Part(3, 1, 0, 5, [])]).refused == [(3, -1, -1)]
    assert new.apply([Part(3, 1, 0, 5, [])]).refused == [(3, 2, 0)]
    assert new.apply([Part(3, 2, 0, 5, [])]).refused == []


def test_a_state_of_another_offset_than_agreed_is_refused() -> None:
    old, new = Shard(SMALL), Shard(SMALL)
    assert old.load(3, 1, 7, None)
    assert new.receive(3, 2, 8, old.snapshot([3])).refused == [(3, -1, 7)]
    assert new.apply([Part(3, 2, 8, 9, [])]).refused == [(3, -1, -1)]
