"""Synthetic training runs: pure, seeded and endless in supply, for load tests, benchmarks and a first look.

A run is a walk in sketch space that contracts to a minimum, with a loss at every step; each failing kind fails in one
of the ways that the detectors know. Nothing here opens a connection or reads a clock.
"""

from __future__ import annotations

import functools
import math
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from topowatch_protos.schema import SCHEMA
from topowatch_protos.v1 import run_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

DIMENSION: Final = 1021
CLASSES: Final = 10
LEARNING_RATE: Final = 1e-3
HEALTHY: Final = ("contracting", "orbiting")
FAILING: Final = ("nan", "exploding", "flat", "rising", "stalled")
KINDS: Final = (*HEALTHY, *FAILING)


@dataclass(frozen=True)
class RunPlan:
    """What one synthetic run is like.

    Attributes:
        kind: one of KINDS. A failing one behaves well for the first half, save `flat`, which never learns.
        seed: determines everything else about the run's numbers.
        samples: samples in the run; the optimiser steps are `samples * interval`.
        interval: optimiser steps between samples; a loss is logged at each step.
        probes: prediction positions; 0 sends no predictions and no probe losses.
        dimension: numbers in a sketch.
        ranks: ranks among which the model is sharded; each sends a part of its own.
    """

    kind: str = "contracting"
    seed: int = 0
    samples: int = 200
    interval: int = 4
    probes: int = 0
    dimension: int = DIMENSION
    ranks: int = 1
    group: str = "simulated"
    run: str = "run"
    tenant: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no run is of kind {self.kind!r}: choose from {', '.join(KINDS)}")
        if self.samples < 1 or self.interval < 1 or self.probes < 0 or self.dimension < 2:
            raise ValueError("a run needs at least one sample, an interval of at least one step and two dimensions")
        if not 1 <= self.ranks <= self.dimension:
            raise ValueError(f"a run of {self.ranks} ranks cannot share {self.dimension} numbers among them")


def fleet(
    runs: int,
    *,
    failing: float = 0.0,
    seed: int = 0,
    samples: int = 200,
    probes: int = 0,
    ranks: int = 1,
    group: str = "simulated",
) -> list[RunPlan]:
    """Plan `runs` runs; a share `failing` (0 to 1) of them fails, the kinds in turn and spread evenly."""
    plans = []
    failures = 0
    for number in range(runs):
        fails = math.floor((number + 1) * failing + 1e-9) > failures
        kind = FAILING[failures % len(FAILING)] if fails else HEALTHY[(number - failures) % len(HEALTHY)]
        failures += fails
        plans.append(
            RunPlan(
                kind=kind,
                seed=seed * 1_000_003 + number,
                samples=samples,
                probes=probes,
                ranks=ranks,
                group=group,
                run=f"{kind}-{number:04d}",
                labels={"kind": kind, "seed": str(seed)},
            )
        )
    return plans


def descriptor(plan: RunPlan, *, incarnation: int, started_at: float = 0.0, rank: int = 0) -> run_pb2.RunDescriptor:
    """Describe the run as one of its ranks would.

    Args:
        plan: the run.
        incarnation: orders its lives; milliseconds since the epoch in real jobs.
        started_at: Unix time.
        rank: which one.
    """
    described = run_pb2.RunDescriptor(
        key=run_pb2.RunKey(tenant=plan.tenant, group=plan.group, run=plan.run),
        rank=rank,
        world_size=plan.ranks,
        contributing_ranks=plan.ranks,
        incarnation=incarnation,
        writer_uuid=writer_uuid(plan, incarnation, rank),
        labels=plan.labels,
        sketch=run_pb2.SketchSpec(dimension=plan.dimension, seed=0),
        parameter_count=1_000_000,
        client_version="simulated",
    )
    described.started_at.FromNanoseconds(round(started_at * 1e9))
    if plan.probes:
        described.probe.CopyFrom(
            run_pb2.ProbeSpec(
                positions=plan.probes, outputs=CLASSES, kind=run_pb2.OUTPUT_KIND_LOGITS, digest=bytes(range(32))
            )
        )
    return described


def writer_uuid(plan: RunPlan, incarnation: int, rank: int = 0) -> str:
    """Name the spool that this life of a rank would have: the same for the same plan and incarnation."""
    name = f"{plan.tenant}/{plan.group}/{plan.run}/{plan.seed}/{incarnation}" + (f"/{rank}" if rank else "")
    return uuid.uuid5(uuid.NAMESPACE_URL, name).hex


def synthetic_run(
    plan: RunPlan, *, started_at: float = 0.0, seconds_per_step: float = 0.1, rank: int = 0
) -> Iterator[bytes]:
    """Yield a rank's encoded Items in order: `samples` samples, then its end, save for one that stalls.

    Args:
        plan: what the run is like; the same plan yields the same bytes.
        started_at: Unix time of step 0.
        seconds_per_step: between optimiser steps, in the items' own times.
        rank: which one. Its part of the model are every `ranks`-th of the sketch's numbers; rank 0 alone has probes.
    """
    rng = np.random.default_rng(plan.seed)
    losses = _losses(plan, rng)
    points, updates = _path(plan, rng)
    noise = np.random.default_rng([plan.seed, rank])
    mine = np.arange(plan.dimension) % plan.ranks == rank
    failed = plan.samples // 2
    emitted = failed if plan.kind == "stalled" else plan.samples
    for number in range(emitted):
        first, step = number * plan.interval, (number + 1) * plan.interval - 1
        update = updates[number] * mine
        weights = points[number] * mine
        sample = sample_pb2.Sample(
            step=step,
            weights=sample_pb2.Sketch(values=weights.astype("<f4").tobytes()),
            update=sample_pb2.Sketch(values=update.astype("<f4").tobytes()),
            client=sample_pb2.ClientStatus(overhead_ratio=0.002, interval=plan.interval, coverage=1.0),
        )
        sample.time.FromNanoseconds(round((started_at + step * seconds_per_step) * 1e9))
        sample.scalars.add(name="loss", steps=range(first, step + 1), values=losses[first : step + 1])
        weight_norm, update_norm = float(np.linalg.norm(weights)), float(np.linalg.norm(update))
        for name, value in (
            ("weight_norm", weight_norm),
            ("update_norm", update_norm),
            ("update_ratio_max", update_norm / weight_norm),
        ):
            sample.scalars.add(name=name, steps=[step], values=[value])
        ratios = update_norm / weight_norm / plan.interval * np.exp(0.2 * noise.standard_normal(plan.interval))
        for name, values in (
            ("learning_rate", np.full(plan.interval, LEARNING_RATE)),
            ("pulse_update_ratio", ratios),
            ("pulse_gradient_norm", ratios * weight_norm / LEARNING_RATE),
        ):
            sample.scalars.add(name=name, steps=range(first, step + 1), values=values)
        if plan.probes and rank == 0:
            _add_probe(sample, plan, rng, float(losses[step]))
        yield sample_pb2.Item(schema=SCHEMA, sample=sample).SerializeToString(deterministic=True)
    if plan.kind != "stalled":
        last = plan.samples * plan.interval - 1
        end = sample_pb2.RunEnd(step=last, results={"loss": float(losses[last])})
        end.time.FromNanoseconds(round((started_at + last * seconds_per_step) * 1e9))
        yield sample_pb2.Item(schema=SCHEMA, end=end).SerializeToString(deterministic=True)


def _losses(plan: RunPlan, rng: np.random.Generator) -> NDArray[np.float64]:
    """One loss a step: [samples * interval], in nats."""
    steps = np.arange(plan.samples * plan.interval, dtype=np.float64)
    total = len(steps)
    noise = 1.0 + 0.03 * rng.standard_normal(total)
    start = math.log(CLASSES)
    if plan.kind == "flat":
        return start * (1.0 + 0.01 * rng.standard_normal(total))
    losses: NDArray[np.float64] = (0.05 + (start - 0.05) * np.exp(-6.0 * steps / total)) * noise
    after = np.clip(steps - total // 2, 0.0, None) / max(1, total - total // 2)
    if plan.kind == "rising":
        losses += 1.5 * after
    if plan.kind == "exploding":
        losses += np.where(after > 0, np.minimum(np.expm1(14.0 * after), 1e4), 0.0)
    if plan.kind == "nan":
        losses[total // 2 :] = math.nan
    return losses


def _path(plan: RunPlan, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and last updates of the walk, both [samples, dimension]; the distance to the minimum starts at 1.5."""
    samples, dimension = plan.samples, plan.dimension
    origin = rng.standard_normal(dimension)
    origin *= 10.0 / np.linalg.norm(origin)
    start = rng.standard_normal(dimension)
    start *= 1.5 / np.linalg.norm(start)
    progress = np.arange(samples) / samples
    jitter = rng.standard_normal((samples, dimension)) * (0.01 / math.sqrt(dimension))
    points = origin + start * np.exp(-4.0 * progress)[:, None] + jitter
    after = np.clip(progress - 0.5, 0.0, None) * 2.0
    if plan.kind == "orbiting":
        axes = np.linalg.qr(rng.standard_normal((dimension, 2)))[0].T
        angle = 2.0 * math.pi * 6.0 * progress
        circle = np.cos(angle)[:, None] * axes[0] + np.sin(angle)[:, None] * axes[1]
        points += 0.3 * np.minimum(1.0, 3.0 * progress)[:, None] * circle
    if plan.kind == "flat":
        points = origin + np.cumsum(jitter, axis=0)
    if plan.kind == "rising":
        away = rng.standard_normal(dimension)
        points += 1.5 * after[:, None] * away / np.linalg.norm(away)
    if plan.kind == "exploding":
        bounces = rng.standard_normal((samples, dimension)) / math.sqrt(dimension)
        points += (np.where(after > 0, 5.0, 0.0) + 20.0 * after)[:, None] * bounces
    before = np.vstack([points[:1] * 0.999, points[:-1]])
    # One step covers an `interval`-th of the way between two samples; where it explodes, the last step is a jump.
    share = np.where((after > 0) & (plan.kind == "exploding"), 1.0, 1.0 / plan.interval)
    return points, (points - before) * share[:, None]


def _add_probe(sample: sample_pb2.Sample, plan: RunPlan, rng: np.random.Generator, loss: float) -> None:
    """Put predictions and per-probe losses on the sample that agree with its training loss, as far as it is finite."""
    level = loss if math.isfinite(loss) else math.log(CLASSES)
    losses = np.clip(level, 1e-3, 20.0) * rng.gamma(4.0, 0.25, plan.probes)
    confidence = np.exp(-losses)
    truth = np.arange(plan.probes) % CLASSES
    argmax = np.where(confidence > 1.0 / CLASSES, truth, rng.integers(0, CLASSES, plan.probes))
    directions = _directions(plan.probes, plan.dimension)
    root, rest = np.sqrt(confidence), np.sqrt(1.0 - confidence)
    sketch = (root @ directions[0] + rest @ directions[1]) / math.sqrt(plan.probes)
    sample.predictions.sketch.values = sketch.astype("<f4").tobytes()
    sample.predictions.argmax = argmax.astype("<u4").tobytes()
    sample.predictions.confidence = confidence.astype("<f2").tobytes()
    sample.probe_losses = losses.astype("<f4").tobytes()
    sample.scalars.add(name="probe_loss", steps=[sample.step], values=[float(losses.mean())])


@functools.lru_cache(maxsize=1)  # for 256 probes they take 10 ms, the rest of a sample half a one
def _directions(probes: int, dimension: int) -> NDArray[np.float64]:
    """Fixed directions to sketch along, of probes that are right and of those that are not: [2, probes, dimension]."""
    return np.random.default_rng(0).standard_normal((2, probes, dimension)) / math.sqrt(dimension)
