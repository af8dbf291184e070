"""Statistics of layers in the state of a run: read from samples, kept over rollbacks and snapshots, and judged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from topowatch_monitor.detect import DETECTORS, Thresholds
from topowatch_monitor.detect.effective_rank import effective_rank
from topowatch_monitor.detect.layers import FIELDS
from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.judgement import Judgement
from topowatch_monitor.engine.reading import read_sample
from topowatch_monitor.engine.run_state import RunState
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

KEY = run_pb2.RunKey(tenant="t", group="g", run="r")


def opened(run, incarnation=1, start=0, *, ranks=1, digest=b"p"):
    record = log_pb2.RunOpened()
    record.descriptor.key.CopyFrom(KEY)
    record.descriptor.incarnation, record.descriptor.start_step = incarnation, start
    record.descriptor.contributing_ranks = ranks
    record.descriptor.probe.digest = digest
    assert run.apply(LogKind.RUN_OPENED, record.SerializeToString())


def sample(step, *, gradient=1.0, frames=None):
    body = sample_pb2.Sample(step=step)
    for name, norm in (("first", gradient), ("last", 1.0)):
        layer = body.layers.add(name=name, **dict.fromkeys(FIELDS, math.nan))
        layer.weight_norm, layer.update_norm, layer.gradient_norm = 2.0, 1e-3, norm
    if frames is not None:
        body.frames.rows, body.frames.columns = frames.shape
        body.frames.layer, body.frames.values = "last", frames.astype("<f2").tobytes()
    return body


def store(run, body, incarnation=1):
    item = sample_pb2.Item(schema=1, sample=body).SerializeToString()
    record = log_pb2.StoredItem(key=KEY, incarnation=incarnation, item=item)
    return run.apply(LogKind.STORED_ITEM, record.SerializeToString())


def run_with(gradients):
    run = RunState("t", "g", "r")
    opened(run)
    for number, gradient in enumerate(gradients):
        assert store(run, sample(8 * number, gradient=gradient))
    return run


def flags(run):
    return [(flag["detector"], flag["severity"], flag["since_step"]) for flag in run.view()["flags"]]


def test_layers_of_samples_are_judged_and_a_rollback_forgets_what_it_supersedes() -> None:
    run = run_with([1.0, 1.0, 1e-12, 1e-12, 1e-12])
    assert flags(run) == [("vanishing_gradient", "warning", 32)]
    assert run.history.layers.steps == [0, 8, 16, 24, 32]
    opened(run, 2, 16)
    assert run.history.layers.steps == [0, 8]
    assert flags(run) == []


def test_a_snapshot_brings_layers_back_and_the_next_sample_finds_the_same() -> None:
    run = run_with([1.0, 1e-12, 1e-12])
    again = RunState.from_state(decode(encode(run.state_dict())))
    for each in (run, again):
        assert store(each, sample(24, gradient=1e-12))
        assert flags(each) == [("vanishing_gradient", "warning", 24)]
    assert encode(run.state_dict()) == encode(again.state_dict())


def test_layers_of_a_sharded_model_are_parts_and_are_left_out() -> None:
    run = RunState("t", "g", "r")
    opened(run, ranks=2)
    for step in range(5):
        assert store(run, sample(step, gradient=1e-12))
    assert len(run.history.layers) == 0


def test_the_rank_of_frames_is_a_scalar_of_the_run_and_begins_anew_on_another_probe_set() -> None:
    frames = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float16)
    run = run_with([])
    assert store(run, sample(8, frames=frames))
    assert run.view()["scalars"]["representation_rank"] == pytest.approx(effective_rank(frames))
    broken = frames.copy()
    broken[3, 3] = np.nan
    assert store(run, sample(16, frames=broken))
    assert len(run.history["representation_rank"]) == 1
    opened(run, 2, 24, digest=b"q")
    assert len(run.history["representation_rank"]) == 0


def test_frames_of_the_wrong_size_are_damage() -> None:
    body = sample(0, frames=np.zeros((3, 2)))
    body.frames.rows = 4
    with pytest.raises(ValueError, match="12 bytes are not 4 × 2"):
        read_sample(body)
    assert not store(run_with([]), body)


def test_fields_of_layers_keep_their_places() -> None:
    body = sample_pb2.Sample(step=1)
    body.layers.add(name="a", **{field: number for number, field in enumerate(FIELDS)})
    reading = read_sample(body)
    assert reading.layers is not None
    assert reading.layers[0] == ["a"]
    assert reading.layers[1].tolist() == [list(range(len(FIELDS)))]


def test_no_warning_makes_a_minimum_unstable() -> None:
    run = run_with([])
    run.history.extend("loss", range(200), np.geomspace(2, 0.01, 200))
    warnings = [each.name for each in DETECTORS if each.severity == "warning"]
    state = {"flags": {name: [1, "on"] for name in warnings}, "minimum_unstable": False, "levels": {}}
    judgement = Judgement.from_state(state, Thresholds())
    judgement.rewind(run.history, 100)
    assert len(warnings) >= 19
    assert not judgement.minimum_unstable
