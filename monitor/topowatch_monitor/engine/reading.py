"""Reads what analysis needs out of log messages; what is damaged is refused as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from topowatch_monitor.detect.layers import FIELDS
from topowatch_protos.framing import LogKind
from topowatch_protos.schema import SCHEMA
from topowatch_protos.v1 import log_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.timestamp_pb2 import Timestamp
    from numpy.typing import NDArray

    from topowatch_protos.v1 import run_pb2

Message = log_pb2.RunOpened | log_pb2.StoredItem | log_pb2.ItemsRejected | log_pb2.Forecast
_KINDS: dict[int, type[Message]] = {
    LogKind.RUN_OPENED: log_pb2.RunOpened,
    LogKind.STORED_ITEM: log_pb2.StoredItem,
    LogKind.ITEMS_REJECTED: log_pb2.ItemsRejected,
    LogKind.FORECAST: log_pb2.Forecast,
}


class Plane(NamedTuple):
    """A slice of the loss, or why there is none.

    Attributes:
        request: id of the request that it answers.
        step: at whose end the weights were its centre.
        values: losses, rows × columns; 0 × 0 where there are none.
        extent: half the side, in filter norms.
        problem: why there are none, in words.
    """

    request: str
    step: int
    values: NDArray[np.float32]
    extent: float
    problem: str


@dataclass(frozen=True)
class Reading:
    """What a sample says, as arrays.

    Attributes:
        step: optimiser steps since the start of training.
        time: Unix seconds at the client; None where it gave none.
        scalars: name, steps and values of each series.
        weights: sketch of the weights, or of this rank's part.
        representation: sketch of the predictions on the probes.
        said: class that is predicted on each probe, and its probability; None where none were sent.
        probe_losses: loss on each probe; None where none were sent.
        probe_loss: their mean.
        layers: names of layers, and what is known of them (layers × FIELDS); None where none were sent.
        frames: features of the representation on the probes, n × d; None where none were sent, or not all are finite.
        gradient: sketch of the gradient; None where none was sent.
        critical_step: multiple of the last update at which the loss stands above where that began, positive.
        curvature: of the loss along the last update, in loss a squared unit of the weights.
        plane: a slice of the loss.
        status: the client's overhead_ratio, interval and coverage; None where it gave none.
    """

    step: int
    time: float | None
    scalars: list[tuple[str, NDArray[np.int64], NDArray[np.float64]]]
    weights: NDArray[np.float32] | None
    representation: NDArray[np.float32] | None
    said: tuple[NDArray[np.uint32], NDArray[np.float16]] | None
    probe_losses: NDArray[np.float32] | None
    probe_loss: float | None
    layers: tuple[list[str], NDArray[np.float32]] | None
    frames: NDArray[np.float16] | None
    gradient: NDArray[np.float32] | None
    critical_step: float | None
    curvature: float | None
    plane: Plane | None
    status: tuple[float, int, float] | None


def parse(kind: int, payload: bytes) -> Message | None:
    """Parse a log record; None for kinds that no run state depends on.

    Raises:
        google.protobuf.message.DecodeError: the payload is not a message of its kind.
    """
    message = _KINDS.get(kind)
    return None if message is None else message.FromString(payload)


def key_of(message: Message) -> run_pb2.RunKey:
    """The run that a log message is about."""
    return message.descriptor.key if isinstance(message, log_pb2.RunOpened) else message.key


def step_of(message: Message) -> int | None:
    """The step that a log message is about; None for one that names none or cannot be read."""
    if isinstance(message, log_pb2.RunOpened):
        return message.descriptor.start_step
    if isinstance(message, log_pb2.ItemsRejected):
        return None
    if isinstance(message, log_pb2.Forecast):
        return message.step
    try:
        item = sample_pb2.Item.FromString(message.item)
    except DecodeError:
        return None
    body = item.WhichOneof("body")
    return item.sample.step if body == "sample" else item.end.step if body == "end" else None


def seconds(time: Timestamp) -> float | None:
    """Unix seconds of a timestamp; None for one that was never set."""
    return time.seconds + time.nanos * 1e-9 if time.seconds or time.nanos else None


def read_item(data: bytes) -> sample_pb2.Item:
    """Decode an item.

    Raises:
        ValueError: it is newer than this version, or has no body.
        google.protobuf.message.DecodeError: it is no item.
    """
    item = sample_pb2.Item.FromString(data)
    if item.schema > SCHEMA:
        raise ValueError(f"an item of schema {item.schema}; this version reads up to {SCHEMA}")
    if item.WhichOneof("body") is None:
        raise ValueError("an item without a body")
    return item


def read_sample(sample: sample_pb2.Sample) -> Reading:
    """Turn a sample into arrays; raises ValueError if any part of it is malformed."""
    if sample.step < 0:
        raise ValueError(f"step {sample.step} is negative")
    client = sample.client
    losses = _read_losses(sample.probe_losses)
    return Reading(
        step=sample.step,
        time=seconds(sample.time),
        scalars=[_read_series(series, sample.step) for series in sample.scalars],
        weights=_read_sketch(sample.weights) if sample.HasField("weights") else None,
        representation=_read_sketch(sample.predictions.sketch) if sample.predictions.HasField("sketch") else None,
        said=_read_said(sample.predictions) if sample.predictions.argmax else None,
        probe_losses=losses,
        probe_loss=None if losses is None else _mean(losses),
        layers=_read_layers(sample.layers) if sample.layers else None,
        frames=_read_frames(sample.frames) if sample.HasField("frames") else None,
        gradient=_read_sketch(sample.gradient) if sample.HasField("gradient") else None,
        critical_step=_read_critical(sample.curvature) if sample.HasField("curvature") else None,
        curvature=_read_secant(sample.curvature) if sample.HasField("curvature") else None,
        plane=_read_plane(sample.loss_slice, sample.step) if sample.HasField("loss_slice") else None,
        status=(client.overhead_ratio, client.interval, client.coverage) if sample.HasField("client") else None,
    )


def _read_series(series: sample_pb2.ScalarSeries, last: int) -> tuple[str, NDArray[np.int64], NDArray[np.float64]]:
    # By way of lists, which takes a third of the time.
    steps = np.array(series.steps[:], dtype=np.int64)
    values = np.array(series.values[:], dtype=np.float64)
    if len(steps) != len(values):
        raise ValueError(f"{series.name}: {len(steps)} steps, {len(values)} values")
    if len(steps) and (steps[0] < 0 or steps[-1] > last or (steps[1:] <= steps[:-1]).any()):
        raise ValueError(f"{series.name}: its steps do not rise from 0 up to the sample's own")
    return series.name, steps, values


def _read_sketch(sketch: sample_pb2.Sketch) -> NDArray[np.float32] | None:
    if not sketch.values:
        return None
    if len(sketch.values) % 4:
        raise ValueError(f"a sketch of {len(sketch.values)} bytes is no row of float32")
    values = np.frombuffer(sketch.values, dtype="<f4").astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ValueError("a sketch with NaN or infinite numbers")
    return values


def _read_said(predictions: sample_pb2.Predictions) -> tuple[NDArray[np.uint32], NDArray[np.float16]] | None:
    """None where the probabilities are not those of the classes, as of a client that sends none."""
    if len(predictions.argmax) % 4 or len(predictions.confidence) % 2:
        raise ValueError("predictions whose bytes are no row of uint32, or of float16")
    classes = np.frombuffer(predictions.argmax, dtype="<u4").astype(np.uint32, copy=False)
    confidence = np.frombuffer(predictions.confidence, dtype="<f2").astype(np.float16, copy=False)
    return (classes, confidence) if len(classes) == len(confidence) and np.isfinite(confidence).all() else None


def _read_losses(losses: bytes) -> NDArray[np.float32] | None:
    if not losses:
        return None
    if len(losses) % 4:
        raise ValueError(f"probe losses of {len(losses)} bytes are no row of float32")
    return np.frombuffer(losses, dtype="<f4").astype(np.float32, copy=False)


def _read_layers(layers: Sequence[sample_pb2.LayerStatistics]) -> tuple[list[str], NDArray[np.float32]]:
    values = np.array([[getattr(layer, field) for field in FIELDS] for layer in layers], dtype=np.float32)
    return [layer.name for layer in layers], values


def _read_frames(frames: sample_pb2.Frames) -> NDArray[np.float16] | None:
    if len(frames.values) != 2 * frames.rows * frames.columns:
        raise ValueError(f"{len(frames.values)} bytes are not {frames.rows} × {frames.columns} numbers of float16")
    values = np.frombuffer(frames.values, dtype="<f2").astype(np.float16, copy=False)
    return values.reshape(frames.rows, frames.columns) if np.isfinite(values).all() and len(values) else None


def _read_critical(curvature: sample_pb2.Curvature) -> float | None:
    """None where it is no positive number, as where only the curvature is known."""
    return curvature.critical_step if 0 < curvature.critical_step < np.inf else None


def _read_secant(curvature: sample_pb2.Curvature) -> float | None:
    return curvature.secant if curvature.secant and np.isfinite(curvature.secant) else None


def _read_plane(sent: sample_pb2.LossSlice, last: int) -> Plane:
    shape = sent.rows, sent.columns
    if len(sent.values) != 4 * sent.rows * sent.columns:
        raise ValueError(f"a loss slice of {len(sent.values)} bytes is not {sent.rows} × {sent.columns} float32")
    if sent.values and not (sent.rows % 2 and sent.columns % 2 and min(shape) >= 3):
        raise ValueError(f"a loss slice of {sent.rows} × {sent.columns} has no centre with a point on each side")
    if not 0 <= sent.step <= last:
        raise ValueError(f"a loss slice of step {sent.step} in a sample of step {last}")
    values = np.frombuffer(sent.values, dtype="<f4").reshape(shape).astype(np.float32, copy=False)
    return Plane(sent.request, sent.step, values, sent.extent, sent.problem)


def _mean(losses: NDArray[np.float32]) -> float:
    with np.errstate(invalid="ignore"):  # infinities of both signs have no mean: NaN, which detectors look for
        return float(losses.mean(dtype=np.float64))
