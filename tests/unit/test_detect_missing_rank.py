"""A missing rank: told when others go on without it for a while, and never of a job that began again without it."""

from __future__ import annotations

import dataclasses

import pytest

from sharded_job import SETTINGS, Life, run_of
from topowatch_monitor.detect.missing_rank import MissingRankThresholds, detect, is_missing
from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.run_state import RunState

LIMITS = MissingRankThresholds()


@pytest.mark.parametrize(
    ("behind", "silence", "active", "missing"),
    [
        (33, 61.0, False, True),
        (32, 900.0, False, False),  # it samples rarely
        (5000, 60.0, False, False),  # steps are fast, or its samples are on the way
        (5000, None, False, False),
        (9, 0.0, True, True),  # what was held back is arriving
        (8, 0.0, True, False),
    ],
)
def test_a_rank_counts_as_missing_far_behind_and_long_silent_until_it_has_caught_up(behind, silence, active, missing):
    assert is_missing(behind, 4, silence, active, LIMITS) is missing


def test_the_reason_names_a_few_ranks_and_those_never_heard_of():
    assert detect(4, 4, {}, 0, 0) is None
    reason = detect(4, 4, {2: 640}, 0, 0)
    assert (
        reason
        == "nothing has come from rank 2 since step 640, while others go on; steps that lack a part are not on the path"
    )
    assert "only 3 of 4 ranks have been heard of since the job began at step 96" in detect(4, 3, {}, 1, 96)
    many = detect(100, 98, dict.fromkeys(range(20), 7), 2, 0)
    assert "rank 7 since step 7 and 12 more, and only 98 of 100" in many


def job(ranks=3, interval=4, **common):
    return [Life(rank, ranks=ranks, world=ranks, intervals=[interval], stop=4000, **common) for rank in range(ranks)]


def sent(lives, steps, *, pace=1.0, at=100):
    """Samples of all lives at these steps, which take `pace` seconds each."""
    interval = lives[0].intervals[0]
    return [life.sample(step, interval, at=int(at + pace * step)) for step in steps for life in lives]


def flags_of(run):
    assert RunState.from_state(decode(encode(run.state_dict())), SETTINGS).view() == run.view()
    told = [(flag["detector"], flag["severity"], flag["since_step"]) for flag in run.view()["flags"]]
    return [flag for flag in told if not flag[0].startswith("loss_")]  # they are about losses of no real training


def feed(run, records):
    for record in records:
        run.apply(*record)
    return flags_of(run)


@pytest.mark.parametrize("gone", [0, 2])
def test_a_rank_that_stops_is_told_and_let_go_when_the_rest_of_its_spool_arrives(gone):
    """Rank 0 leads: that it is gone for good is told likewise."""
    lives = job()
    run = run_of([*(life.opened() for life in lives), *sent(lives, range(0, 44, 4))])
    others = [life for life in lives if life.rank != gone]
    assert feed(run, sent(others, range(44, 100, 4))) == []  # 14 samples, but within a minute
    assert feed(run, sent(others, range(100, 140, 4))) == [("missing_rank", "warning", 40)]
    assert run.view()["ranks"] == {"contributing": 3, "heard": 3, "missing": [gone]}
    assert f"rank {gone} since step 40" in run.view()["flags"][0]["reason"]
    assert feed(run, sent([lives[gone]], range(44, 120, 4), at=180))[0][:2] == ("missing_rank", "warning")
    assert feed(run, sent([lives[gone]], range(120, 140, 4), at=180)) == []
    assert run.path.steps == list(range(0, 140, 4))


def test_a_rank_that_was_never_heard_of_is_told():
    lives = job(4)
    run = run_of([life.opened() for life in lives[:3]])
    assert feed(run, sent(lives[:3], range(0, 60, 4))) == []
    assert feed(run, sent(lives[:3], range(60, 80, 4))) == [("missing_rank", "warning", 0)]
    assert run.view()["ranks"] == {"contributing": 4, "heard": 3, "missing": []}
    assert "only 3 of 4 ranks" in run.view()["flags"][0]["reason"]
    assert feed(run, [lives[3].opened(180)]) == []


def test_a_rank_that_was_opened_and_sent_nothing_is_missing():
    lives = job(2)
    run = run_of([life.opened() for life in lives])
    assert feed(run, sent(lives[:1], range(0, 80, 4))) == [("missing_rank", "warning", 0)]


def test_a_job_that_goes_on_with_fewer_ranks_misses_none_of_those_before():
    """Rank 3 fails; the others are started again from step 60 without it, and the last it sent comes later still."""
    lives = job(4)
    run = run_of([*(life.opened() for life in lives), *sent(lives, range(0, 80, 4))])
    assert feed(run, sent(lives[:3], range(80, 160, 4))) == [("missing_rank", "warning", 76)]
    again = job(3, start=60, incarnation=2)
    assert feed(run, [life.opened(270) for life in again]) == []
    assert feed(run, sent(again, range(60, 400, 4), at=270)) == []
    assert feed(run, sent(lives[3:], range(80, 160, 4), at=600)) == []
    assert run.view()["ranks"] == {"contributing": 3, "heard": 3, "missing": []}
    assert run.path.steps == list(range(0, 400, 4))


def test_a_job_that_goes_on_with_one_rank_misses_none():
    lives = job(2)
    run = run_of([*(life.opened() for life in lives), *sent(lives, range(0, 80, 4))])
    assert feed(run, sent(lives[:1], range(80, 160, 4))) == [("missing_rank", "warning", 76)]
    [alone] = job(1, start=60, incarnation=2)
    assert feed(run, [alone.opened(270), *sent([alone], range(60, 400, 4), at=270)]) == []
    assert run.path.steps == list(range(0, 400, 4))


def test_a_job_that_begins_again_with_all_of_its_ranks_has_time_to_come_up():
    """Rank 2 was missing; it comes back with the others, some seconds later than they do."""
    lives = job(3)
    run = run_of([*(life.opened() for life in lives), *sent(lives, range(0, 80, 4))])
    assert feed(run, sent(lives[:2], range(80, 160, 4))) == [("missing_rank", "warning", 76)]
    again = job(3, start=60, incarnation=2)
    assert feed(run, [life.opened(270) for life in again]) == []
    assert feed(run, sent(again[:2], range(60, 100, 4), at=220)) == []
    assert feed(run, sent(again[2:], range(60, 100, 4), at=230)) == []


def test_a_job_that_begins_again_without_one_of_its_ranks_is_told():
    lives = job(3)
    run = run_of([*(life.opened() for life in lives), *sent(lives, range(0, 200, 4))])
    again = job(3, start=100, incarnation=2)[:2]
    assert feed(run, [life.opened(310) for life in again]) == []
    assert feed(run, sent(again, range(100, 180, 4), at=310)) == [("missing_rank", "warning", 100)]
    [reason] = [flag["reason"] for flag in run.view()["flags"] if flag["detector"] == "missing_rank"]
    assert "only 2 of 3 ranks have been heard of since the job began at step 100" in reason


def test_a_rank_that_goes_back_alone_is_told():
    lives = job(3)
    run = run_of([*(life.opened() for life in lives), *sent(lives, range(0, 100, 4))])
    alone = job(3, start=60, incarnation=2)[1]
    feed(run, [alone.opened(200)])
    records = [record for step in range(100, 200, 4) for record in sent([lives[0], alone, lives[2]], [step], at=110)]
    assert feed(run, records) == [("missing_rank", "warning", 60)]
    assert run.view()["flags"][-1]["reason"].endswith("rank 2 began at step 0, as one of 3 that contribute")


def test_a_rank_that_takes_itself_for_the_whole_model_is_told():
    lives = job(3)
    stray = dataclasses.replace(lives[2], ranks=1, incarnation=9)
    run = run_of([life.opened() for life in [*lives[:2], stray]])
    assert feed(run, sent([*lives[:2], stray], range(0, 120, 4))) == [("missing_rank", "warning", 0)]
    assert run.view()["flags"][-1]["reason"].endswith("rank 2 began at step 0, as one of 1 that contribute")
    assert run.path.steps == []


@pytest.mark.parametrize("slow", [4, 256])
def test_healthy_jobs_miss_nobody(slow):
    """Ranks that sample 64 times more rarely, pause together for an hour, or come in batches of half a minute."""
    quick, rare = job(2)
    rare = dataclasses.replace(rare, intervals=[slow])
    run, clock = run_of([quick.opened(), rare.opened()]), 100
    for start in range(0, 2048, 32):
        clock += 3600 if start == 1024 else 30
        assert feed(run, [quick.sample(step, 4, clock) for step in range(start, start + 32, 4)]) == []
        late = [rare.sample(step, slow, clock + 25) for step in range(start, start + 32) if step % slow == 0]
        assert feed(run, late) == []


def test_a_run_of_one_rank_misses_nobody():
    [life] = job(1)
    other = Life(1, ranks=1, world=2)
    run = run_of([life.opened(), other.opened(), other.sample(0), *sent([life], range(0, 400, 4))])
    assert flags_of(run) == []
    assert run.view()["ranks"] == {"contributing": 1, "heard": 1, "missing": []}
