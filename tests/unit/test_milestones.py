"""Milestones of a run: bounded, spread over its steps, the same however it is stored, and gone with what is undone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.milestones import MOST, Milestone, Milestones
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.forecast.table import NAMES
from topowatch_monitor.simulate import RunPlan, descriptor, synthetic_run
from topowatch_protos.v1 import log_pb2, run_pb2

NOTHING = np.empty(0), np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.float16)


def filled(steps: list[int]) -> Milestones:
    milestones = Milestones()
    for step in steps:
        if milestones.due(step):
            milestones.add(Milestone(step, *NOTHING))
    return milestones


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 3000), stride=st.integers(1, 50))
def test_they_are_few_and_spread_evenly(count: int, stride: int) -> None:
    steps = [stride * number for number in range(count)]
    known = [each.step for each in filled(steps).known]
    assert min(count, MOST // 2) <= len(known) <= MOST
    assert known[0] == 0
    gaps = np.diff([*known, steps[-1]])
    assert max(gaps, default=0) <= 4 * max(stride, steps[-1] / MOST)


def test_what_comes_late_is_left_out_and_what_is_undone_forgotten() -> None:
    milestones = filled([0, 10, 20, 15, 30])
    assert [each.step for each in milestones.known] == [0, 10, 20, 30]
    milestones.discard(10, 21)
    assert [each.step for each in milestones.known] == [0, 30]
    milestones.discard(5)
    assert milestones.due(5)


def run_of(plan: RunPlan) -> RunState:
    run = RunState(plan.tenant, plan.group, plan.run)
    key = run_pb2.RunKey(tenant=plan.tenant, group=plan.group, run=plan.run)
    opened = log_pb2.RunOpened()
    opened.descriptor.CopyFrom(descriptor(plan, incarnation=1))
    assert run.apply_message(opened)
    for seq, item in enumerate(synthetic_run(plan)):
        assert run.apply_message(log_pb2.StoredItem(key=key, incarnation=1, seq=seq, item=item))
    return run


PLAN = RunPlan(run="r", group="g", seed=3, samples=120, probes=32)


def test_a_run_remembers_what_it_was_like() -> None:
    run = run_of(PLAN)
    known = run.told.milestones.known
    assert len(known) >= MOST // 2
    rows = {name: np.array([each.features[place] for each in known]) for place, name in enumerate(NAMES)}
    assert rows["loss"][-1] < rows["loss"][1] / 2
    assert (np.diff(rows["path_length"][1:]) >= 0).all()
    assert np.nanmax(rows["loss_fall"]) == pytest.approx(rows["loss_fall"][-1], abs=0.3)
    assert rows["confidence"][-1] > rows["confidence"][1]
    assert math.isfinite(rows["dimension"][-1])
    assert math.isfinite(rows["loss_slope"][-1])
    assert len(known[-1].predicted) == len(known[-1].confidence) == 32


def test_a_restored_run_has_the_same_milestones() -> None:
    run = run_of(PLAN)
    again = RunState.from_state(decode(encode(run.state_dict())))
    for first, second in zip(run.told.milestones.known, again.told.milestones.known, strict=True):
        assert first.step == second.step
        np.testing.assert_array_equal(first.features, second.features)
        np.testing.assert_array_equal(first.predicted, second.predicted)
        np.testing.assert_array_equal(first.confidence, second.confidence)
    now, then = (each.told.milestone(500) for each in (run, again))
    np.testing.assert_array_equal(now.features, then.features)
    assert again.told.probed.classes == 10


def test_without_probes_or_a_loss_nothing_is_made_up() -> None:
    run = run_of(RunPlan(run="r", group="g", kind="nan", seed=1, samples=40))
    newest = run.told.milestone(1000)
    features = dict(zip(NAMES, newest.features.tolist(), strict=True))
    assert not len(newest.predicted)
    assert math.isnan(features["confidence"])
    assert math.isnan(features["agreement"])
    assert math.isfinite(features["path_length"])
    assert all(math.isfinite(value) or math.isnan(value) for value in features.values())
