"""Checks of what a client sends: pure functions from bytes or messages to a verdict in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from topowatch_monitor.ingest.limits import DEFAULT_LIMITS, Limits
from topowatch_protos.schema import SCHEMA
from topowatch_protos.v1 import ingest_pb2 as pb
from topowatch_protos.v1 import run_pb2, sample_pb2

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

_WRITER_UUID = re.compile(r"[0-9a-f]{32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FLOAT32 = np.dtype("<f4")
_FIRST_SECOND = -62_135_596_800  # 0001-01-01
_LAST_SECOND = 253_402_300_799  # 9999-12-31
_MAX_POSITIONS = 1 << 20


class Reject(NamedTuple):
    """Why an item is not stored."""

    reason: pb.RejectionReason
    detail: str


class InvalidItemError(ValueError):
    """An item breaks a rule; carries the verdict."""

    def __init__(self, reason: pb.RejectionReason, detail: str) -> None:
        super().__init__(detail)
        self.verdict = Reject(reason, detail)


def check_item(
    encoded: bytes, descriptor: run_pb2.RunDescriptor, limits: Limits = DEFAULT_LIMITS
) -> sample_pb2.Item | Reject:
    """Decode an item and check it against its run's descriptor."""
    if len(encoded) > limits.max_item_bytes:
        return Reject(
            pb.REJECTION_REASON_TOO_LARGE, f"the item has {len(encoded)} bytes, at most {limits.max_item_bytes} fit"
        )
    try:
        item = sample_pb2.Item.FromString(encoded)
    except DecodeError:
        return Reject(pb.REJECTION_REASON_UNDECODABLE, "the bytes are not an Item: truncated or damaged")
    if item.schema > SCHEMA:
        return Reject(
            pb.REJECTION_REASON_NEWER_SCHEMA,
            f"the item speaks schema {item.schema}, this daemon reads up to {SCHEMA}: upgrade the daemon",
        )
    try:
        body = item.WhichOneof("body")
        if body == "sample":
            _check_sample(item.sample, descriptor, limits)
        elif body == "end":
            _check_end(item.end, limits)
        elif body == "dropped":
            _require(item.dropped.first_seq <= item.dropped.last_seq, "a dropped range ends before it begins")
        else:
            raise _malformed("the item has no body")
    except InvalidItemError as error:
        return error.verdict
    return item


def check_key(key: run_pb2.RunKey, limits: Limits = DEFAULT_LIMITS) -> str | None:
    """Say what is wrong with the names of group and run, if anything."""
    for what, name in (("run", key.run), ("group", key.group)):
        if not name:
            return f"the {what} has no name"
        if len(name) > limits.max_text:
            return f"the name of the {what} has {len(name)} characters, at most {limits.max_text} are allowed"
        if _CONTROL.search(name) or "/" in name or "\\" in name or name in {".", ".."}:
            return f"the name of the {what}, {name!r}, is '.' or '..' or has a slash, backslash or control character"
    return None


def check_descriptor(descriptor: run_pb2.RunDescriptor, limits: Limits = DEFAULT_LIMITS) -> str | None:
    """Say what is wrong with a run descriptor, if anything."""
    world = max(1, descriptor.world_size)
    longest = limits.max_text
    rules = (
        (bool(_WRITER_UUID.fullmatch(descriptor.writer_uuid)), "writer_uuid must be 32 lower-case hexadecimal digits"),
        (descriptor.rank < world, f"rank {descriptor.rank} does not fit a world of {world}"),
        (descriptor.contributing_ranks <= world, f"over {world} contributing ranks do not fit the world"),
        (descriptor.start_step >= 0, f"start_step {descriptor.start_step} is negative"),
        (descriptor.first_seq < 1 << 63, f"first_seq {descriptor.first_seq} is out of range"),
        (
            descriptor.sketch.dimension <= limits.max_dimension,
            f"a sketch of {descriptor.sketch.dimension} numbers, at most {limits.max_dimension}: lower sketch_dim",
        ),
        (descriptor.probe.positions <= _MAX_POSITIONS, f"a probe set has at most {_MAX_POSITIONS} positions"),
        (len(descriptor.probe.digest) <= 64, "the digest of the probe set has over 64 bytes"),
        (_is_text(descriptor.client_version, longest), f"client_version is longer than {longest} or not printable"),
        (len(descriptor.labels) <= limits.max_labels, f"over {limits.max_labels} labels"),
        (
            all(
                name and _is_text(name, longest) and _is_text(text, longest) for name, text in descriptor.labels.items()
            ),
            f"a label is empty, longer than {longest} characters or has control characters",
        ),
        (_is_time(descriptor.started_at), "started_at lies outside of the years 1 to 9999"),
    )
    return check_key(descriptor.key, limits) or next((problem for holds, problem in rules if not holds), None)


def _check_sample(sample: sample_pb2.Sample, descriptor: run_pb2.RunDescriptor, limits: Limits) -> None:
    step = sample.step
    _check_moment(step, sample)
    dimension = descriptor.sketch.dimension
    positions = descriptor.probe.positions
    if sample.HasField("weights"):
        _check_sketch("weights", sample.weights, dimension)
    if sample.HasField("update"):
        _check_sketch("update", sample.update, dimension)
    if sample.HasField("gradient"):
        _check_sketch("gradient", sample.gradient, dimension)
    if sample.HasField("predictions"):
        predictions = sample.predictions
        if predictions.HasField("sketch"):
            _check_sketch("predictions", predictions.sketch, dimension)
        _check_length("argmax", predictions.argmax, 4 * positions)
        _check_length("confidence", predictions.confidence, 2 * positions)
    if sample.probe_losses:
        _check_length("probe_losses", sample.probe_losses, 4 * positions)
    if sample.HasField("frames"):
        frames = sample.frames
        _check_name("frames.layer", frames.layer, limits)
        _require(len(frames.values) == 2 * frames.rows * frames.columns, "frames do not have rows × columns values")
    if sample.HasField("loss_slice"):
        plane = sample.loss_slice
        _require(len(plane.values) == 4 * plane.rows * plane.columns, "the loss slice has not rows × columns values")
    scalars = sample.scalars
    _require(len(scalars) <= limits.max_series, "the sample has too many scalar series")
    for series in scalars:
        _check_series(series, step, limits)
    layers = sample.layers
    if layers:
        _require(len(layers) <= limits.max_series, "the sample has too many layers")
        for layer in layers:
            _check_name("a layer", layer.name, limits)


def _check_end(end: sample_pb2.RunEnd, limits: Limits) -> None:
    _check_moment(end.step, end)
    _require(len(end.results) <= limits.max_series, "the run ends with too many results")
    for name in end.results:
        _check_name("a result", name, limits)


def _check_moment(step: int, message: sample_pb2.Sample | sample_pb2.RunEnd) -> None:
    if step < 0:
        raise InvalidItemError(pb.REJECTION_REASON_NEGATIVE_STEP, f"step {step} is negative")
    if message.HasField("time"):
        _require(_is_time(message.time), "the time lies outside of the years 1 to 9999")


def _check_sketch(name: str, sketch: sample_pb2.Sketch, dimension: int) -> None:
    values = sketch.values
    if len(values) != 4 * dimension:
        raise InvalidItemError(
            pb.REJECTION_REASON_SKETCH_DIMENSION,
            f"the sketch of {name} has {len(values)} bytes; {dimension} float32 numbers have {4 * dimension}",
        )
    vector = np.frombuffer(values, _FLOAT32)
    # A sum of squares is finite only if every number is; where it overflows, look at each.
    if not np.isfinite(vector.dot(vector)) and not np.isfinite(vector).all():
        raise InvalidItemError(pb.REJECTION_REASON_NOT_FINITE, f"the sketch of {name} has NaN or infinite numbers")
    boxes = sketch.boxes
    if boxes:
        for box in boxes:
            _check_box(box)


def _check_box(box: sample_pb2.ShardBox) -> None:
    shape, starts, sizes = box.global_shape, box.starts, box.sizes
    fits = len(shape) == len(starts) == len(sizes) and all(
        start + size <= whole for whole, start, size in zip(shape, starts, sizes, strict=True)
    )
    _require(fits, "a shard box does not lie within its parameter")


def _check_series(series: sample_pb2.ScalarSeries, step: int, limits: Limits) -> None:
    _check_name("a series", series.name, limits)
    steps = series.steps
    count = len(steps)
    _require(count == len(series.values), "a series has not one value a step")
    if count == 0:
        return
    _require(steps[0] >= 0 and steps[-1] <= step, "a series has steps below 0 or above the sample's own")
    if count > 1:
        array = np.fromiter(steps, np.int64, count)
        _require(bool((array[1:] > array[:-1]).all()), "the steps of a series do not rise")


def _check_length(name: str, values: bytes, length: int) -> None:
    if len(values) not in (0, length):
        raise _malformed(f"{name} has {len(values)} bytes; {length} fit the probe set")


def _check_name(what: str, name: str, limits: Limits) -> None:
    if not name or len(name) > limits.max_text or not name.isprintable():
        raise _malformed(f"the name of {what} is empty, longer than {limits.max_text} or has control characters")


def _is_text(text: str, longest: int) -> bool:
    return len(text) <= longest and not _CONTROL.search(text)


def _is_time(time: Timestamp) -> bool:
    return _FIRST_SECOND <= time.seconds <= _LAST_SECOND and 0 <= time.nanos < 1_000_000_000


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _malformed(otherwise)


def _malformed(detail: str) -> InvalidItemError:
    return InvalidItemError(pb.REJECTION_REASON_MALFORMED, detail)
