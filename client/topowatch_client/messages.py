"""Turns plain values into encoded protobuf messages; the only place of the trainer's side that knows the wire."""

from __future__ import annotations

import importlib.metadata
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from topowatch_client import names
from topowatch_protos.schema import SCHEMA
from topowatch_protos.v1 import run_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import numpy as np

    from topowatch_client.scalars import Series

    Array = np.ndarray[Any, np.dtype[Any]]


def installed_version() -> str:
    """Return the version of the installed distribution, "unknown" where this code runs without being installed."""
    try:
        return importlib.metadata.version("topowatch")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


VERSION = installed_version()
_OUTPUT_KINDS = {
    "logits": run_pb2.OUTPUT_KIND_LOGITS,
    "probs": run_pb2.OUTPUT_KIND_PROBS,
    "values": run_pb2.OUTPUT_KIND_VALUES,
}


@dataclass(frozen=True)
class ProbeFacts:
    """What the descriptor says about the probe set."""

    positions: int
    outputs: int
    kind: str
    digest: bytes


@dataclass(frozen=True)
class RunFacts:
    """What stays the same over all incarnations of a writer."""

    group: str
    run: str
    rank: int
    world_size: int
    contributing_ranks: int  # whose sketches add up to the model's
    writer_uuid: str
    labels: Mapping[str, str]
    sketch_dim: int
    sketch_seed: int
    parameter_count: int


class LayerStatistics(NamedTuple):
    """What is known of one layer; NaN where it was not measured."""

    weight_norm: float = math.nan
    update_norm: float = math.nan
    gradient_norm: float = math.nan
    activation_mean: float = math.nan
    activation_deviation: float = math.nan
    activation_kurtosis: float = math.nan  # 3 for a Gaussian, 0 where nothing varies
    zero_fraction: float = math.nan
    saturated_fraction: float = math.nan  # of bounded activations alone
    attention_entropy: float = math.nan  # 1 where rows are uniform, 0 where all is on one position

    def joined(self, other: LayerStatistics | None) -> LayerStatistics:
        """Return what either of two knows of the same layer."""
        if other is None:
            return self
        pairs = zip(self, other, strict=True)
        return LayerStatistics(*(theirs if math.isnan(ours) else ours for ours, theirs in pairs))


@dataclass(frozen=True)
class ProbeResult:
    """One probe pass, on the host. Arrays have one entry a position; empty where there is nothing to say."""

    sketch: Array  # float32, sketch dimension
    argmax: Array  # uint32
    confidence: Array  # float16
    losses: Array | None = None  # float32
    mean_loss: float | None = None
    layer: str = ""
    frames: Array | None = None  # float16, positions × features
    layers: Mapping[str, LayerStatistics] = field(default_factory=dict)  # activations by module name


class CriticalStep(NamedTuple):
    """What a search along the last update found."""

    multiple: float  # of that update, at which the loss stands above where the update began
    curvature: float  # of the loss along it; NaN where it is not known
    learning_rate: float


class LossSlice(NamedTuple):
    """A plane through the weights, or why there is none."""

    request: str  # that it answers
    step: int  # of its centre
    side: int = 0
    extent: float = 0.0
    values: Array | None = None  # float32, side²
    problem: str = ""


@dataclass
class SampleParts:
    """What one sample carries; None where there is nothing."""

    step: int
    weights: Array | None = None
    update: Array | None = None
    gradient: Array | None = None
    critical: CriticalStep | None = None
    loss_slice: LossSlice | None = None
    series: Sequence[Series] = field(default_factory=tuple)
    probe: ProbeResult | None = None
    layers: Mapping[str, LayerStatistics] = field(
        default_factory=dict
    )  # by module name, at most 1,000 with the probe's
    overhead_ratio: float = 0.0
    interval: int = 0
    spooled_bytes: int = 0
    coverage: float = 1.0


def encode_descriptor(
    facts: RunFacts, *, incarnation: int, start_step: int, first_seq: int, probe: ProbeFacts | None
) -> bytes:
    """Encode a RunDescriptor for one incarnation that starts now."""
    descriptor = run_pb2.RunDescriptor(
        key=run_pb2.RunKey(group=facts.group, run=facts.run),
        rank=facts.rank,
        world_size=facts.world_size,
        contributing_ranks=facts.contributing_ranks,
        incarnation=incarnation,
        start_step=start_step,
        first_seq=first_seq,
        writer_uuid=facts.writer_uuid,
        labels=facts.labels,
        sketch=run_pb2.SketchSpec(dimension=facts.sketch_dim, seed=facts.sketch_seed),
        parameter_count=facts.parameter_count,
        client_version=VERSION,
    )
    descriptor.started_at.FromNanoseconds(time.time_ns())
    if probe is not None:
        descriptor.probe.CopyFrom(
            run_pb2.ProbeSpec(
                positions=probe.positions,
                outputs=probe.outputs,
                kind=_OUTPUT_KINDS[probe.kind],
                digest=probe.digest,
            )
        )
    return descriptor.SerializeToString()


def encode_sample(parts: SampleParts) -> bytes:
    """Encode an Item that carries a Sample taken now."""
    sample = sample_pb2.Sample(
        step=parts.step,
        client=sample_pb2.ClientStatus(
            overhead_ratio=parts.overhead_ratio,
            interval=parts.interval,
            spooled_bytes=parts.spooled_bytes,
            coverage=parts.coverage,
        ),
    )
    sample.time.FromNanoseconds(time.time_ns())
    for series in parts.series:
        sample.scalars.append(sample_pb2.ScalarSeries(name=series.name, steps=series.steps, values=series.values))
    if parts.weights is not None:
        sample.weights.values = _little(parts.weights, "<f4")
    if parts.update is not None:
        sample.update.values = _little(parts.update, "<f4")
    if parts.gradient is not None:
        sample.gradient.values = _little(parts.gradient, "<f4")
    if parts.critical is not None:
        step, bend, rate = parts.critical
        sample.curvature.CopyFrom(sample_pb2.Curvature(critical_step=step, secant=bend, learning_rate=rate))
    if parts.loss_slice is not None:
        _put_slice(sample.loss_slice, parts.loss_slice)
    seen = parts.probe.layers if parts.probe is not None else {}
    for name in dict.fromkeys([*parts.layers, *seen]):
        layer = parts.layers.get(name, LayerStatistics()).joined(seen.get(name))
        sample.layers.append(sample_pb2.LayerStatistics(name=names.of_value(name), **layer._asdict()))
    if parts.probe is not None:
        _put_probe(sample, parts.probe)
    return sample_pb2.Item(schema=SCHEMA, sample=sample).SerializeToString()


def encode_end(step: int, results: Mapping[str, float]) -> bytes:
    """Encode an Item that carries a RunEnd made now."""
    end = sample_pb2.RunEnd(step=step, results=results)
    end.time.FromNanoseconds(time.time_ns())
    return sample_pb2.Item(schema=SCHEMA, end=end).SerializeToString()


def _put_probe(sample: sample_pb2.Sample, probe: ProbeResult) -> None:
    sample.predictions.sketch.values = _little(probe.sketch, "<f4")
    sample.predictions.argmax = _little(probe.argmax, "<u4")
    sample.predictions.confidence = _little(probe.confidence, "<f2")
    if probe.losses is not None:
        sample.probe_losses = _little(probe.losses, "<f4")
    if probe.frames is not None:
        sample.frames.CopyFrom(
            sample_pb2.Frames(
                layer=names.of_value(probe.layer),
                rows=probe.frames.shape[0],
                columns=probe.frames.shape[1],
                values=_little(probe.frames, "<f2"),
            )
        )


def _put_slice(message: sample_pb2.LossSlice, found: LossSlice) -> None:
    message.request, message.step, message.problem = found.request, found.step, found.problem
    if found.values is not None:
        message.rows = message.columns = found.side
        message.extent, message.values = found.extent, _little(found.values, "<f4")


def _little(array: Array, dtype: str) -> bytes:
    return array.astype(dtype, copy=False).tobytes()
