"""The shard: epochs and offsets are kept to the letter, and a snapshot is as good as the log before it."""

from __future__ import annotations

import numpy as np
import pytest

from topowatch_monitor.engine.codec import CodecError
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.run_state import RunSettings
from topowatch_monitor.engine.shard import Part, Shard
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

SMALL = RunSettings(path=PathSettings(window=16, h1_every=4, h1_landmarks=8))


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
        shard.load(number, epoch, 0, None)
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
    assert result == ([], [refusal])
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
    revived.load(3, 2, offset, state)
    assert revived.apply([Part(3, 1, cut, 80, records[cut:])]).refused == [(3, 2, cut)]
    assert revived.apply([Part(3, 2, cut, 80, records[cut:])]).refused == []
    assert sorted(map(repr, revived.views())) == sorted(map(repr, steady.views()))


def test_loading_replaces_what_was_there():
    shard = loaded(3)
    shard.apply([Part(3, 1, 0, 6, records_of("a", 5))])
    shard.load(3, 2, 0, None)
    assert shard.views() == []
    assert shard.apply([Part(3, 1, 6, 7, [])]).refused == [(3, 2, 0)]


def test_a_damaged_snapshot_is_refused_and_leaves_the_shard_as_it_was():
    shard = loaded(3)
    shard.apply([Part(3, 1, 0, 6, records_of("a", 5))])
    with pytest.raises(CodecError):
        shard.load(3, 2, 6, b"not a snapshot")
    assert [view["samples"] for view in shard.views()] == [5]


def test_a_record_that_cannot_be_decoded_is_counted_and_the_rest_applied():
    shard = loaded(3)
    records = records_of("a", 3)
    records[2] = (2, int(LogKind.STORED_ITEM), b"\xff\xff\xff")
    records.append((4, 77, b"a kind of the future"))
    result = shard.apply([Part(3, 1, 0, 5, records)])
    assert shard.damaged == 1
    assert result.views[0]["samples"] == 2
