"""The shard: epochs and offsets are kept to the letter, a snapshot is as good as the log, no record breaks it."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.engine import assembly
from topowatch_monitor.engine.assembly import WAITING
from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.shard import STATE, Part, Shard
from topowatch_monitor.engine.told import RunSettings
from topowatch_monitor.topology import IncrementalMST
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

SMALL = RunSettings(path=PathSettings(window=16, h1_every=4, h1_landmarks=8, shape_every=6))


def records_of(run: str, count: int, first_offset: int = 0) -> list[tuple[int, int, bytes]]:
    key = run_pb2.RunKey(tenant="t", group="g", run=run)
    opened = log_pb2.RunOpened(descriptor=run_pb2.RunDescriptor(key=key, incarnation=1, contributing_ranks=1))
    records = [(first_offset, int(LogKind.RUN_OPENED), opened.SerializeToString())]
    for step in range(count):
        sample = sample_pb2.Sample(step=step)
        sample.weights.values = np.random.default_rng([step, len(run)]).standard_normal(5).astype("<f4").tobytes()
        sample.scalars.add(name="loss", steps=[step], values=[1.0 / (1 + step)])
        item = sample_pb2.Item(schema=1, sample=sample).SerializeToString()
        stored = log_pb2.StoredItem(key=key, incarnation=1, seq=step, item=item)
        records.append((first_offset + 1 + step, int(LogKind.STORED_ITEM), stored.SerializeToString()))
    return records


def loaded(*numbers: int, epoch: int = 1) -> Shard:
    shard = Shard(SMALL)
    for number in numbers:
        assert shard.load(number, epoch, 0, None)
    return shard


def test_apply_returns_a_view_of_every_run_that_changed_and_of_no_other():
    shard = loaded(3, 4)
    result = shard.apply([Part(3, 1, 0, 6, records_of("a", 5)), Part(4, 1, 0, 12, records_of("bb", 3, 6))])
    assert result.refused == []
    assert {view["run"]: view["samples"] for view in result.views} == {"a": 5, "bb": 3}
    more = records_of("a", 7)[6:]
    result = shard.apply([Part(3, 1, 6, 20, more)])
    assert [(view["run"], view["samples"], view["step"]) for view in result.views] == [("a", 7, 6)]
    assert sorted(view["run"] for view in shard.views()) == ["a", "bb"]


@pytest.mark.parametrize(
    ("part", "refusal"),
    [
        (Part(3, 2, 6, 8, []), (3, 1, 6)),
        (Part(3, 0, 6, 8, []), (3, 1, 6)),
        (Part(3, 1, 5, 8, []), (3, 1, 6)),
        (Part(3, 1, 7, 8, []), (3, 1, 6)),
        (Part(9, 1, 0, 8, []), (9, -1, -1)),
    ],
    ids=["newer epoch", "older epoch", "already applied", "gap", "not loaded"],
)
def test_a_part_that_does_not_fit_is_refused_and_changes_nothing(part, refusal):
    shard = loaded(3)
    shard.apply([Part(3, 1, 0, 6, records_of("a", 5))])
    before, views = shard.snapshot([3]), shard.views()
    result = shard.apply([part._replace(records=records_of("a", 9)[6:])])
    assert result == ([], [refusal], 0, 0)
    assert shard.snapshot([3]) == before
    assert shard.views() == views


def test_one_refused_part_does_not_keep_the_others_from_being_applied():
    shard = loaded(3, 4)
    result = shard.apply([Part(3, 1, 99, 100, records_of("a", 1)), Part(4, 1, 0, 5, records_of("b", 2))])
    assert result.refused == [(3, 1, 0)]
    assert [view["run"] for view in result.views] == ["b"]


def test_the_same_part_twice_in_one_call_is_applied_once():
    shard = loaded(3)
    part = Part(3, 1, 0, 6, records_of("a", 5))
    result = shard.apply([part, part])
    assert result.refused == [(3, 1, 6)]
    assert result.views[0]["samples"] == 5


@pytest.mark.parametrize("cut", [0, 1, 7, 20, 40])
def test_a_shard_restored_from_a_snapshot_and_the_log_behind_it_equals_one_that_never_died(cut):
    first, second = records_of("a", 39), records_of("bb", 39)
    records = [
        (index, kind, payload) for index, (_, kind, payload) in enumerate(sum(zip(first, second, strict=True), ()))
    ]
    steady = loaded(3)
    steady.apply([Part(3, 1, 0, 80, records)])
    mortal = loaded(3)
    mortal.apply([Part(3, 1, 0, cut, records[:cut])])
    [(number, offset, state)] = mortal.snapshot([3])
    assert (number, offset) == (3, cut)
    revived = Shard(SMALL)
    assert revived.load(3, 2, offset, state)
    assert revived.apply([Part(3, 1, cut, 80, records[cut:])]).refused == [(3, 2, cut)]
    assert revived.apply([Part(3, 2, cut, 80, records[cut:])]).refused == []
    assert sorted(map(repr, revived.views())) == sorted(map(repr, steady.views()))


def test_loading_replaces_what_was_there():
    shard = loaded(3)
    shard.apply([Part(3, 1, 0, 6, records_of("a", 5))])
    assert shard.load(3, 2, 0, None)
    assert shard.views() == []
    assert shard.apply([Part(3, 1, 6, 7, [])]).refused == [(3, 2, 0)]


def saved_state() -> bytes:
    shard = loaded(3)
    shard.apply([Part(3, 1, 0, 6, records_of("a", 5))])
    return shard.snapshot([3])[0][2]


def without(name: str) -> bytes:
    saved = decode(saved_state())
    del saved["runs"][0][name]
    return encode(saved)


@pytest.mark.parametrize(
    "state",
    [
        lambda: b"not a snapshot",
        lambda: saved_state()[:-200],
        lambda: without("told"),
        lambda: encode({"runs": decode(saved_state())["runs"]}),
        lambda: encode(decode(saved_state()) | {"state": STATE + 1}),
        lambda: encode(decode(saved_state()) | {"runs": 7}),
        lambda: encode([1, 2]),
    ],
    ids=["no snapshot", "torn", "lacks a field", "no version", "newer version", "no runs", "no mapping"],
)
def test_a_snapshot_that_cannot_be_used_leaves_the_virtual_shard_empty_until_it_is_loaded_without(state, caplog):
    shard = loaded(3, 4)
    shard.apply([Part(3, 1, 0, 6, records_of("a", 5)), Part(4, 1, 0, 6, records_of("b", 2))])
    with caplog.at_level(logging.WARNING):
        assert not shard.load(3, 2, 6, state())
        assert not shard.load(3, 2, 6, state())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "made again from the log" in caplog.text
    assert shard.apply([Part(3, 2, 6, 7, [])]).refused == [(3, -1, -1)]
    assert [view["run"] for view in shard.views()] == ["b"]
    assert shard.load(3, 3, 0, None)
    assert shard.apply([Part(3, 3, 0, 6, records_of("a", 5))]).views[0]["samples"] == 5


@pytest.mark.parametrize(
    "other",
    [
        replace(SMALL, path=replace(SMALL.path, window=8)),
        replace(SMALL, path=replace(SMALL.path, h1_every=5)),
        replace(SMALL, history=100),
        replace(SMALL, thresholds=replace(SMALL.thresholds, loss_rise=replace(SMALL.thresholds.loss_rise, alarm=1.0))),
    ],
    ids=["window", "h1_every", "history", "thresholds"],
)
def test_a_snapshot_of_runs_that_were_looked_at_otherwise_is_not_taken_over(other):
    """State is a function of the log and the settings: after a change of settings it is made again."""
    state = saved_state()
    assert Shard(SMALL).load(3, 2, 6, state)
    assert not Shard(other).load(3, 2, 6, state)


def test_a_record_that_cannot_be_decoded_is_counted_and_the_rest_applied():
    shard = loaded(3)
    records = records_of("a", 3)
    records[2] = (2, int(LogKind.STORED_ITEM), b"\xff\xff\xff")
    records.append((4, 77, b"a kind of the future"))
    result = shard.apply([Part(3, 1, 0, 5, records)])
    assert result.damaged == 1
    assert result.views[0]["samples"] == 2
    assert shard.apply([Part(3, 1, 5, 6, records_of("b", 1))]).damaged == 0


def test_ranks_whose_sketches_add_up_to_infinity_harm_nothing():
    """Two finite parts of 3e38: their sum has no place on the path, and everything after it has."""
    shard = loaded(3)
    key = run_pb2.RunKey(tenant="t", group="g", run="sharded")
    messages = []
    for rank in (0, 1):
        descriptor = run_pb2.RunDescriptor(key=key, rank=rank, incarnation=1, contributing_ranks=2)
        messages.append((LogKind.RUN_OPENED, log_pb2.RunOpened(descriptor=descriptor)))
    for step, size in enumerate([1.0, 3e38, 2.0]):
        for rank in (0, 1):
            item = sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=step, weights=sketch([size, 0.0])))
            stored = log_pb2.StoredItem(key=key, rank=rank, incarnation=1, item=item.SerializeToString())
            messages.append((LogKind.STORED_ITEM, stored))
    [view], _, damaged, _ = shard.apply([part_of(messages)])
    assert damaged == 0
    assert (view["samples"], view["path"]["points"], view["path"]["ignored"]) == (6, 2, 1)
    assert view["path"]["length"] == 2.0
    assert view["flags"] == []


def fails_at(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    add = IncrementalMST.add

    def add_or_fail(tree, point):
        if point[0] == size:
            tree._order.append(99)  # in the middle of a change
            raise ZeroDivisionError("of this one point\nand more")
        add(tree, point)

    monkeypatch.setattr(IncrementalMST, "add", add_or_fail)


def test_an_exception_ends_at_its_run_is_told_and_outlives_a_restart(monkeypatch, caplog):
    """The run goes on with a new path and a flag; a shard rebuilt from a snapshot or from the log says the same."""
    fails_at(7.0, monkeypatch)
    shard = loaded(3)
    messages = [opened("a"), opened("b")]
    messages += [
        sample_of(run, step, [float(step), 1.0]) for step in range(10) for run in "ab" if (run, step) != ("b", 7)
    ]
    part = part_of(messages)
    with caplog.at_level(logging.ERROR):
        views, _, damaged, _ = shard.apply([part._replace(next_offset=12, records=part.records[:12])])
        views, _, more, _ = shard.apply([part._replace(expected_offset=12, records=part.records[12:])])
    [record] = caplog.records
    assert "t/g/a" in record.message
    assert record.exc_info[0] is ZeroDivisionError
    assert (damaged, more) == (0, 1)
    found = {view["run"]: view for view in views}
    [flag] = found["a"]["flags"]
    assert (flag["detector"], flag["severity"], flag["since_step"]) == ("analysis_failed", "warning", 7)
    assert "at step 7 with ZeroDivisionError: of this one point;" in flag["reason"]
    assert (found["a"]["samples"], found["a"]["step"], found["a"]["path"]["points"]) == (10, 9, 2)
    assert (found["b"]["flags"], found["b"]["path"]["points"]) == ([], 9)
    [(_, offset, state)] = shard.snapshot([3])
    revived = Shard(SMALL)
    assert revived.load(3, 2, offset, state)
    assert revived.views() == shard.views()
    again = loaded(3)
    again.apply([part])
    assert again.views() == shard.views()
    revived.apply([Part(3, 2, offset, offset + 1, part_of([opened("a", 2, 5)]).records)])
    assert [view["flags"] for view in revived.views()] == [[], []]


def test_an_exception_at_every_sample_is_logged_now_and_then(monkeypatch, caplog):
    fails_at(7.0, monkeypatch)
    shard = loaded(3)
    [view], _, damaged, _ = shard.apply([part_of([opened("a"), *(sample_of("a", step, [7.0]) for step in range(100))])])
    assert (damaged, len(caplog.records)) == (100, 7)
    assert "failed 100 times, the last time at step 99" in view["flags"][0]["reason"]


def test_lack_of_memory_is_no_fault_of_a_record(monkeypatch):
    def full(tree, point):
        raise MemoryError

    monkeypatch.setattr(IncrementalMST, "add", full)
    with pytest.raises(MemoryError):
        loaded(3).apply([part_of([opened("a"), sample_of("a", 0, [1.0])])])


def sketch(numbers: list[float]) -> sample_pb2.Sketch:
    return sample_pb2.Sketch(values=np.array(numbers, dtype="<f4").tobytes())


def key_of_run(run: str) -> run_pb2.RunKey:
    return run_pb2.RunKey(tenant="t", group="g", run=run)


def opened(run: str, incarnation: int = 1, start: int = 0, *, rank: int = 0, ranks: int = 1):
    descriptor = run_pb2.RunDescriptor(
        key=key_of_run(run), rank=rank, incarnation=incarnation, start_step=start, contributing_ranks=ranks
    )
    return LogKind.RUN_OPENED, log_pb2.RunOpened(descriptor=descriptor)


def stored(run: str, item: sample_pb2.Item, incarnation: int = 1, *, rank: int = 0, newly_dropped: int = 0):
    return LogKind.STORED_ITEM, log_pb2.StoredItem(
        key=key_of_run(run),
        rank=rank,
        incarnation=incarnation,
        item=item.SerializeToString(),
        newly_dropped=newly_dropped,
    )


def sample_of(run: str, step: int, numbers: list[float], incarnation: int = 1, *, rank: int = 0, **losses: float):
    sample = sample_pb2.Sample(step=step, weights=sketch(numbers))
    sample.predictions.sketch.CopyFrom(sketch(numbers))
    for name, value in losses.items():
        sample.scalars.add(name=name, steps=[step], values=[value])
    return stored(run, sample_pb2.Item(schema=1, sample=sample), incarnation, rank=rank)


def part_of(messages) -> Part:
    records = [(index, int(kind), message.SerializeToString()) for index, (kind, message) in enumerate(messages)]
    return Part(3, 1, 0, len(records), records)


huge_floats = st.sampled_from([0.0, 1.0, -1.0, 3e38, -3e38, 1e38, -1e38, 1e-45, 1e19]) | st.floats(
    width=32, allow_nan=False, allow_infinity=False
)
losses = st.sampled_from([1e308, -1e308, 1e-308, 0.0, 1.0, math.nan, math.inf, -math.inf]) | st.floats()
steps = st.integers(0, 60) | st.integers((1 << 62) - 40, (1 << 62) + 40) | st.just((1 << 63) - 1)
ranks = st.sampled_from([0, 0, 0, 1, 4095])
incarnations = st.integers(1, 4) | st.just((1 << 64) - 1)


@st.composite
def hostile(draw, dimension: int):
    kind = draw(st.sampled_from(["sample"] * 8 + ["opened", "end", "dropped", "refused"]))
    rank, incarnation, step = draw(ranks), draw(incarnations), draw(steps)
    if kind == "opened":
        return opened("a", incarnation, step, rank=rank, ranks=draw(st.sampled_from([1, 2, 3, 4096])))
    if kind == "end":
        end = sample_pb2.RunEnd(step=step, results={"accuracy": draw(losses)})
        return stored("a", sample_pb2.Item(schema=1, end=end), incarnation, rank=rank)
    if kind == "dropped":
        dropped = sample_pb2.DroppedRange(incarnation=incarnation, first_seq=0, last_seq=(1 << 64) - 1)
        item = sample_pb2.Item(schema=1, dropped=dropped)
        return stored("a", item, incarnation, rank=rank, newly_dropped=draw(st.integers(0, (1 << 64) - 1)))
    if kind == "refused":
        return LogKind.ITEMS_REJECTED, log_pb2.ItemsRejected(key=key_of_run("a"), rank=rank, seqs=[1, 2])
    sample = sample_pb2.Sample(step=step)
    for body in (sample.weights, sample.predictions.sketch):
        body.CopyFrom(sketch(draw(st.lists(huge_floats, min_size=dimension, max_size=dimension))))
    sample.probe_losses = np.array(draw(st.lists(losses, max_size=3))).astype("<f4").tobytes()
    for name in ("loss", "update_ratio_max", "update_norm", "weight_norm", "nonfinite_weights"):
        count = draw(st.integers(0, 40))
        first = max(0, step - count + 1)
        around = draw(losses)
        logged = range(first, step + 1)
        series = sample.scalars.add(name=name, steps=logged)
        series.values.extend(draw(st.sampled_from([around, -around, 1.0])) for _ in logged)
    return stored("a", sample_pb2.Item(schema=1, sample=sample), incarnation, rank=rank)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # of the test's own losses to float32
@settings(max_examples=150, deadline=None)
@given(data=st.data(), dimension=st.sampled_from([1, 3]), known=st.integers(1, 3))
def test_nothing_that_ingest_lets_through_raises_or_leaves_the_path_without_numbers(data, dimension, known):
    """Huge, tiny and not finite numbers, steps near 2⁶², rewinds, late samples, ends and gaps in any order."""
    messages = [opened("a", rank=rank, ranks=known) for rank in range(known)]
    messages += data.draw(st.lists(hostile(dimension), max_size=40))
    cut = data.draw(st.integers(0, len(messages)))
    shard, part = loaded(3), part_of(messages)
    result = shard.apply([part._replace(next_offset=cut, records=part.records[:cut])])
    assert (result.refused, result.damaged) == ([], 0)
    [(_, offset, state)] = shard.snapshot([3])
    shard = Shard(SMALL)
    assert shard.load(3, 1, offset, state)
    views, _, damaged, _ = shard.apply([part._replace(expected_offset=cut, records=part.records[cut:])])
    assert damaged == 0
    for view in views:
        assert "analysis_failed" not in [flag["detector"] for flag in view["flags"]]
        for path in (view["path"], view["representation"], view["loss_path"]):
            if path is not None:
                numbers = [*(path.pop("e_alpha") or {}).values(), *path.values()]
                assert all(number is None or math.isfinite(number) for number in numbers)
    whole = loaded(3)
    whole.apply([part])
    assert repr(whole.views()) == repr(shard.views())


def test_hostile_runs_keep_their_state_small():
    """A thousand rewinds, thousands of ranks that never complete a step, and endless series leave bounded state."""
    shard = loaded(3)
    messages = [opened("a", ranks=4096)]
    for life in range(1, 1001):
        messages.append(opened("a", life, 1000 - life, ranks=4096))
        messages.append(sample_of("a", (1 << 62) + life, [3e38] * 64, life, loss=1e308))
    for rank in range(100):
        messages += [sample_of("a", step, [1.0] * 64, 1000, rank=rank) for step in range(WAITING + 20)]
    for name in range(3):
        long = sample_pb2.Sample(step=1 << 62)
        long.scalars.add(name=f"s{name}", steps=range(100_000), values=[1e308] * 100_000)
        messages.append(stored("a", sample_pb2.Item(schema=1, sample=long), 1000))
    [view], _, damaged, _ = shard.apply([part_of(messages)])
    assert damaged == 0
    assert view["incomplete"] > 20
    [(_, _, state)] = shard.snapshot([3])
    assert len(state) < 8 << 20
    run = decode(state)["runs"][0]
    assert len({entry["step"] for entry in run["ranks"]["assembly"]["waiting"]}) <= WAITING


def test_what_waits_for_missing_ranks_is_bounded_in_bytes_too(monkeypatch):
    monkeypatch.setattr(assembly, "WAITING_BYTES", 50_000)
    shard = loaded(3)
    messages = [opened("a", rank=rank, ranks=4096) for rank in range(8)]
    messages += [sample_of("a", step, [1.0] * 500, rank=rank) for step in range(20) for rank in range(8)]
    assert shard.apply([part_of(messages)]).views[0]["incomplete"] == 18  # three steps of eight parts have no room
    waiting = decode(shard.snapshot([3])[0][2])["runs"][0]["ranks"]["assembly"]["waiting"]
    assert 30_000 < sum(entry["part"][0].nbytes for entry in waiting) <= 50_000
