"""Close-ups: drawn when somebody looks, whatever happens to those who draw, and shared by all who wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import group_jobs
from group_runs import GROUP, TENANT, Engine, named, opened, two_ways, went, whole
from topowatch_monitor.engine.closeups import LOST, MOST_ASKED, CloseUps
from topowatch_monitor.engine.look import MOST_OF_TENANT, MOST_WAITING, Subject
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.pool import Call, InlinePool, ShardLostError
from topowatch_monitor.engine.shard import Shard
from topowatch_monitor.engine.told import RunSettings
from topowatch_monitor.export.closeups import FRESH_SECONDS, NotDrawnError, Viewer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = RunSettings(path=PathSettings(window=64, h1_every=100, h1_landmarks=8, shape_every=500))
OVER, UNDER = two_ways(3, 1)
MAP = Subject(TENANT, GROUP)


class Losing(InlinePool):
    """A pool whose carrier is lost while it is asked for what is drawn."""

    lost = False

    def result(self, call: Call, timeout: float) -> Any:
        if self.lost:
            self.lost = False
            raise ShardLostError(call.carrier, "planned")
        return super().result(call, timeout)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path, Losing(lambda: Shard(SMALL)))
    made.write(whole(named(OVER[:2], UNDER)) + opened("live") + went("live", OVER[2]))
    made.settle()
    yield made
    made.close()


def close_ups(engine: Engine, **how: Any) -> CloseUps:
    return CloseUps(engine.dispatcher, engine.pool, timeout=how.pop("timeout", 60.0), **how)


def answers(engine: Engine, drawn: CloseUps, now: float = 0.0) -> list[Any]:
    found: list[Any] = []

    def look() -> bool:
        drawn.tick(now, caught_up=True)
        found.extend(drawn.take_answers())
        return bool(found)

    engine.until(look)
    return found


def test_a_map_is_of_all_runs_with_a_path_live_ones_first(engine):
    drawn = close_ups(engine)
    drawn.want([MAP, MAP])
    [told] = answers(engine, drawn)
    assert (told["subject"], told["problem"]) == ([TENANT, GROUP, ""], "")
    assert [path["run"] for path in told["answer"]["paths"]] == ["live", "a00", "a01", "b00"]
    assert {path["run"]: path["steps"][-1] for path in told["answer"]["paths"]}["live"] == len(OVER[2]) - 1


def test_a_run_is_drawn_at_once_and_one_that_is_gone_is_nothing(engine):
    drawn = close_ups(engine)
    drawn.want([Subject(TENANT, GROUP, "live"), Subject(TENANT, GROUP, "nobody")])
    told = {each["subject"][2]: each["answer"] for each in answers(engine, drawn)}
    drawn.tick(0.0, caught_up=True)
    told |= {each["subject"][2]: each["answer"] for each in drawn.take_answers()}
    assert told["live"]["predictions"]["points"] == min(64, len(OVER[2]))
    assert told["live"]["weights"] is None
    assert told["nobody"] is None


def test_nothing_is_drawn_before_the_log_has_been_followed(engine):
    drawn = close_ups(engine)
    drawn.want([Subject(TENANT, GROUP, "live")])
    for _ in range(3):
        drawn.tick(0.0, caught_up=False)
    assert not drawn.take_answers()
    assert answers(engine, drawn)


def test_a_carrier_that_is_lost_meanwhile_is_rebuilt_and_the_answer_says_so(engine):
    drawn = close_ups(engine)
    drawn.want([Subject(TENANT, GROUP, "live")])
    drawn.tick(0.0, caught_up=True)
    engine.pool.lost = True
    [told] = answers(engine, drawn)
    assert (told["answer"], told["problem"]) == (None, LOST)
    drawn.want([Subject(TENANT, GROUP, "live")])
    [again] = answers(engine, drawn)
    assert again["answer"]["predictions"]["points"]


def test_a_carrier_that_answers_no_more_keeps_nobody_waiting_for_ever(engine, monkeypatch):
    drawn = close_ups(engine, timeout=5.0)
    monkeypatch.setattr(engine.pool, "ready", lambda calls, timeout: [])
    drawn.want([Subject(TENANT, GROUP, "live")])
    drawn.tick(0.0, caught_up=True)
    drawn.tick(4.0, caught_up=True)
    assert not drawn.take_answers()
    drawn.tick(5.0, caught_up=True)
    [told] = drawn.take_answers()
    assert (told["answer"], told["problem"]) == (None, LOST)
    assert not drawn.busy


@pytest.mark.parametrize(("job", "said"), [(group_jobs.fail, "a fault of topowatch"), (group_jobs.kill_itself, LOST)])
def test_a_map_that_comes_to_nothing_is_answered_with_why(engine, job, said):
    drawn = close_ups(engine, draw=job)
    drawn.want([MAP])
    [told] = answers(engine, drawn)
    assert told["answer"] is None
    assert said in told["problem"]


def test_a_map_that_takes_too_long_is_dropped(engine):
    drawn = close_ups(engine, draw=group_jobs.sleep, timeout=5.0)
    drawn.want([MAP])
    drawn.tick(0.0, caught_up=True)
    [told] = answers(engine, drawn, now=6.0)
    assert "took over 5 s" in told["problem"]


def test_what_waits_is_bounded(engine):
    drawn = close_ups(engine)
    drawn.want(Subject(TENANT, f"g{number}") for number in range(MOST_WAITING + 50))
    assert len(drawn._waiting) == MOST_OF_TENANT
    drawn.want(Subject(f"t{number}", "g") for number in range(MOST_WAITING + 50))
    assert len(drawn._waiting) == MOST_WAITING


def test_few_runs_are_asked_for_at_a_time_and_all_of_them_are_answered(engine):
    drawn = close_ups(engine)
    drawn.want(Subject(TENANT, GROUP, f"r{number}") for number in range(MOST_ASKED + 3))
    drawn.tick(0.0, caught_up=True)
    assert drawn.busy
    assert len(drawn._asked) == MOST_ASKED
    drawn.tick(0.0, caught_up=True)
    drawn.tick(0.0, caught_up=True)
    assert not drawn.busy
    assert len(drawn.take_answers()) == MOST_ASKED + 3


def test_a_run_whose_drawing_fails_ends_nothing_and_the_answer_says_so(engine, monkeypatch):
    def fail(_: Any) -> None:
        raise ZeroDivisionError("planned")

    monkeypatch.setattr("topowatch_monitor.engine.shard.run_shape", fail)
    drawn = close_ups(engine)
    drawn.want([Subject(TENANT, GROUP, "live")])
    [told] = answers(engine, drawn)
    assert told["answer"] is None
    assert "ZeroDivisionError: planned" in told["problem"]


def test_tenants_take_turns_so_that_nobody_waits_for_all_that_another_one_looks_at(engine):
    drawn = close_ups(engine, draw=group_jobs.fail)
    wanted = [
        *(Subject(tenant, f"g{number}") for tenant in ("many", "more") for number in range(2)),
        Subject("few", "g"),
    ]
    drawn.want(wanted)
    found: list[Any] = []
    while len(found) < len(wanted):
        found += answers(engine, drawn)
    assert [Subject(*each["subject"]) for each in found] == [wanted[number] for number in (0, 2, 4, 1, 3)]


# The front's side


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(subject: Subject, answer: Any, problem: str = "") -> Any:
    return {"subject": list(subject), "answer": answer, "problem": problem}


def test_all_who_wait_share_one_drawing_and_it_is_good_for_some_seconds():
    asked: list[Subject] = []
    clock = Clock()
    viewer = Viewer(asked.append, clock)

    async def look() -> list[Any]:
        both = asyncio.gather(viewer.at(MAP), viewer.at(MAP))
        await asyncio.sleep(0)
        viewer.take([told(MAP, {"paths": []})])
        return [*await both, await viewer.at(MAP)]

    assert asyncio.run(look()) == [{"paths": []}] * 3
    assert asked == [MAP]
    clock.now += FRESH_SECONDS

    async def again() -> Any:
        coming = asyncio.ensure_future(viewer.at(MAP))
        await asyncio.sleep(0)
        viewer.take([told(MAP, "newer")])
        return await coming

    assert asyncio.run(again()) == "newer"
    assert asked == [MAP, MAP]


def test_an_engine_that_does_not_answer_is_told_and_its_late_answer_counts(monkeypatch):
    monkeypatch.setattr("topowatch_monitor.export.closeups.PATIENCE_SECONDS", 0.01)
    asked: list[Subject] = []
    viewer = Viewer(asked.append, Clock())

    async def look() -> Any:
        with pytest.raises(NotDrawnError, match="busy or starting"):
            await viewer.at(MAP)
        viewer.take([told(MAP, "late")])
        return await viewer.at(MAP)

    assert asyncio.run(look()) == "late"
    assert asked == [MAP]


def test_who_gave_up_does_not_take_the_drawing_from_those_who_came_later(monkeypatch):
    monkeypatch.setattr("topowatch_monitor.export.closeups.PATIENCE_SECONDS", 0.2)
    viewer = Viewer(lambda _: None, Clock())

    async def look() -> Any:
        first = asyncio.ensure_future(viewer.at(MAP))
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(viewer.at(MAP))  # waits for the same drawing
        with pytest.raises(NotDrawnError):
            await first
        third = asyncio.ensure_future(viewer.at(MAP))
        with pytest.raises(NotDrawnError):
            await second
        viewer.take([told(MAP, "drawn")])
        return await third

    assert asyncio.run(look()) == "drawn"


def test_one_tenant_leaves_room_for_others(monkeypatch):
    monkeypatch.setattr("topowatch_monitor.export.closeups.PATIENCE_SECONDS", 0.2)
    asked: list[Subject] = []
    viewer = Viewer(asked.append, Clock())
    theirs = [Subject("many", f"g{number}") for number in range(MOST_OF_TENANT)]

    async def look() -> None:
        waiting = asyncio.gather(*map(viewer.at, theirs), return_exceptions=True)
        await asyncio.sleep(0)
        with pytest.raises(NotDrawnError, match="too much"):
            await viewer.at(Subject("many", "g"))
        coming = asyncio.ensure_future(viewer.at(MAP))
        await asyncio.sleep(0)
        viewer.take([told(MAP, "drawn")])
        assert await coming == "drawn"
        await waiting

    asyncio.run(look())
    assert asked == [*theirs, MAP]


def test_a_problem_of_the_engine_is_passed_on_and_forgotten_with_the_rest():
    clock = Clock()
    viewer = Viewer(lambda _: None, clock)
    viewer.take([told(MAP, None, "why not")])

    async def look() -> None:
        with pytest.raises(NotDrawnError, match="why not"):
            await viewer.at(MAP)

    asyncio.run(look())
    clock.now += FRESH_SECONDS
    viewer.take([])
    assert not viewer._kept
