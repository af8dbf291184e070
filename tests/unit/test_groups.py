"""When groups are looked at, what comes of refits that fail, and what of a group outlives the engine."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import group_jobs
from group_runs import ATLAS_SECONDS, GROUP, Engine, ThreadJob, forgotten, key, named, opened, two_ways, went, whole
from group_views import path_class, run_view
from topowatch_monitor.engine.group_fit import EndedRun, GroupFit, fit_group
from topowatch_monitor.engine.group_state import NOT_YET, GroupState
from topowatch_monitor.engine.groups import LONGEST_PAUSE
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.placing import OUTSIDE_FOR
from topowatch_monitor.engine.pool import InlinePool
from topowatch_monitor.engine.routing import shard_of_key
from topowatch_monitor.engine.shard import Shard
from topowatch_monitor.engine.told import RunSettings
from topowatch_monitor.engine.view import FORGOTTEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SMALL = RunSettings(path=PathSettings(window=64, h1_every=100, h1_landmarks=8, shape_every=500))
OVER, UNDER = two_ways(16, 18)
SETTLED = named(OVER[:13], UNDER[:3])
LIVE, OTHER_WAY = OVER[14], UNDER[4]
FAR = LIVE[:1] + 3.0


def inline() -> InlinePool:
    return InlinePool(lambda: Shard(SMALL))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Make engines on one directory, one after the other; each ends the one before as a SIGKILL would."""
    made: list[Engine] = []

    def make(**options: Any) -> Engine:
        if made:
            made[-1].close()
        made.append(Engine(tmp_path, inline(), **options))
        return made[-1]

    yield make
    made[-1].close()


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are threads; see ThreadJob."""
    monkeypatch.setattr("topowatch_monitor.engine.pool.ChildJob", ThreadJob)


def jobs() -> list[Any]:
    """Jobs of this process that run: processes, or threads where they are `in_threads`."""
    threads = [thread for thread in threading.enumerate() if thread.name == ThreadJob.NAME]
    return threads + [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "topowatch_monitor.engine.child_job" in child.cmdline()
    ]


def test_a_group_is_compared_once_enough_runs_have_ended_and_everybody_is_told(engine):
    made = engine()
    made.write(whole(named(OVER[:11])) + opened("live") + went("live", OTHER_WAY))
    made.settle()
    told = made.told[GROUP]
    assert told["reason"] == "11 ended runs have a path of predictions: classes need at least 12"
    assert (told["ended"], told["live"], told["version"], told["fits"]) == (11, 1, 0, 0)
    assert not jobs()
    made.write(whole({"a11": OVER[11], "a12": OVER[12], **named([], UNDER[:3])}))
    made.settle()
    assert not jobs()
    made.turn(ATLAS_SECONDS)
    assert len(jobs()) == 1
    told = made.fitted()
    assert (told["ended"], told["live"], told["version"], told["fits"]) == (16, 1, 1, 1)
    assert (told["abstained"], told["reason"], told["fitted_at"]) == (False, "", 1e9)
    assert told["outliers"] == ["b00", "b01", "b02"]
    assert [each["label"] for each in told["classes"]] == [0, 1]
    assert made.runs["b00"]["path_class"]["outlier"] is True
    assert made.runs["a12"]["path_class"]["outlier"] is False
    assert made.runs["live"]["path_class"]["label"] == 1


@pytest.mark.usefixtures("in_threads")
def test_a_group_is_looked_at_when_it_changed_and_its_time_has_come_and_not_otherwise(engine):
    made = engine()
    made.write(whole(SETTLED))
    assert made.fitted()["fits"] == 1
    for _ in range(5):
        made.turn(2 * ATLAS_SECONDS)
    assert not jobs()
    made.write(whole({"a13": OVER[13]}))
    made.until(lambda: made.told[GROUP]["fits"] == 2)
    made.write(whole({"a14": OVER[14]}))
    made.turn(ATLAS_SECONDS / 2)
    assert not jobs()
    made.turn(ATLAS_SECONDS / 2)
    assert made.fitted(3)["ended"] == 18
    for _ in range(5):
        made.turn(2 * ATLAS_SECONDS)
    assert not jobs()


@pytest.mark.usefixtures("in_threads")
def test_a_run_that_goes_on_after_its_end_leaves_the_classes(engine):
    made = engine()
    made.write(whole(SETTLED))
    made.fitted()
    made.write(opened("b00", incarnation=2, start=2))
    made.turn(ATLAS_SECONDS)
    made.turn(ATLAS_SECONDS)
    assert not jobs()
    made.write(went("b00", UNDER[0][2:], start=2, incarnation=2))
    made.turn(ATLAS_SECONDS)
    made.turn(ATLAS_SECONDS)
    told = made.fitted(2)
    assert "b00" not in told["runs"]
    assert made.runs["b00"]["path_class"]["provisional"]


def test_groups_are_compared_one_at_a_time_in_the_order_in_which_they_changed(engine):
    made = engine(fit=group_jobs.refuse)
    for group in ("first", "second", "third"):
        made.write(whole(SETTLED, group=group))
        made.settle()
    seen: list[str] = []

    def all_refused() -> bool:
        assert len(jobs()) <= 1
        seen.extend(group for group, told in made.told.items() if told["refused"] and group not in seen)
        return len(seen) == 3

    made.until(all_refused)
    assert seen == ["first", "second", "third"]
    assert made.groups.refused == 3


def test_what_is_too_large_is_counted_and_not_tried_again_until_the_group_changes(engine, caplog):
    made = engine(fit=group_jobs.refuse)
    made.write(whole(SETTLED))
    made.until(lambda: made.groups.refused == 1)
    made.settle()
    assert made.told[GROUP]["refused"] == 1
    assert made.told[GROUP]["reason"] == "its latest comparison was too large: make it smaller"
    for _ in range(5):
        made.turn(2 * LONGEST_PAUSE)
    assert not jobs()
    assert "t/g: its latest comparison was too large" in caplog.text
    made.write(whole({"a13": OVER[13]}))
    made.until(lambda: made.groups.refused == 2)


def test_a_job_that_takes_too_long_is_ended_by_force_counted_and_tried_again_ever_later(engine, caplog):
    made = engine(fit=group_jobs.sleep, atlas_seconds=10.0, timeout_seconds=30.0)
    made.write(whole(SETTLED))
    made.settle()
    pauses = []
    for count in range(1, 11):
        [job] = jobs()
        made.turn(28.0)
        assert made.groups.timeouts == count - 1
        made.turn(2.0)
        assert made.groups.timeouts == count == made.told[GROUP]["timeouts"]
        assert not psutil.wait_procs([job], timeout=10)[1]
        began = made.now
        while not jobs():
            made.turn(max(5.0, 0.05 * (made.now - began)))
        pauses.append(made.now - began)
    expected = [min(10.0 * 2.0**count, LONGEST_PAUSE) for count in range(10)]
    assert all(least <= pause <= 1.1 * least + 5.0 for least, pause in zip(expected, pauses, strict=True))
    assert made.told[GROUP]["reason"] == "its latest comparison took over 30 s and was dropped"
    assert "not before 3600 s from now" in caplog.text


def test_after_thousands_of_failures_the_pause_is_no_longer(engine):
    made = engine(fit=group_jobs.refuse)
    made.write(whole(SETTLED))
    made.settle()
    made.groups._groups["t", GROUP].failures = 5000
    made.until(lambda: made.groups.refused == 1)


def test_a_job_whose_process_dies_is_begun_again(engine):
    made = engine(fit=group_jobs.sleep, atlas_seconds=10.0)
    made.write(whole(SETTLED))
    made.settle()
    [job] = jobs()
    job.kill()
    made.until(lambda: "was lost" in made.told[GROUP]["reason"])
    assert (made.groups.timeouts, made.groups.refused, made.told[GROUP]["fits"]) == (0, 0, 0)
    made.turn(10.0)
    [again] = jobs()
    assert again.pid != job.pid


def test_without_room_for_another_process_the_engine_goes_on(engine, monkeypatch):
    made = engine(fit=group_jobs.sleep, atlas_seconds=10.0)

    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("topowatch_monitor.engine.child_job.subprocess.Popen", full)
    made.write(whole(SETTLED))
    made.settle()
    assert "no process could be begun" in made.told[GROUP]["reason"]
    monkeypatch.undo()
    made.turn(10.0)
    assert len(jobs()) == 1


def test_a_job_that_fails_is_told_and_tried_again_later(engine, caplog):
    made = engine(fit=group_jobs.fail)
    made.write(whole(SETTLED))
    made.until(lambda: GROUP in made.told and "failed" in made.told[GROUP]["reason"])
    assert "ZeroDivisionError: of this one group" in made.told[GROUP]["reason"]
    assert "fault of topowatch" in caplog.text
    made.settle()
    assert not jobs()
    made.turn(ATLAS_SECONDS)
    assert len(jobs()) == 1


def test_a_later_success_clears_the_trouble_and_keeps_the_counts(engine):
    made = engine(fit=group_jobs.fail)
    made.write(whole(SETTLED))
    made.until(lambda: GROUP in made.told and "failed" in made.told[GROUP]["reason"])
    made.groups._fit = fit_group
    made.turn(ATLAS_SECONDS)
    assert made.fitted()["reason"] == ""
    assert made.groups._groups["t", GROUP].failures == 0


def holds_nothing(made: Engine) -> bool:
    """Whether engine and carriers have let everything go that groups leave."""
    shards = made.pool._shards.values()
    groups = made.groups
    known = [groups._groups, groups._due_at, groups._retry_at, groups._wanting, made.dispatcher._published]
    return not any(known) and not any(kept for shard in shards for kept in vars(shard._placing).values())


@pytest.mark.usefixtures("in_threads")
def test_a_group_goes_with_the_last_of_its_runs_and_one_of_its_name_begins_anew(engine):
    made = engine()
    made.write(whole(SETTLED) + opened("live") + went("live", OTHER_WAY))
    assert made.fitted()["outliers"] == ["b00", "b01", "b02"]
    made.write(forgotten(SETTLED))
    made.settle()
    assert not holds_nothing(made)
    made.write(forgotten(["live"]))
    made.told.clear()
    made.settle()
    assert holds_nothing(made)
    assert not made.told
    made.write(whole(named(UNDER[:13])))
    told = made.fitted()
    assert (told["version"], told["fits"], told["ended"], told["outliers"]) == (1, 1, 13, [])
    assert made.runs["a00"]["path_class"]["label"] == 0


def test_a_group_that_is_gone_is_told_of_no_more_though_the_log_is_not_followed_to_its_end(engine):
    """Its runs are forgotten elsewhere by then, and nobody would forget what is told of it."""
    made = engine()
    made.write(whole(named(OVER[:3])))
    made.settle()
    made.write(forgotten(named(OVER[:3])))
    made.told.clear()
    for _ in range(3):
        made.turn(ATLAS_SECONDS, caught_up=False)
        made.dispatcher.settle()
    assert made.groups._groups
    assert not made.told
    made.settle()
    assert holds_nothing(made)
    assert not made.told


def test_a_comparison_of_a_group_that_is_gone_is_ended(engine):
    made = engine(fit=group_jobs.hang)
    made.write(whole(SETTLED))
    made.until(jobs)
    [job] = jobs()
    made.write(forgotten(SETTLED))
    made.settle()
    assert holds_nothing(made)
    assert not psutil.wait_procs([job], timeout=10)[1]


@pytest.mark.usefixtures("in_threads")
def test_what_was_saved_of_a_group_that_is_gone_is_let_go_after_a_start(engine):
    made = engine()
    made.write(whole(SETTLED))
    made.fitted()
    made.write(forgotten(SETTLED))
    made.dispatcher.pump(made._log.next_offset)  # the groups do not hear of it any more
    made.dispatcher.settle()
    made.dispatcher.save()
    again = engine()
    assert again.groups._groups
    again.settle()
    assert holds_nothing(again)
    assert not again.told


@pytest.mark.usefixtures("in_threads")
def test_names_outlive_the_engine(engine):
    """After the restart the class that was the smaller one is the larger, and would be 0 if it were named anew."""
    made = engine()
    made.write(whole(SETTLED))
    assert made.fitted()["classes"][1] == {"label": 1, "majority": False, "members": ["b00", "b01", "b02"]}
    made.write(whole({f"c{number:02d}": path for number, path in enumerate(UNDER[5:18])}))
    again = engine()
    again.settle()
    assert (again.told[GROUP]["version"], again.told[GROUP]["reason"]) == (1, NOT_YET)
    told = again.fitted(2)
    assert [(each["label"], len(each["members"])) for each in told["classes"]] == [(1, 16), (0, 13)]
    assert (told["version"], told["fits"]) == (2, 2)
    assert again.runs["a00"]["path_class"]["label"] == 0
    assert again.runs["c00"]["path_class"]["label"] == 1


@pytest.mark.usefixtures("in_threads")
def test_how_long_runs_were_outside_outlives_the_engine(engine):
    made = engine()
    made.write(whole(SETTLED) + opened("live") + went("live", FAR))
    made.fitted()
    for count in range(OUTSIDE_FOR):
        made.write(went("live", FAR, start=count + 1))
        made.settle()
        made.turn(ATLAS_SECONDS)
        made.settle()
    assert made.runs["live"]["path_class"]["outlier"] is True
    again = engine()
    again.settle()
    assert again.told[GROUP]["outliers"] == ["live"]
    assert again.fitted(2)["outliers"] == ["b00", "b01", "b02", "live"]
    assert again.runs["live"]["path_class"]["outlier"] is True


def test_counts_of_what_was_given_up_outlive_the_engine(engine):
    made = engine(fit=group_jobs.refuse)
    made.write(whole(SETTLED))
    made.until(lambda: made.groups.refused == 1)
    again = engine(fit=group_jobs.sleep, timeout_seconds=5.0)
    again.settle()
    assert again.told[GROUP]["refused"] == 1
    assert again.groups.refused == 0
    again.turn(10.0)
    assert again.groups.timeouts == 1
    last = engine()
    last.settle()
    assert (last.told[GROUP]["refused"], last.told[GROUP]["timeouts"]) == (1, 1)


def test_an_engine_that_ends_leaves_no_job_behind(engine):
    made = engine(fit=group_jobs.sleep)
    made.write(whole(SETTLED))
    made.settle()
    [job] = jobs()
    made.groups.close()
    assert not psutil.wait_procs([job], timeout=10)[1]


@pytest.mark.usefixtures("in_threads")
def test_what_was_saved_and_cannot_be_used_costs_the_names_alone(engine, tmp_path, caplog):
    made = engine()
    made.write(whole(SETTLED))
    made.fitted()
    made.groups._checkpoints.save_groups(made.dispatcher.position, b"damaged")
    again = engine()
    assert "cannot be used" in caplog.text
    assert again.fitted()["version"] == 1


@pytest.mark.usefixtures("in_threads")
def test_a_carrier_that_is_rebuilt_tells_no_run_without_its_class(engine):
    made = engine()
    made.write(whole(SETTLED) + opened("live") + went("live", OTHER_WAY))
    made.fitted()
    before = {run: view["path_class"] for run, view in made.runs.items()}
    made.runs.clear()
    lose(made)
    made.turn()
    assert made.dispatcher.restarts == 1
    assert {run: view["path_class"] for run, view in made.runs.items() if run != "live"} == {
        run: place for run, place in before.items() if run != "live"
    }
    made.settle()
    assert made.runs["live"]["path_class"] == before["live"]
    made.write(went("live", FAR, start=len(OTHER_WAY)))
    made.settle()
    assert made.runs["live"]["path_class"]["distance"] > 1.0
    assert not jobs()


def lose(made: Engine) -> None:
    """Have the carrier's shard refuse its next part, as one does that was revived empty."""
    [carrier] = made.pool.carriers
    made.pool.call(carrier, "load", shard_of_key(key("live")), 0, 0, None)
    made.write(went("live", OTHER_WAY[-1:], start=len(OTHER_WAY) - 1))


@pytest.mark.usefixtures("in_threads")
def test_only_an_evaluation_with_new_samples_counts_a_run_as_outside(engine):
    made = engine()
    made.write(whole(SETTLED) + opened("live") + went("live", FAR) + opened("other") + went("other", LIVE[:1]))
    made.fitted()

    def evaluated(*runs: str) -> int:
        for run in runs:
            samples = made.runs[run]["samples"]
            made.write(went(run, FAR if run == "live" else LIVE[samples : samples + 1], start=samples))
        made.settle()
        made.turn(ATLAS_SECONDS)
        made.settle()
        return made.runs["live"]["path_class"]["outside"]

    assert evaluated("live") == 1
    assert evaluated("other") == 1
    assert evaluated("live", "other") == 2
    assert not made.runs["live"]["path_class"]["outlier"]
    assert evaluated("live") == 3
    assert made.runs["live"]["path_class"]["outlier"]
    assert made.told[GROUP]["outliers"] == ["b00", "b01", "b02", "live"]
    made.write(went("live", LIVE[5:6], start=50))
    assert evaluated("other") == 0
    assert made.told[GROUP]["outliers"] == ["b00", "b01", "b02"]


def seen(state: GroupState, run: str, *, ended: bool = True, samples: int = 10, **place: Any) -> None:
    changes = {"state": "ended" if ended else "live", "samples": samples, "representation": {}}
    state.see(run_view(run, GROUP, **changes, path_class=path_class(**place)))


def fit_that_saw(**samples: int) -> GroupFit:
    """A refit that was handed these runs and could compare none."""
    runs = [EndedRun(run, count, "", {}, {}, LIVE[:1]) for run, count in samples.items()]
    fit = fit_group({}, 0, runs)
    assert isinstance(fit, GroupFit)
    return fit


def test_a_run_that_the_shards_knew_of_before_its_view_came_is_not_compared_twice():
    state = GroupState(("", GROUP))
    seen(state, "a")
    state.take(fit_that_saw(a=10, b=10), state.ended, 0.0)
    assert not state.wants_refit
    seen(state, "b", ended=False, samples=9)
    assert not state.wants_refit
    seen(state, "b")
    assert not state.wants_refit
    seen(state, "b", samples=11)
    assert state.wants_refit


def test_a_run_whose_path_the_shards_have_lost_is_not_asked_for_for_ever():
    state = GroupState(("", GROUP))
    seen(state, "a")
    seen(state, "pathless")
    state.take(fit_that_saw(a=10), state.ended, 0.0)
    assert not state.wants_refit


def test_a_run_that_ended_outside_is_an_outlier_until_a_refit_has_looked_at_it():
    state = GroupState(("", GROUP))
    state.take(replace(fit_that_saw(a=10), atlas=object()), {}, 0.0)
    for count in range(OUTSIDE_FOR):
        seen(state, "live", ended=False, samples=11 + count, provisional=True)
        assert state.evaluate()
    seen(state, "live", samples=20, provisional=True)
    assert not state.evaluate()
    assert state.view()["outliers"] == ["live"]
    state.take(replace(fit_that_saw(a=10, live=20), atlas=object()), {}, 0.0)
    assert state.view()["outliers"] == []
    assert state.outside == {}


def test_a_run_of_the_name_of_a_forgotten_one_begins_anew_though_its_group_goes_on():
    state = GroupState(("", GROUP))
    for samples in range(10, 10 + OUTSIDE_FOR):
        seen(state, "nightly", ended=False, samples=samples, label=None, provisional=True, compatible=[], distance=1.0)
        state.evaluate()
    seen(state, "other")
    assert state.view()["outliers"] == ["nightly"]
    state.see(run_view("nightly", GROUP, state=FORGOTTEN))
    seen(state, "nightly", ended=False, samples=1)
    assert state.view()["outliers"] == []
    assert state.outside == {}
