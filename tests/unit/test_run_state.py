"""Run state as a pure function of log records: incarnations, counts, flags, damage, snapshots."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.engine.told import RunSettings
from topowatch_monitor.engine.view import at
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

DIMENSION = 7
SMALL = RunSettings(path=PathSettings(window=32, h1_every=4, h1_landmarks=12, shape_every=6))


def key():
    return run_pb2.RunKey(tenant="t", group="g", run="r")


def opened(incarnation=1, start=0, *, rank=0, ranks=1, progress=False, digest=b"p", dimension=DIMENSION, at_second=100):
    record = log_pb2.RunOpened()
    record.descriptor.key.CopyFrom(key())
    record.descriptor.rank = rank
    record.descriptor.contributing_ranks = ranks
    record.descriptor.incarnation = incarnation
    record.descriptor.start_step = start
    record.descriptor.labels["lr"] = "0.1"
    record.descriptor.started_at.seconds = 90 + incarnation
    record.descriptor.sketch.dimension = dimension
    record.descriptor.probe.digest = digest
    record.descriptor.probe.outputs = 10
    record.descriptor.probe.kind = run_pb2.OUTPUT_KIND_LOGITS
    record.received_at.seconds = at_second
    if progress:
        record.progress.samples = 5
    return LogKind.RUN_OPENED, record.SerializeToString()


def stored(item, incarnation=1, *, rank=0, at_second=100, newly_dropped=0):
    record = log_pb2.StoredItem(key=key(), rank=rank, incarnation=incarnation, newly_dropped=newly_dropped)
    record.item = item if isinstance(item, bytes) else item.SerializeToString()
    record.received_at.seconds = at_second
    return LogKind.STORED_ITEM, record.SerializeToString()


def point(step, incarnation=1, salt=0):
    return np.random.default_rng([step, incarnation, salt]).standard_normal(DIMENSION).astype("<f4")


def sample(step, incarnation=1, *, loss=None, probes=None, predictions=True, time=None, interval=4, **scalars):
    body = sample_pb2.Sample(step=step)
    body.weights.values = point(step, incarnation).tobytes()
    if predictions:
        body.predictions.sketch.values = point(step, incarnation, salt=1).tobytes()
    body.probe_losses = np.asarray(probes if probes is not None else [1.0, 2.0], dtype="<f4").tobytes()
    body.client.overhead_ratio, body.client.interval, body.client.coverage = 0.003, interval, 1.0
    if time is not None:
        body.time.seconds = time
    if loss is not None:
        body.scalars.add(name="loss", steps=[step], values=[loss])
    for name, value in scalars.items():
        body.scalars.add(name=name, steps=[step], values=[value])
    return sample_pb2.Item(schema=1, sample=body)


def ended(step, **results):
    return sample_pb2.Item(schema=1, end=sample_pb2.RunEnd(step=step, results=results))


def run_of(*records, run_settings=SMALL):
    run = RunState("t", "g", "r", run_settings)
    for kind, payload in records:
        run.apply(kind, payload)
    return run


def expected_path(points):
    wide = np.array(points, dtype=np.float64)
    return np.linalg.norm(np.diff(wide, axis=0), axis=1).sum(), linkage(pdist(wide), "single")[:, 2].sum()


def test_a_view_tells_what_the_records_say():
    records = [opened(), *(stored(sample(step, loss=2.0 - 0.1 * step), at_second=100 + step) for step in range(12))]
    view = run_of(*records).view()
    assert (view["tenant"], view["group"], view["run"], view["labels"]) == ("t", "g", "r", {"lr": "0.1"})
    assert (view["step"], view["samples"], view["incarnation"], view["state"]) == (11, 12, 1, "live")
    assert (view["loss"], view["probe_loss"]) == (pytest.approx(0.9), 1.5)
    assert (view["overhead_ratio"], view["interval"], view["coverage"]) == (0.003, 4, 1.0)
    assert (view["started_at"], view["last_received_at"], view["longest_pause"]) == (91.0, 111.0, 1.0)
    length, total = expected_path([point(step) for step in range(12)])
    assert view["path"]["length"] == pytest.approx(length, rel=1e-5)
    assert view["path"]["h0_total_persistence"] == pytest.approx(total, rel=1e-5)
    assert view["path"]["points"] == 12
    length, _ = expected_path([point(step, salt=1) for step in range(12)])
    assert view["representation"]["length"] == pytest.approx(length, rel=1e-5)
    assert view["path_class"]["abstained"]
    assert view["forecast"]["abstained"]
    assert json.loads(json.dumps(view)) == view


def test_a_run_that_was_only_opened_knows_nothing_yet():
    view = run_of(opened()).view()
    assert view["step"] is view["loss"] is view["representation"] is view["path"]["length"] is None
    assert view["flags"] == []
    assert not view["minimum_unstable"]


def test_a_new_incarnation_supersedes_later_steps_and_keeps_earlier_ones():
    first = [stored(sample(step, 1, loss=1.0)) for step in range(10)]
    second = [stored(sample(step, 2, loss=3.0), 2) for step in range(6, 9)]
    run = run_of(opened(1), *first, opened(2, 6), *second)
    view = run.view()
    length, total = expected_path([point(step, 1) for step in range(6)] + [point(step, 2) for step in range(6, 9)])
    assert view["path"]["length"] == pytest.approx(length, rel=1e-5)
    assert view["path"]["h0_total_persistence"] == pytest.approx(total, rel=1e-5)
    assert run.history["loss"].values.tolist() == [1.0] * 6 + [3.0] * 3
    assert (view["samples"], view["step"], view["incarnation"]) == (13, 8, 2)


def test_a_rewind_takes_the_step_back_at_once():
    run = run_of(opened(1), *(stored(sample(step)) for step in range(10)), opened(2, 6))
    assert run.view()["step"] == 5
    assert run_of(opened(1), stored(sample(3)), opened(2, 0)).view()["step"] is None


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_each_step_belongs_to_the_newest_incarnation_that_starts_at_or_before_it(data):
    """Any interleaving of the lives of a rank, late ones included, gives the path of the definition."""
    lives = data.draw(st.dictionaries(st.integers(1, 4), st.integers(0, 8), min_size=1))
    streams = {
        life: [opened(life, start), *(stored(sample(step, life, loss=float(life)), life) for step in range(start, 12))]
        for life, start in lives.items()
    }
    records = []
    waiting = {life: list(stream) for life, stream in streams.items()}
    while waiting:
        life = data.draw(st.sampled_from(sorted(waiting)))
        count = data.draw(st.integers(1, len(waiting[life])))
        records += waiting[life][:count]
        del waiting[life][:count]
        if not waiting[life]:
            del waiting[life]
    run = run_of(*records)
    owner = {
        step: max(life for life, start in lives.items() if start <= step)
        for step in range(12)
        if any(start <= step for start in lives.values())
    }
    assert run.path.steps == sorted(owner)
    assert run.history["loss"].values.tolist() == [float(owner[step]) for step in sorted(owner)]
    view = run.view()
    if len(owner) > 1:
        length, total = expected_path([point(step, owner[step]) for step in sorted(owner)])
        assert view["path"]["length"] == pytest.approx(length, rel=1e-5)
        assert view["path"]["h0_total_persistence"] == pytest.approx(total, rel=1e-5)
    assert view["samples"] == sum(12 - start for start in lives.values())
    assert view["step"] == 11


def test_descriptors_that_come_again_change_nothing():
    records = [opened(1), *(stored(sample(step)) for step in range(5)), opened(2, 3), stored(sample(3, 2), 2)]
    run = run_of(*records)
    before = repr(run.state_dict())
    for again in (opened(1, progress=True, at_second=999), opened(2, 3, progress=True, at_second=999), opened(2, 3)):
        run.apply(*again)
    assert repr(run.state_dict()) == before


def test_a_second_sample_at_a_step_leaves_the_path_alone():
    run = run_of(opened(), stored(sample(1)), stored(sample(2)), stored(sample(2)), stored(sample(1)))
    assert run.view()["samples"] == 4
    assert run.path.steps == [1, 2]
    assert run.path.ignored == 2


def test_ends_rejections_and_drops_are_counted_and_a_newer_life_reopens():
    dropped = sample_pb2.Item(schema=1, dropped=sample_pb2.DroppedRange(incarnation=1, first_seq=4, last_seq=9))
    rejected = log_pb2.ItemsRejected(key=key(), seqs=[1, 2, 3])
    run = run_of(
        opened(),
        stored(sample(1)),
        stored(dropped, newly_dropped=6),
        (LogKind.ITEMS_REJECTED, rejected.SerializeToString()),
        stored(ended(1, accuracy=0.9)),
    )
    view = run.view()
    assert (view["samples"], view["dropped"], view["rejected"]) == (1, 6, 3)
    assert (view["state"], view["results"]) == ("ended", {"accuracy": 0.9})
    run.apply(*opened(2, 1))
    assert (run.view()["state"], run.view()["results"]) == ("live", None)
    run.apply(*stored(ended(1), 1))
    assert run.view()["state"] == "live"


def test_a_dropped_range_counts_what_ingest_had_not_counted_before():
    dropped = sample_pb2.Item(schema=1, dropped=sample_pb2.DroppedRange(incarnation=1, first_seq=0, last_seq=99))
    run = run_of(opened(), stored(dropped, newly_dropped=40), stored(dropped, newly_dropped=0))
    assert run.view()["dropped"] == 40


def test_a_restart_under_a_clock_that_is_behind_is_told_until_the_newer_incarnation_speaks():
    """Incarnations are milliseconds: the restarted job's is an hour lower, and it starts at a step of the newer one."""
    newer, older = 7_200_000, 3_600_000
    records = [opened(newer), *(stored(sample(step, newer), newer, at_second=100 + step) for step in range(10))]
    records.append(opened(older, 5))
    run = run_of(*records)
    assert (run.view()["superseded"], run.view()["flags"]) == (0, [])
    late = [stored(sample(step, older), older, at_second=200 + 10 * step) for step in range(5, 15)]
    for record in late[:7]:
        run.apply(*record)
    assert (run.view()["superseded"], run.view()["flags"]) == (7, [])
    for record in late[7:]:
        run.apply(*record)
    view = run.view()
    assert (view["superseded"], view["samples"], view["path"]["points"], view["step"]) == (10, 20, 10, 9)
    [flag] = view["flags"]
    assert (flag["detector"], flag["severity"], flag["since_step"]) == ("superseded_samples", "warning", 5)
    assert "10 samples from step 5 on" in flag["reason"]
    assert "3600 s newer" in flag["reason"]
    assert "two jobs with this run name" in flag["reason"]
    assert "clock is behind" in flag["reason"]
    assert RunState.from_state(decode(encode(run.state_dict())), SMALL).view() == view
    run.apply(*stored(sample(10, newer), newer, at_second=400))
    assert (run.view()["superseded"], run.view()["flags"]) == (10, [])


def test_the_rest_of_a_spool_that_is_sent_after_its_job_was_resumed_is_counted_and_raises_no_flag():
    """Hundreds of samples within seconds are a late delivery, whatever the new life does meanwhile."""
    late = [stored(sample(step, 1), 1, at_second=100 + step // 50) for step in range(200)]
    view = run_of(opened(1), opened(2, 0), *late).view()
    assert (view["superseded"], view["flags"]) == (200, [])


def test_samples_that_a_rewind_overtakes_later_are_not_superseded_ones():
    run = run_of(opened(1), *(stored(sample(step)) for step in range(10)), opened(2, 6), stored(sample(5, 1), 1))
    assert run.view()["superseded"] == 0


def test_each_rank_has_its_own_clock():
    """One host of a sharded job is behind: its parts are superseded, the steps stay incomplete, and both is told."""
    records = [opened(900, rank=0, ranks=2), opened(900, rank=1, ranks=2), opened(100, 1, rank=1, ranks=2)]
    for step in range(80):
        records.append(stored(sample(step, 900), 900, rank=0, at_second=100 + step))
        records.append(stored(sample(step, 100), 100, rank=1, at_second=100 + step))
    view = run_of(*records).view()
    assert (view["superseded"], view["path"]["points"], view["incomplete"]) == (80, 0, 16)
    assert [flag["detector"] for flag in view["flags"]] == ["superseded_samples", "missing_rank"]


def test_a_sample_from_before_its_own_incarnation_began_is_ignored_and_counted():
    view = run_of(opened(1, 5), stored(sample(3))).view()
    assert (view["path"]["points"], view["path"]["ignored"], view["superseded"]) == (0, 1, 0)


@pytest.mark.parametrize(
    "item",
    [
        b"\xff\xff\xff",
        b"",
        sample_pb2.Item(schema=1),
        sample_pb2.Item(schema=99, sample=sample_pb2.Sample(step=1)),
        sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=-1)),
        sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=1, weights=sample_pb2.Sketch(values=b"abc"))),
        sample_pb2.Item(
            schema=1,
            sample=sample_pb2.Sample(step=1, weights=sample_pb2.Sketch(values=np.full(7, np.nan, "<f4").tobytes())),
        ),
        sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=1, probe_losses=b"abc")),
        sample_pb2.Item(
            schema=1,
            sample=sample_pb2.Sample(step=1, scalars=[sample_pb2.ScalarSeries(name="loss", steps=[1], values=[])]),
        ),
        sample_pb2.Item(
            schema=1,
            sample=sample_pb2.Sample(step=1, scalars=[sample_pb2.ScalarSeries(name="a", steps=[1, 1], values=[0, 0])]),
        ),
        sample_pb2.Item(
            schema=1,
            sample=sample_pb2.Sample(step=1, scalars=[sample_pb2.ScalarSeries(name="a", steps=[2], values=[0])]),
        ),
    ],
)
def test_a_damaged_item_is_counted_and_harms_nothing_else(item):
    run = run_of(opened(), stored(sample(0)), stored(item), stored(sample(1)))
    assert run.view()["rejected"] == 1
    assert run.path.steps == [0, 1]
    twin = run_of(opened(), stored(sample(0)), stored(sample(1)))
    assert run.view() == twin.view() | {"rejected": 1}


def test_a_payload_that_is_no_message_is_counted():
    run = run_of(opened(), (LogKind.STORED_ITEM, b"\xff\xff"), (LogKind.DECISION, b"\xff"))
    assert run.view()["rejected"] == 1


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_sketch_of_another_dimension_is_ignored_and_counted(ranks):
    """Ingest lets none through; should one be in the log all the same, nothing comes of it."""
    wide = sample(5)
    wide.sample.weights.values = np.ones(9, dtype="<f4").tobytes()
    wide.sample.predictions.sketch.values = np.ones(9, dtype="<f4").tobytes()
    records = [opened(rank=rank, ranks=ranks) for rank in range(ranks)]
    for step, item in ((4, sample(4)), (5, wide), (6, sample(6))):
        records.append(stored(item, rank=0))
        records += [stored(sample(step), rank=rank) for rank in range(1, ranks)]
    run = run_of(*records)
    assert run.path.steps == [4, 6]
    assert run.representation.steps == [4, 6]
    assert run.view()["path"]["ignored"] == run.view()["representation"]["ignored"] == 1
    assert run.view()["flags"] == []


def test_runs_that_began_together_compute_h1_at_different_samples():
    runs = [RunState("t", "g", f"run-{number}", SMALL) for number in range(400)]
    for record in (opened(), *(stored(sample(step)) for step in range(12))):
        for run in runs:
            run.apply(*record)
    latest = Counter(run.path.loop[0] for run in runs)
    assert set(latest) == {8, 9, 10, 11}  # H₁ every 4 samples
    assert max(latest.values()) < 0.35 * len(runs)


def test_another_probe_set_begins_a_new_representation():
    records = [opened(1), *(stored(sample(step)) for step in range(5))]
    run = run_of(*records, opened(2, 5, digest=b"other"), stored(sample(5, 2), 2))
    assert run.path.steps == [0, 1, 2, 3, 4, 5]
    assert run.representation.steps == [5]
    assert len(run.history["probe_loss"]) == 1


def test_sketches_of_a_sharded_model_are_added_up_at_steps_that_all_ranks_sent():
    """Rank 1 samples at every second step only; ranks open at different milliseconds and rewind together."""
    records = [opened(10, rank=0, ranks=2), opened(11, rank=1, ranks=2)]
    records += [stored(sample(step, 10, loss=1.0), 10, rank=0) for step in range(8)]
    records += [stored(sample(step, 11, loss=9.0), 11, rank=1) for step in range(0, 8, 2)]
    run = run_of(*records)
    assert run.path.steps == [0, 2, 4, 6]
    length, _ = expected_path([point(step, 10) + point(step, 11) for step in (0, 2, 4, 6)])
    assert run.view()["path"]["length"] == pytest.approx(length, rel=1e-5)
    assert run.history["loss"].values.tolist() == [1.0] * 8
    assert run.view()["samples"] == 12
    for record in (opened(20, 4, rank=0, ranks=2), opened(21, 4, rank=1, ranks=2)):
        run.apply(*record)
    run.apply(*stored(sample(4, 20), 20, rank=0))
    assert run.path.steps == [0, 2]
    run.apply(*stored(sample(4, 21), 21, rank=1))
    assert run.path.steps == [0, 2, 4]


def test_a_part_that_comes_too_late_makes_its_step_incomplete_once():
    """Rank 1 is more than 64 samples behind: every second step is kept, and of the others those that have room."""
    records = [opened(rank=0, ranks=2), opened(rank=1, ranks=2)]
    records += [stored(sample(step, interval=1), rank=rank) for rank in (0, 1) for step in range(100)]
    run = run_of(*records, run_settings=RunSettings(path=PathSettings(window=100)))
    assert run.path.steps == sorted([*range(0, 100, 2), *range(73, 100, 2)])
    assert run.view()["incomplete"] == 36


def test_a_rewind_lets_steps_that_were_given_up_come_again():
    records = [opened(1, rank=0, ranks=2), opened(1, rank=1, ranks=2)]
    records += [stored(sample(step), rank=0) for step in range(100)]
    records += [opened(2, 3, rank=0, ranks=2), opened(2, 3, rank=1, ranks=2)]
    records += [stored(sample(step, 2), 2, rank=rank) for step in (3, 4) for rank in (0, 1)]
    assert run_of(*records).path.steps == [3, 4]


def test_what_waits_when_the_number_of_ranks_changes_may_still_be_completed():
    records = [opened(1, rank=0, ranks=2), *(stored(sample(step), rank=0) for step in range(3))]
    run = run_of(*records, opened(2, 3, ranks=1), stored(sample(3, 2), 2))
    assert (run.path.steps, run.view()["incomplete"]) == ([3], 0)
    for record in (opened(1, rank=1, ranks=2), stored(sample(1), rank=1), stored(sample(4), rank=1)):
        run.apply(*record)
    assert run.path.steps == [1, 3]


def test_an_unknown_incarnation_begins_with_its_first_sample():
    run = run_of(stored(sample(3, 5), 5), stored(sample(4, 5), 5))
    assert run.path.steps == [3, 4]


def failing_run(steps=160, onset=128):
    losses = [0.2 + 2 * math.exp(-step / 20) + (1.5 if step >= onset else 0.0) for step in range(steps)]
    return [opened(), *(stored(sample(step, loss=loss)) for step, loss in enumerate(losses))]


def test_a_lost_minimum_is_unstable_says_why_and_is_forgotten_on_a_rewind():
    run = run_of(*failing_run())
    view = run.view()
    [flag] = [flag for flag in view["flags"] if flag["detector"] == "loss_rise"]
    assert flag["severity"] == "critical"
    assert 128 <= flag["since_step"] <= 140
    assert "above its lowest level" in flag["reason"]
    assert view["minimum_unstable"]
    run.apply(*opened(2, 120))
    assert run.view()["flags"] == []
    assert not run.view()["minimum_unstable"]
    run.apply(*stored(sample(120, 2, loss=0.2), 2))
    assert run.view()["flags"] == []


def test_the_events_of_a_run_tell_what_a_rewind_took_back():
    run = run_of(*failing_run())
    on = run.view()["events"]
    [rise] = [event for event in on if event["detector"] == "loss_rise"]
    [unstable] = [event for event in on if event["detector"] == "minimum_unstable"]
    [flag] = [flag for flag in run.view()["flags"] if flag["detector"] == "loss_rise"]
    assert (rise["step"], rise["on"], rise["superseded"]) == (flag["since_step"], True, False)
    assert "above its lowest level" in rise["reason"]
    assert 128 <= unstable["step"] <= rise["step"]
    assert unstable["reason"] in {event["detector"].replace("_", " ") for event in on}
    run.apply(*opened(2, 120))
    assert run.view()["events"] == [{**event, "superseded": True} for event in on]
    run.apply(*stored(sample(120, 2, loss=math.nan), 2))
    assert [(event["step"], event["detector"]) for event in run.view()["events"][len(on) :]] == [
        (120, "non_finite_loss"),
        (120, "minimum_unstable"),
    ]
    assert run.told.events.on.keys() == {"non_finite_loss", "minimum_unstable"}


def test_a_flag_of_the_ranks_is_an_event_too():
    run = run_of(opened(1, 0), opened(2, 5))
    for step in range(12):
        run.apply(*stored(sample(5 + step), 1, at_second=100 + 10 * step))
    [event] = run.view()["events"]
    assert (event["detector"], event["on"]) == ("superseded_samples", True)
    run.apply(*stored(sample(5, 2), 2, at_second=300))
    assert [(event["step"], event["on"]) for event in run.view()["events"]] == [(event["step"], True), (5, False)]


def test_a_warning_or_an_explosion_before_any_minimum_makes_no_minimum_unstable():
    exploding = [stored(sample(step, loss=2.3, update_ratio_max=0.9)) for step in range(20)]
    view = run_of(opened(), *exploding).view()
    assert [flag["detector"] for flag in view["flags"]] == ["exploding_update"]
    assert not view["minimum_unstable"]


def test_a_loss_that_is_not_finite_always_counts_and_survives_in_the_view():
    view = run_of(opened(), stored(sample(0, loss=2.3)), stored(sample(1, loss=math.nan))).view()
    assert view["minimum_unstable"]
    assert math.isnan(view["loss"])
    assert view["flags"][0]["since_step"] == 1


@pytest.mark.parametrize("every", [1, 4])
def test_one_loss_that_is_not_finite_is_told_although_it_comes_with_the_item_after(every):
    """A loss is logged after the sample of its step, so items bring those of the steps since the item before."""
    run = run_of(opened())
    for step in range(every, 160, every):
        item = sample(step, predictions=False)
        steps = list(range(step - every, step))
        item.sample.scalars.add(name="loss", steps=steps, values=[math.nan if each == 80 else 1.0 for each in steps])
        run.apply(*stored(item))
        on = "non_finite_loss" in {flag["detector"] for flag in run.view()["flags"]}
        assert on == (80 < step <= 100)


def test_what_comes_late_brings_no_old_failure_back():
    run = run_of(opened())
    for step in (*range(10, 100), *range(5)):
        run.apply(*stored(sample(step, loss=math.nan if step == 20 else 1.0, predictions=False)))
        on = "non_finite_loss" in {flag["detector"] for flag in run.view()["flags"]}
        assert on == (20 <= step < 40)


def test_probe_losses_of_both_infinities_are_not_finite_and_overflow_nothing():
    view = run_of(opened(), stored(sample(0, probes=[math.inf, -math.inf]))).view()
    assert math.isnan(view["probe_loss"])
    assert [flag["detector"] for flag in view["flags"]] == ["non_finite_loss"]


def test_without_a_logged_loss_the_probes_are_watched():
    losses = [0.2 + 2 * math.exp(-step / 20) + (1.5 if step >= 128 else 0.0) for step in range(160)]
    run = run_of(opened(), *(stored(sample(step, probes=[loss, loss])) for step, loss in enumerate(losses)))
    assert [flag["detector"] for flag in run.view()["flags"]] == ["loss_jump", "loss_rise"]


def test_the_losses_of_the_probes_are_a_path_of_the_leader_and_follow_rewinds_and_new_probes():
    rng = np.random.default_rng(0)
    table = np.cumsum(rng.random((100, 5)), axis=0)
    wide = RunSettings(path=PathSettings(shape_every=1))
    ranks = [opened(rank=0, ranks=2), opened(rank=1, ranks=2)]
    records = [stored(sample(step, probes=table[step]), rank=rank) for step in range(100) for rank in (0, 1)]
    run = run_of(*ranks, *records, run_settings=wide)
    seen = run.view()["loss_path"]
    assert seen["points"] == 100
    assert seen["lower"] < seen["dimension"] < seen["upper"]
    lengths = linkage(pdist(table.astype("<f4").astype(float), "cityblock") / 5, "single")[:, 2]
    assert seen["e_alpha"]["1"] == pytest.approx(lengths.sum(), rel=1e-6)
    run.apply(*opened(2, 90, ranks=2))
    assert run.view()["loss_path"] == {"dimension": None, "lower": None, "upper": None, "points": 90, "e_alpha": None}
    run.apply(*opened(3, 90, ranks=2, digest=b"other"))
    assert run.view()["loss_path"] is None


def test_losses_that_are_not_finite_are_told_and_leave_their_path_alone():
    view = run_of(opened(), stored(sample(0)), stored(sample(1, probes=[math.inf, 1.0]))).view()
    assert view["probe_loss"] == math.inf
    assert view["loss_path"]["points"] == 1


@settings(max_examples=12, deadline=None)
@given(cut=st.integers(0, 100), seed=st.integers(0, 1000))
def test_snapshot_and_restore_at_any_record_lead_to_the_same_state(cut, seed):
    """Apply all ≡ apply some, save, restore, apply the rest: to the last bit."""
    rng = np.random.default_rng(seed)
    records = [opened(1)]
    records += [stored(sample(step, loss=rng.standard_normal()), at_second=int(step)) for step in range(50)]
    records += [opened(2, 30), stored(b"\xff"), stored(ended(50), 1)]
    records += [stored(sample(step, 2, loss=rng.standard_normal(), time=step), 2) for step in range(30, 70)]
    records += [stored(sample(step, 1), 1) for step in (7, 29)]
    whole = run_of(*records)
    part = run_of(*records[:cut])
    restored = RunState.from_state(decode(encode(part.state_dict())), SMALL)
    for record in records[cut:]:
        restored.apply(*record)
    assert restored.view() == whole.view()
    assert restored.path.steps == whole.path.steps
    assert repr(restored.history.state_dict()) == repr(whole.history.state_dict())


def test_the_clock_adds_stalled_and_lost_and_leaves_the_view_alone():
    view = run_of(opened(), *(stored(sample(step), at_second=1000 + step) for step in range(5))).view()
    assert at(view, 1005.0) == view
    stalled = at(view, 1004.0 + 130)
    assert (stalled["state"], [flag["detector"] for flag in stalled["flags"]]) == ("live", ["stalled_run"])
    assert stalled["flags"][0]["since_step"] == 4
    assert at(view, 1004.0 + 1000)["state"] == "lost"
    assert view["flags"] == []
    finished = run_of(opened(), stored(ended(1))).view()
    assert at(finished, 1e9) == finished


def test_the_longest_pause_follows_the_client_s_clock_and_fades():
    times = [0, 1, 2, 302, *range(303, 803)]
    records = [stored(sample(step, time=1000 + time)) for step, time in enumerate(times)]
    assert run_of(opened(), *records[:4]).view()["longest_pause"] == 300.0
    assert run_of(opened(), *records).view()["longest_pause"] < 3.0
