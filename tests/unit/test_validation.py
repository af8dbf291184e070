"""What ingest refuses, and that it refuses nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topowatch_monitor.ingest.limits import Limits
from topowatch_monitor.ingest.validation import Reject, check_descriptor, check_item, check_key
from topowatch_protos.v1 import ingest_pb2 as pb
from topowatch_protos.v1 import run_pb2, sample_pb2

DIMENSION = 21
POSITIONS = 5
NAN, INF = float("nan"), float("inf")


def descriptor(**changes: object) -> run_pb2.RunDescriptor:
    made = run_pb2.RunDescriptor(
        key=run_pb2.RunKey(group="digits", run="seed-1"), world_size=2, contributing_ranks=1, writer_uuid="0a" * 16,
        sketch=run_pb2.SketchSpec(dimension=DIMENSION), probe=run_pb2.ProbeSpec(positions=POSITIONS),
    )  # fmt: skip
    made.MergeFrom(run_pb2.RunDescriptor(**changes))  # type: ignore[arg-type]  # fields by name
    return made


def sketch(*values: float) -> sample_pb2.Sketch:
    numbers = np.resize(np.array(values or (0.5, -2.0, 3.0), "<f4"), DIMENSION)
    return sample_pb2.Sketch(values=numbers.tobytes())


def full_sample() -> sample_pb2.Sample:
    """A sample that uses every field."""
    box = sample_pb2.ShardBox(parameter="w", global_shape=[8, 4], starts=[4, 0], sizes=[4, 4])
    sample = sample_pb2.Sample(
        step=10, weights=sketch(), update=sketch(), gradient=sketch(), probe_losses=bytes(4 * POSITIONS),
        predictions=sample_pb2.Predictions(
            sketch=sketch(), argmax=bytes(4 * POSITIONS), confidence=bytes(2 * POSITIONS)
        ),
        frames=sample_pb2.Frames(layer="fc", rows=2, columns=3, values=bytes(12)),
        loss_slice=sample_pb2.LossSlice(rows=2, columns=2, extent=1.0, values=bytes(16)),
        scalars=[sample_pb2.ScalarSeries(name="loss", steps=[8, 9, 10], values=[NAN, INF, 0.1])],
        layers=[sample_pb2.LayerStatistics(name="fc", weight_norm=NAN)],
        curvature=sample_pb2.Curvature(critical_step=INF), client=sample_pb2.ClientStatus(coverage=1.0),
    )  # fmt: skip
    sample.weights.boxes.append(box)
    sample.time.FromSeconds(1_700_000_000)
    return sample


def verdict(sample: sample_pb2.Sample, **of_item: int) -> Reject | sample_pb2.Item:
    item = sample_pb2.Item(sample=sample, **{"schema": 1, **of_item})
    return check_item(item.SerializeToString(), descriptor())


def changed(**fields: object) -> sample_pb2.Sample:
    sample = full_sample()
    for path, value in fields.items():
        *outer, last = path.split("__")
        target = sample
        for name in outer:
            target = target[int(name)] if name.isdigit() else getattr(target, name)
        if isinstance(value, list):
            del getattr(target, last)[:]
            getattr(target, last).extend(value)
        elif isinstance(value, sample_pb2.Sketch):
            getattr(target, last).CopyFrom(value)
        else:
            setattr(target, last, value)
    return sample


def test_a_sample_that_uses_every_field_is_taken() -> None:
    assert verdict(full_sample()) == sample_pb2.Item(schema=1, sample=full_sample())


def test_a_sample_with_nothing_but_a_step_is_taken() -> None:
    assert isinstance(verdict(sample_pb2.Sample()), sample_pb2.Item)


def test_finite_numbers_whose_squares_overflow_are_taken() -> None:
    assert isinstance(verdict(changed(weights=sketch(3e38, -3e38))), sample_pb2.Item)


@pytest.mark.parametrize("name", ["weights", "update", "gradient", "predictions__sketch"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_sketches_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    result = verdict(changed(**{name: sketch(1.0, bad, 2.0)}))
    assert isinstance(result, Reject)
    assert result.reason == pb.REJECTION_REASON_NOT_FINITE
    assert name.split("__", maxsplit=1)[0] in result.detail


@pytest.mark.parametrize("name", ["weights", "update", "gradient", "predictions__sketch"])
@pytest.mark.parametrize("size", [0, 4 * DIMENSION - 4, 4 * DIMENSION + 4, 4 * DIMENSION - 1])
def test_sketches_of_another_dimension_are_refused(name: str, size: int) -> None:
    result = verdict(changed(**{f"{name}__values": bytes(size)}))
    assert isinstance(result, Reject)
    assert result.reason == pb.REJECTION_REASON_SKETCH_DIMENSION
    assert f"{size} bytes" in result.detail
    assert str(4 * DIMENSION) in result.detail


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"probe_losses": bytes(8)}, "probe_losses has 8 bytes; 20"),
        ({"predictions__argmax": bytes(8)}, "argmax has 8 bytes; 20"),
        ({"predictions__confidence": bytes(8)}, "confidence has 8 bytes; 10"),
        ({"frames__rows": 3}, "rows × columns"),
        ({"frames__layer": ""}, "frames.layer"),
        ({"loss_slice__values": bytes(15)}, "rows × columns"),
        ({"scalars__0__values": [1.0]}, "one value a step"),
        ({"scalars__0__steps": [8, 8, 9]}, "do not rise"),
        ({"scalars__0__steps": [9, 8, 10]}, "do not rise"),
        ({"scalars__0__steps": [8, 9, 11]}, "above the sample's own"),
        ({"scalars__0__steps": [-1, 9, 10]}, "below 0"),
        ({"scalars__0__name": ""}, "a series"),
        ({"scalars__0__name": "lo\nss"}, "a series"),
        ({"layers__0__name": "x" * 201}, "a layer"),
        ({"weights__boxes__0__sizes": [4]}, "shard box"),
        ({"weights__boxes__0__starts": [5, 0]}, "shard box"),
        ({"time__seconds": 1 << 60}, "years 1 to 9999"),
        ({"time__nanos": -1}, "years 1 to 9999"),
    ],
)
def test_malformed_samples_are_refused_with_what_is_wrong(fields: dict[str, object], says: str) -> None:
    result = verdict(changed(**fields))
    assert isinstance(result, Reject)
    assert result.reason == pb.REJECTION_REASON_MALFORMED
    assert says in result.detail


def test_a_negative_step_is_refused() -> None:
    result = verdict(sample_pb2.Sample(step=-1))
    assert result == Reject(pb.REJECTION_REASON_NEGATIVE_STEP, "step -1 is negative")
    end = sample_pb2.Item(schema=1, end=sample_pb2.RunEnd(step=-3)).SerializeToString()
    assert check_item(end, descriptor()) == Reject(pb.REJECTION_REASON_NEGATIVE_STEP, "step -3 is negative")


def test_an_item_of_a_newer_schema_is_refused_with_advice() -> None:
    result = verdict(full_sample(), schema=2)
    assert isinstance(result, Reject)
    assert result.reason == pb.REJECTION_REASON_NEWER_SCHEMA
    assert "schema 2" in result.detail
    assert "upgrade the daemon" in result.detail


def test_a_body_of_a_newer_schema_is_not_taken_for_an_empty_item() -> None:
    """An unknown field where the body should be (field 15) is no body."""
    result = check_item(b"\x08\x01\x7a\x01x", descriptor())
    assert result == Reject(pb.REJECTION_REASON_MALFORMED, "the item has no body")


def test_an_item_that_is_too_large_is_not_even_decoded() -> None:
    result = check_item(bytes(101), descriptor(), Limits(max_item_bytes=100))
    assert result == Reject(pb.REJECTION_REASON_TOO_LARGE, "the item has 101 bytes, at most 100 fit")


@given(st.integers(0, 100_000))
def test_truncated_bytes_are_refused(cut: int) -> None:
    """No cut of a whole item raises, and none passes."""
    whole = sample_pb2.Item(schema=1, sample=full_sample()).SerializeToString()
    result = check_item(whole[: cut % len(whole)], descriptor())
    assert isinstance(result, Reject)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(garbage: bytes) -> None:
    assert isinstance(check_item(garbage, descriptor()), Reject | sample_pb2.Item)


def test_a_dropped_range_that_ends_before_it_begins_is_refused() -> None:
    dropped = sample_pb2.DroppedRange(first_seq=5, last_seq=4)
    result = check_item(sample_pb2.Item(schema=1, dropped=dropped).SerializeToString(), descriptor())
    assert isinstance(result, Reject)
    assert result.reason == pb.REJECTION_REASON_MALFORMED


def test_series_layers_and_results_are_bounded() -> None:
    limits = Limits(max_series=2)
    many = [sample_pb2.ScalarSeries(name=str(n)) for n in range(3)]
    layers = [sample_pb2.LayerStatistics(name=str(n)) for n in range(3)]
    for item in (
        sample_pb2.Item(schema=1, sample=sample_pb2.Sample(scalars=many)),
        sample_pb2.Item(schema=1, sample=sample_pb2.Sample(layers=layers)),
        sample_pb2.Item(schema=1, end=sample_pb2.RunEnd(results={str(n): 0.0 for n in range(3)})),
    ):
        result = check_item(item.SerializeToString(), descriptor(), limits)
        assert isinstance(result, Reject)
        assert "too many" in result.detail


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "a\nb", "a\x7f", ".", "..", "x" * 201])
def test_names_that_would_break_paths_or_terminals_are_refused(name: str) -> None:
    assert check_key(run_pb2.RunKey(group="g", run=name)) is not None
    assert check_key(run_pb2.RunKey(group=name, run="r")) is not None


@pytest.mark.parametrize("name", ["seed-1", "Lernrate 0,1 µ", "日本語", "x" * 200, "...", "a b"])
def test_other_names_are_fine(name: str) -> None:
    assert check_key(run_pb2.RunKey(group=name, run=name)) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"writer_uuid": "0A" * 16}, "writer_uuid"),
        ({"writer_uuid": "0a" * 15}, "writer_uuid"),
        ({"rank": 2}, "rank 2 does not fit a world of 2"),
        ({"contributing_ranks": 3}, "contributing ranks"),
        ({"start_step": -1}, "start_step -1 is negative"),
        ({"first_seq": 1 << 63}, "first_seq"),
        ({"sketch": run_pb2.SketchSpec(dimension=4097)}, "at most 4096: lower sketch_dim"),
        ({"probe": run_pb2.ProbeSpec(positions=1 << 21)}, "positions"),
        ({"probe": run_pb2.ProbeSpec(digest=bytes(65))}, "digest"),
        ({"client_version": "1" * 201}, "client_version"),
        ({"labels": {"": "x"}}, "label"),
        ({"labels": {"a": "x\x1b[2J"}}, "label"),
        ({"labels": {"a": "x" * 201}}, "label"),
        ({"labels": {str(n): "" for n in range(65)}}, "64 labels"),
        ({"key": run_pb2.RunKey(run="a/b")}, "slash"),
    ],
)
def test_bad_descriptors_are_refused_with_what_is_wrong(changes: dict[str, object], says: str) -> None:
    problem = check_descriptor(descriptor(**changes))
    assert problem is not None
    assert says in problem


def test_a_good_descriptor_is_fine() -> None:
    assert check_descriptor(descriptor(labels={"lr": "0.1", "note": "two words"}, first_seq=7, rank=1)) is None
