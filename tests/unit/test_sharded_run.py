"""Runs whose ranks each hold a part of the model: what adds up, in whatever order the parts come."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sharded_job import KEY, SETTINGS, Life, check, interleaved, norm, run_of, total, whole_of, wholes_of
from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.export.run_table import RunTable
from topowatch_monitor.store.log import Record
from topowatch_protos.v1 import sample_pb2

seeds = st.integers(0, 2**32 - 1)
intervals = st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=20)


def together(ranks, paces, **common):
    """The lives of ranks that begin together, each with intervals of its own."""
    return [Life(rank, ranks=ranks, intervals=pace, **common) for rank, pace in zip(range(ranks), paces, strict=True)]


def whole_steps(lives):
    return sorted(set.intersection(*(life.steps for life in lives)))


@settings(max_examples=60, deadline=None)
@given(paces=st.lists(intervals, min_size=2, max_size=8), start=st.sampled_from([0, 0, 3, 16]), seed=seeds)
def test_any_interleaving_gives_exactly_the_steps_at_which_all_ranks_sampled_to_the_last_bit(paces, start, seed):
    lives = together(len(paces), paces, start=start, stop=start + 50)
    ranks, wholes = wholes_of(interleaved([life.records() for life in lives], seed))
    assert sorted(wholes) == whole_steps(lives)
    for step, whole in wholes.items():
        assert whole.weights.tolist() == total(lives, step).tolist()
        assert whole.scalars["weight_norm"] == math.hypot(*(norm(life.part(step)) for life in lives))
    assert ranks.view() == {"contributing": len(paces), "heard": len(paces), "missing": []}


@settings(max_examples=12, deadline=None)
@given(
    fast=st.lists(st.sampled_from([1, 1, 2]), min_size=1, max_size=3),
    slow=st.lists(st.sampled_from([32, 64, 256]), min_size=1, max_size=12),
    seed=seeds,
    stretch=st.sampled_from([5, 500]),
)
def test_a_rank_that_samples_rarely_and_comes_late_still_completes_its_steps(fast, slow, seed, stretch):
    """Between two of its steps the fast ranks send hundreds that can never be whole."""
    lives = together(len(fast) + 1, [*([interval] for interval in fast), slow], stop=520)
    _, wholes = wholes_of(interleaved([life.records() for life in lives], seed, stretch))
    assert sorted(wholes) == whole_steps(lives)


def test_steps_that_a_rank_was_never_to_sample_at_are_not_incomplete():
    """Of the 255 between two of its samples 64 have room; only a part that a rank owes makes a step incomplete."""
    first, second = together(2, [[1], [256]], stop=1025)
    records = [second.opened(), first.opened(), second.sample(0, 256), first.sample(0)]
    records += [first.sample(step) for step in range(1, 1025)]
    records += [second.sample(step, 256) for step in (256, 768, 1024)]
    ranks, wholes = wholes_of(records)
    assert (list(wholes), ranks.incomplete) == ([0, 256, 768, 1024], 1)


def test_what_waits_for_a_rank_that_is_far_behind_keeps_an_even_pace():
    """Rank 1 comes 1,000 steps late, for ever: one of 16 steps is whole, where the latest 64 alone would never be."""
    first, second = together(2, [[1], [1]], stop=3000)
    leading, behind = ([life.sample(step) for step in range(3000)] for life in (first, second))
    records = [first.opened(), second.opened(), *leading[:1000]]
    for step in range(1000, 3000):
        records += [leading[step], behind[step - 1000]]
    ranks, wholes = wholes_of(records)
    assert np.diff(sorted(wholes)).max() <= 16
    assert max(wholes) >= 1980
    assert 1500 < ranks.incomplete < 3000 - len(wholes)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=seeds)
def test_rewinds_and_elastic_restarts_give_the_path_of_the_definition_in_any_order(data, seed):
    """Ranks that begin together, again and again, at other steps and in other numbers; late lives are among them."""
    starts = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True))
    lives = []
    for generation, start in enumerate(starts):
        ranks = data.draw(st.integers(1, 4))
        paces = data.draw(st.lists(intervals, min_size=ranks, max_size=ranks))
        common = {"start": start, "stop": start + 24, "incarnation": 1 + generation, "world": ranks}
        lives += together(ranks, paces, **common)
    records = interleaved([life.records() for life in lives], seed)
    run = run_of(records)
    check(run, lives)
    assert RunState.from_state(decode(encode(run.state_dict())), SETTINGS).view() == run.view()


def test_a_rank_that_is_two_restarts_ahead_of_the_leader_waits_for_it():
    """The leader's middle life takes its older samples back, and leaves alone what it has not come to yet."""
    first, middle, last = (
        together(2, [[1], [1]], start=start, stop=start + 4, incarnation=incarnation)
        for incarnation, start in ((1, 0), (2, 1), (3, 2))
    )
    streams = [
        *(lives[1].records() for lives in (first, middle, last)),
        *(lives[0].records() for lives in (first, middle, last)),
    ]
    run = run_of([record for stream in streams for record in stream])
    check(run, [*first, *middle, *last])
    assert run.path.steps == [0, 1, 2, 3, 4, 5]


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(0, 2), start=st.integers(1, 40), seed=seeds)
def test_a_rank_that_goes_back_alone_adds_nothing_to_what_the_others_are_at(rank, start, seed):
    """Its newer samples belong to no step of the others, and its older ones are no longer its own word."""
    lives = [*together(3, [[1], [2], [1]]), Life(rank, 2, start, 3, stop=40, intervals=[1])]
    run = run_of(interleaved([life.records() for life in lives], seed))
    assert all(step < start for step in whole_of(lives))
    check(run, lives)


def test_what_a_rank_sent_ahead_of_the_others_goes_with_its_life():
    first, second = together(2, [[1], [1]], stop=10)
    again = replace(second, start=5, incarnation=2)
    run = run_of([first.opened(), *second.records(), again.opened(), *(first.sample(step) for step in range(10))])
    assert run.path.steps == [0, 1, 2, 3, 4]


def test_parts_that_cancel_out_are_added_in_the_order_of_ranks():
    """In float64 2⁶⁰ + 1 − 2⁶⁰ is 0 in this order and 1 in others."""
    lives = together(3, [[1], [1], [1]])
    for order in itertools.permutations(zip(lives, (2.0**60, 1.0, -(2.0**60)), strict=True)):
        records = [life.opened() for life in lives]
        for life, value in order:
            sample = sample_pb2.Sample(step=0)
            sample.weights.values = np.full(5, value, dtype="<f4").tobytes()
            records.append(life.stored(sample_pb2.Item(schema=1, sample=sample)))
        _, wholes = wholes_of(records)
        assert wholes[0].weights.tolist() == [0.0] * 5


@settings(max_examples=12, deadline=None)
@given(seed=seeds, cut=st.floats(0, 1))
def test_a_snapshot_in_the_middle_changes_nothing_to_the_last_bit(seed, cut):
    lives = [*together(3, [[1], [2, 4], [8]], stop=60), *together(2, [[1], [4]], start=20, stop=90, incarnation=2)]
    records = interleaved([life.records() for life in lives], seed)
    middle = int(cut * len(records))
    restored = RunState.from_state(decode(encode(run_of(records[:middle]).state_dict())), SETTINGS)
    for record in records[middle:]:
        restored.apply(*record)
    unbroken = run_of(records)
    assert restored.view() == unbroken.view()
    assert repr(restored.state_dict()) == repr(unbroken.state_dict())


@settings(max_examples=12, deadline=None)
@given(seed=seeds)
def test_a_table_holds_what_the_path_holds(seed):
    lives = [*together(3, [[1], [2, 4], [8]], stop=60), *together(2, [[2], [4]], start=20, stop=90, incarnation=2)]
    records = interleaved([life.records() for life in lives], seed)
    run = run_of(records)
    table = RunTable().add(Record(0, kind, payload) for kind, payload in records).table()
    steps = table.column("step").to_pylist()
    assert steps == [int(step) for step in run.history["loss"].steps]
    weights = dict(zip(steps, table.column("weights").to_pylist(), strict=True))
    assert [step for step in steps if weights[step] is not None] == run.path.steps
    for step, parts in whole_of(lives).items():
        assert weights[step] == total(parts, step).tolist()
    for name in ("loss", "weight_norm"):
        column = zip(steps, table.column(name).to_pylist(), strict=True)
        series = run.history[name]
        told = zip(series.steps.tolist(), series.values.tolist(), strict=True)
        assert {step: value for step, value in column if value is not None} == dict(told)


def test_scalars_of_a_part_become_those_of_the_whole_and_the_leader_s_own_do_not_enter():
    """Norms by their squares, ratios by the largest, counts by their sum; a median of parts means nothing."""
    told = [
        {"weight_norm": 3.0, "update_norm": 0.3, "gradient_norm": 1.0, "update_ratio_max": 0.2},
        {"weight_norm": 4.0, "update_norm": 0.4, "gradient_norm": 2.0, "update_ratio_max": 0.1},
        {"weight_norm": 12.0, "gradient_norm": 2.0, "update_ratio_max": 0.4, "nonfinite_weights": 2.0},
    ]
    lives = together(3, [[2], [2], [2]], stop=3)
    records = [life.opened() for life in lives]
    for life, scalars in zip(lives, told, strict=True):
        records.append(life.sample(0, 2, update_ratio_median=0.01, accuracy=life.rank + 1.0, **scalars))
    records.append(lives[0].sample(2, 2, **told[0]))
    scalars = run_of(records).view()["scalars"]
    assert scalars == {
        "loss": 1.0,
        "accuracy": 1.0,
        "weight_norm": 13.0,
        "gradient_norm": 3.0,
        "update_ratio_max": 0.4,
        "nonfinite_weights": 2.0,
    }


def test_weights_that_are_not_finite_on_one_rank_are_told_and_leave_the_path_alone():
    """Such a part comes without a sketch."""
    first, second = together(2, [[1], [1]])
    broken = sample_pb2.Sample(step=1)
    for name, value in {"weight_norm": math.nan, "nonfinite_weights": 1.0}.items():
        broken.scalars.add(name=name, steps=[1], values=[value])
    records = [first.opened(), second.opened(), first.sample(0), second.sample(0), first.sample(1)]
    run = run_of([*records, second.stored(sample_pb2.Item(schema=1, sample=broken))])
    assert run.path.steps == [0]
    [flag] = run.view()["flags"]
    assert (flag["detector"], flag["since_step"]) == ("non_finite_loss", 1)
    assert math.isnan(run.view()["scalars"]["weight_norm"])


def test_updates_that_explode_on_one_rank_are_told_when_the_last_part_comes():
    first, second = together(2, [[1], [1]])
    records = [first.opened(), second.opened()]
    for step in range(20):
        large = 0.9 if step >= 12 else 0.001
        records += [first.sample(step, update_ratio_max=0.001), second.sample(step, update_ratio_max=large)]
    assert [flag["detector"] for flag in run_of(records).view()["flags"]] == ["exploding_update"]


def test_a_loss_that_is_not_finite_is_told_though_its_sample_completes_a_step():
    first, second = together(2, [[1], [1]])
    run = run_of([first.opened(), second.opened(), second.sample(0), first.sample(0, loss=math.nan)])
    assert [flag["detector"] for flag in run.view()["flags"]] == ["non_finite_loss"]


def test_scalars_that_travel_alone_are_no_part():
    """A rank's buffer of scalars may be sent between its samples, behind one at the same step, and before it."""
    first, second = together(2, [[4], [4]])
    alone = sample_pb2.Sample(step=4)
    alone.scalars.add(name="loss", steps=[2, 3, 4], values=[1.0, 2.0, 3.0])
    records = [first.opened(), second.opened(), first.sample(4, loss=3.0)]
    records += [first.stored(sample_pb2.Item(schema=1, sample=alone)), second.sample(4)]
    run = run_of(records)
    assert run.path.steps == [4]
    assert run.history["loss"].values.tolist() == [1.0, 2.0, 3.0]
    for life in (first, second):
        run.apply(*life.stored(sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=7))))
    for life in (first, second):
        run.apply(*life.sample(7))
    assert run.path.steps == [4, 7]
    assert run.view()["incomplete"] == 0


@settings(max_examples=15, deadline=None)
@given(seed=seeds, claimed=st.sampled_from([(1, 2), (2, 2), (2, 4)]), rank=st.integers(1, 5))
def test_a_rank_that_disagrees_about_their_number_adds_nothing(seed, claimed, rank):
    """Rank 1 of a DDP job that takes itself for the whole model among them, though it may be heard of first."""
    ranks, world = claimed
    for lives in (together(3, [[1], [1], [2]]), [Life(0, ranks=1)]):
        others = [life for life in lives if life.rank != rank]
        stray = Life(rank, ranks=ranks, world=world)
        run = run_of(interleaved([life.records() for life in [*others, stray]], seed))
        check(run, [*others, stray])
        assert run.path.steps == (list(range(32)) if len(lives) == 1 else [] if len(others) < 3 else whole_steps(lives))


def test_what_a_higher_rank_said_is_forgotten_when_a_lower_one_is_heard_of():
    """Hosts send in any order; until its leader is heard of, a run shows what there is."""
    first, second = together(2, [[1], [1]], scalars={"accuracy": 0.5})
    run = run_of([second.opened(), *(second.sample(step) for step in range(10))])
    assert run.view()["loss"] == 1.1
    run.apply(*first.opened())
    view = run.view()
    assert (view["step"], view["loss"], view["scalars"], view["samples"]) == (None, None, {}, 10)
    for step in range(10):
        run.apply(*first.sample(step))
    assert run.path.steps == list(range(10))
    assert run.view()["loss"] == 1.0


def test_the_rest_of_the_other_ranks_is_taken_in_after_the_leader_has_ended():
    first, second = together(2, [[1], [1]], stop=20)
    records = [first.opened(), second.opened(), *(first.sample(step) for step in range(20))]
    records += [first.ended(accuracy=0.9), *(second.sample(step) for step in range(18))]
    run = run_of(records)
    view = run.view()
    assert (view["state"], view["results"], run.path.steps) == ("ended", {"accuracy": 0.9}, list(range(18)))
    for record in (second.sample(18), second.sample(19), second.ended()):
        run.apply(*record)
    assert (run.view()["state"], run.path.steps) == ("ended", list(range(20)))
    assert run.history["weight_norm"].values[-1] == math.hypot(*(norm(life.part(19)) for life in (first, second)))


def test_parts_of_an_earlier_start_at_the_same_step_leave_the_path_with_their_life():
    """A job that fails twice behind one checkpoint: only a rank's own new life tells its two attempts apart."""
    lives = together(2, [[1], [1]], stop=8)
    again = [replace(life, start=4, incarnation=2, stop=10) for life in lives]
    third = [replace(life, incarnation=3, stop=12) for life in again]
    records = [record for life in lives for record in life.records()]
    records += [record for life in again for record in life.records()[: 4 - 3 * life.rank]]
    records += [*third[0].records()[:3], *again[1].records()[1:], *third[1].records(), *third[0].records()[3:]]
    run = run_of(records)
    expected = whole_of([*lives, *third])
    assert run.path.steps == [step for step in sorted(expected) if step not in {4, 5}]  # summed too early, then dropped
    assert run.history["weight_norm"].values[-1] == math.hypot(*(norm(life.part(11)) for life in third))


def test_a_life_whose_descriptor_was_lost_takes_part_where_the_leader_is():
    first, second = together(2, [[1], [1]], start=4, stop=12)
    records = [first.opened()]
    for step in range(4, 12):
        records += [first.sample(step), second.sample(step)]
    assert run_of(records).path.steps == list(range(4, 12))


def test_the_json_of_a_run_says_who_contributes():
    first, second = together(2, [[1], [1]])
    run = run_of([first.opened(), first.sample(0)])
    assert run.view()["ranks"] == {"contributing": 2, "heard": 1, "missing": []}
    run.apply(*second.opened())
    assert json.loads(json.dumps(run.view()))["ranks"] == {"contributing": 2, "heard": 2, "missing": []}
    assert RunState(KEY.tenant, KEY.group, KEY.run).view()["ranks"] is None
    assert run_of([Life(0, ranks=1).opened()]).view()["ranks"] == {"contributing": 1, "heard": 1, "missing": []}
