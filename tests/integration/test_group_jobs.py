"""Jobs beside the shards, in child processes and on a real Ray: their ends, good and bad, and that shards go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import group_jobs
from group_runs import GROUP, TENANT, Engine, named, opened, two_ways, went, whole
from harness import eventually
from topowatch_monitor.engine.child_job import NICER
from topowatch_monitor.engine.closeups import CloseUps
from topowatch_monitor.engine.look import Subject
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.pool import InlinePool, Job, JobFailedError, JobLostError
from topowatch_monitor.engine.ray_pool import RayPool
from topowatch_monitor.engine.shard import Shard
from topowatch_monitor.engine.told import RunSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from topowatch_monitor.engine.pool import ShardPool

SMALL = RunSettings(path=PathSettings(window=64, h1_every=100, h1_landmarks=8, shape_every=500))
OVER, UNDER = two_ways(16, 5)
SETTLED = named(OVER[:13], UNDER[:3])
PATIENCE = 200.0  # seconds; jobs yield to everything else on the machine
# What a job's process is called: Ray names it after the function that it runs.
JOB_PROCESSES = ("ray::_yielding", "topowatch_monitor.engine.child_job")


@pytest.fixture(scope="module", params=["inline", pytest.param("ray", marks=pytest.mark.xdist_group("ray"))])
def shared_pool(request: pytest.FixtureRequest) -> Iterator[ShardPool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(group_jobs.HERE), prepend=os.pathsep)  # where Ray's processes find the jobs
        made: ShardPool = InlinePool(lambda: Shard(SMALL)) if request.param == "inline" else RayPool(2, SMALL)
        made.start()
        yield made
        made.close()


@pytest.fixture
def pool(shared_pool: ShardPool) -> ShardPool:
    """The pool with new shards, for tests that use them."""
    for carrier in shared_pool.carriers:
        shared_pool.drop(carrier)
    shared_pool.start()
    return shared_pool


def processes(*names: str) -> list[psutil.Process]:
    """Processes below this one that run and are called so."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            told = child.cmdline()
            alive = child.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            continue
        if alive and any(part.startswith(names) for part in told):
            found.append(child)
    return found


def job_process() -> psutil.Process:
    return eventually(lambda: len(found := processes(*JOB_PROCESSES)) == 1 and found)[0]


def in_ripser(job: psutil.Process) -> bool:
    """Whether a process has loaded Ripser's C code, the last of what `group_jobs.hang` imports."""
    return any("pyRipser" in part.path for part in job.memory_maps())


def ends(pool: ShardPool, job: Job) -> Any:
    eventually(lambda: pool.ended(job), every=0.01)
    return pool.outcome(job)


def test_a_job_gets_values_what_was_put_and_what_calls_return(shared_pool: ShardPool) -> None:
    calls = [shared_pool.call(carrier, "ended_runs", ("t", "g"), 8) for carrier in shared_pool.carriers]
    assert ends(shared_pool, shared_pool.submit(group_jobs.total, 1, [2, 3], shared_pool.put([4]), *calls)) == 10


def test_a_job_that_raises_is_told_apart_from_one_that_was_lost(shared_pool: ShardPool) -> None:
    with pytest.raises(JobFailedError, match="ZeroDivisionError: of this one group"):
        ends(shared_pool, shared_pool.submit(group_jobs.fail, 1))
    job = shared_pool.submit(group_jobs.sleep)
    job_process().kill()
    with pytest.raises(JobLostError):
        ends(shared_pool, job)


def test_an_answer_that_was_cut_off_is_a_lost_job(shared_pool: ShardPool) -> None:
    """The process dies as its answer, too large for a pipe, is on its way."""
    with pytest.raises(JobLostError):
        ends(shared_pool, shared_pool.submit(group_jobs.die_answering))


def test_a_job_yields_to_everything_else_and_leaves_shards_alone(shared_pool: ShardPool) -> None:
    job = shared_pool.submit(group_jobs.priority)
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert ends(shared_pool, job) == ours + NICER
    assert os.getpriority(os.PRIO_PROCESS, 0) == ours
    for carrier in shared_pool.carriers:
        shared_pool.drop(carrier)
    shared_pool.start()  # in processes of their own, not in the job's
    for carrier in shared_pool.carriers:
        assert shared_pool.result(shared_pool.call(carrier, "views"), 120.0) == []
    assert all(shard.nice() == ours for shard in processes("ray::Shard"))


def test_a_job_that_needs_a_carrier_that_died_is_lost_and_may_be_begun_again(pool: ShardPool) -> None:
    if len(pool.carriers) == 1:
        pytest.skip("the one shard of this pool lives in this process")
    for call in [pool.call(carrier, "views") for carrier in pool.carriers]:
        pool.result(call, 120.0)  # the new shards are there; the old ones may still be dying
    for process in eventually(lambda: len(found := processes("ray::Shard")) == len(pool.carriers) and found):
        process.kill()
    gone = eventually(lambda: not processes("ray::Shard"))
    assert gone
    with pytest.raises(JobLostError):
        ends(pool, pool.submit(group_jobs.total, pool.call(pool.carriers[0], "views")))


def test_noise_that_hangs_ripser_ends_in_a_counted_time_out_while_samples_are_applied(
    pool: ShardPool, tmp_path: Path
) -> None:
    """179 points in 100 dimensions keep Ripser busy for hours in C code that never lets a signal handler run."""
    engine = Engine(tmp_path, pool, fit=group_jobs.hang, timeout_seconds=1000.0)
    engine.write(whole(SETTLED) + opened("live"))
    engine.settle()
    job = job_process()
    eventually(lambda: in_ripser(job), within=PATIENCE)
    for step in range(40):
        engine.write(went("live", OVER[14][step % 20 : step % 20 + 1], start=step))
        engine.until(lambda step=step: engine.runs["live"]["samples"] == step + 1)
    assert job.is_running()
    assert engine.groups.timeouts == 0
    engine.turn(1000.0)
    assert engine.groups.timeouts == 1
    assert engine.told[GROUP]["timeouts"] == 1
    assert "took over 1000 s and was dropped" in engine.told[GROUP]["reason"]
    assert not psutil.wait_procs([job], timeout=30)[1]
    engine.write(went("live", OVER[14][:1], start=40))
    engine.until(lambda: engine.runs["live"]["samples"] == 41)
    assert engine.dispatcher.restarts == 0
    engine.close()


def test_a_refit_whose_process_is_killed_is_done_again(pool: ShardPool, tmp_path: Path) -> None:
    engine = Engine(tmp_path, pool)
    engine.write(whole(SETTLED) + opened("live") + went("live", UNDER[4]))
    engine.settle()
    job_process().kill()
    engine.until(lambda: "was lost" in engine.told[GROUP]["reason"])
    engine.turn(4000.0)
    told = engine.fitted()
    assert (told["outliers"], told["timeouts"], told["fits"]) == (["b00", "b01", "b02"], 0, 1)
    engine.until(lambda: engine.runs["live"]["path_class"]["label"] == 1)
    engine.close()


@pytest.mark.slow
def test_carriers_that_die_during_a_refit_get_it_all_the_same(pool: ShardPool, tmp_path: Path) -> None:
    """What was handed out before their death counts, and the rebuilt ones are given what was found."""
    if len(pool.carriers) == 1:
        pytest.skip("the one shard of this pool lives in this process")
    engine = Engine(tmp_path, pool)
    engine.write(whole(SETTLED) + opened("live") + went("live", UNDER[4]))
    engine.settle()
    job_process()
    for process in eventually(lambda: len(found := processes("ray::Shard")) == 2 and found):
        process.kill()
    engine.write(went("live", UNDER[4][-1:], start=len(UNDER[4])))
    engine.until(lambda: engine.told[GROUP]["fits"] or engine.told[GROUP]["reason"].startswith("its latest"))
    engine.turn(4000.0)
    assert engine.fitted()["outliers"] == ["b00", "b01", "b02"]
    assert engine.dispatcher.restarts >= 2
    engine.until(lambda: engine.runs["live"]["path_class"]["label"] == 1)
    assert engine.runs["live"]["samples"] == len(UNDER[4]) + 1
    for process in processes("ray::Shard"):
        process.kill()
    engine.runs.clear()
    engine.dispatcher.check()
    engine.until(lambda: engine.runs.get("live", {"path_class": {"label": None}})["path_class"]["label"] == 1)
    assert engine.runs["b00"]["path_class"]["outlier"] is True
    assert engine.told[GROUP]["fits"] == 1
    engine.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a process that was killed")
def test_a_job_ends_with_the_process_that_began_it_however_that_dies() -> None:
    """An inline daemon that gets a SIGKILL leaves nothing behind that computes on."""
    begin = "import group_jobs, sys, time; from topowatch_monitor.engine.child_job import ChildJob; "
    begin += "print(ChildJob(group_jobs.hang, ()).process, flush=True); time.sleep(3600)"
    paths = os.pathsep.join([str(group_jobs.HERE), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "-c", begin], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert parent.stdout is not None
    job = psutil.Process(int(parent.stdout.readline()))
    eventually(lambda: in_ripser(job), within=PATIENCE)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE)


def test_a_group_and_a_run_are_drawn_wherever_their_runs_are(pool: ShardPool, tmp_path: Path) -> None:
    engine = Engine(tmp_path, pool)
    try:
        engine.write(whole(named(OVER[:6])) + opened("live") + went("live", OVER[6]))
        engine.settle()
        drawn = CloseUps(engine.dispatcher, pool, timeout=PATIENCE)
        drawn.want([Subject(TENANT, GROUP), Subject(TENANT, GROUP, "live"), Subject(TENANT, GROUP, "a03")])
        told: list[Any] = []

        def answered() -> bool:
            drawn.tick(0.0, caught_up=True)
            told.extend(drawn.take_answers())
            return len(told) == 3

        engine.until(answered, within=PATIENCE)
    finally:
        engine.close()
    answers = {each["subject"][2]: each["answer"] for each in told}
    assert [path["run"] for path in answers[""]["paths"]] == ["live", *(f"a{number:02d}" for number in range(6))]
    assert answers["live"]["predictions"]["points"] == min(64, len(OVER[6]))
    assert answers["a03"]["predictions"]["points"] == min(64, len(OVER[3]))


def test_an_actor_that_hangs_is_told_of_as_lost_though_nothing_else_is_asked_of_it(
    pool: ShardPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(pool, InlinePool):
        pytest.skip("it has no actors")
    monkeypatch.setattr("topowatch_monitor.engine.ray_pool.ANSWER_SECONDS", 2.0)
    assert pool.tend().lost == {}
    carriers = list(pool.carriers)
    actors = processes("ray::Shard")
    for actor in actors:
        actor.suspend()
    time.sleep(3.0)
    assert pool.tend().lost == {}, "nothing was asked of them"
    pool.call(carriers[0], "views")
    lost = eventually(lambda: pool.tend().lost)
    assert list(lost) == carriers[:1]
    assert "no answer for 2 s" in lost[carriers[0]]
    for actor in actors:
        actor.kill()
