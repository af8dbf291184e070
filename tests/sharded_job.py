"""A job whose ranks each send their part of a model, as the log holds it, and what it has to add up to."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from topowatch_monitor.detect import Thresholds
from topowatch_monitor.engine.lineage import generation_of
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.ranks import Ranks
from topowatch_monitor.engine.reading import parse, read_item, read_sample
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.engine.told import RunSettings
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from topowatch_monitor.engine.assembly import Part

    Record = tuple[int, bytes]

DIMENSION = 5
KEY = run_pb2.RunKey(tenant="t", group="g", run="r")
SETTINGS = RunSettings(path=PathSettings(window=256, h1_every=10**9, shape_every=10**9))


@dataclass(frozen=True)
class Life:
    """What one rank sends from one start to its end: an interval a sample, at which the next one is due."""

    rank: int
    incarnation: int = 1
    start: int = 0
    ranks: int = 2  # that contribute
    world: int = 8
    stop: int = 32
    intervals: Sequence[int] = (1,)  # in turn; the last one stays
    scalars: dict[str, float] = field(default_factory=dict)

    @property
    def paces(self) -> list[tuple[int, int]]:
        """Steps of the samples, each with the interval that is told with it."""
        found, step, turn = [], self.start, 0
        while step < self.stop:
            interval = self.intervals[min(turn, len(self.intervals) - 1)]
            found.append((step, interval))
            step += interval - step % interval
            turn += 1
        return found

    @property
    def steps(self) -> set[int]:
        return {step for step, _ in self.paces}

    def part(self, step: int) -> NDArray[np.float32]:
        """The rank's sketch at a step, another one in each life."""
        generator = np.random.default_rng([self.rank, self.incarnation, step])
        return (generator.standard_normal(DIMENSION) * 10.0 ** generator.integers(-3, 4)).astype(np.float32)

    def opened(self, at: int = 100) -> Record:
        record = log_pb2.RunOpened()
        record.descriptor.key.CopyFrom(KEY)
        record.descriptor.rank, record.descriptor.world_size = self.rank, self.world
        record.descriptor.contributing_ranks = self.ranks
        record.descriptor.incarnation, record.descriptor.start_step = self.incarnation, self.start
        record.descriptor.sketch.dimension = DIMENSION
        record.received_at.seconds = at
        return LogKind.RUN_OPENED, record.SerializeToString()

    def sample(self, step: int, interval: int = 1, at: int = 100, **scalars: float) -> Record:
        """A sample with the part's norm, and the loss of this life."""
        body = sample_pb2.Sample(step=step)
        part = self.part(step)
        body.weights.values = part.astype("<f4").tobytes()
        body.client.interval = interval
        told = {"loss": self.incarnation + self.rank / 10, "weight_norm": norm(part), **self.scalars, **scalars}
        for name, value in told.items():
            body.scalars.add(name=name, steps=[step], values=[value])
        return self.stored(sample_pb2.Item(schema=1, sample=body), at)

    def ended(self, at: int = 100, **results: float) -> Record:
        return self.stored(sample_pb2.Item(schema=1, end=sample_pb2.RunEnd(step=self.stop, results=results)), at)

    def stored(self, item: sample_pb2.Item, at: int = 100) -> Record:
        record = log_pb2.StoredItem(key=KEY, rank=self.rank, incarnation=self.incarnation)
        record.item = item.SerializeToString()
        record.received_at.seconds = at
        return LogKind.STORED_ITEM, record.SerializeToString()

    def records(self) -> list[Record]:
        """All that it sends, in order."""
        return [self.opened(), *(self.sample(step, interval) for step, interval in self.paces)]


def norm(vector: NDArray[Any]) -> float:
    return math.hypot(*vector.tolist())


def interleaved(streams: Iterable[Sequence[Record]], seed: int, stretch: int = 12) -> list[Record]:
    """All streams in one, each in its own order, up to `stretch` records of one at a time."""
    generator = np.random.default_rng(seed)
    waiting = [list(stream) for stream in streams]
    records: list[Record] = []
    while waiting:
        stream = waiting[generator.integers(len(waiting))]
        count = int(generator.integers(1, stretch + 1))
        records += stream[:count]
        del stream[:count]
        waiting = [stream for stream in waiting if stream]
    return records


def whole_of(lives: Sequence[Life]) -> dict[int, list[Life]]:
    """The lives that make each step whole: of each rank the newest that starts there or before, all begun together."""
    ranks = sorted({life.rank for life in lives})
    found = {}
    for step in range(max(life.stop for life in lives)):
        owners = []
        for rank in ranks:
            mine = [life for life in lives if life.rank == rank and life.start <= step]
            owners += [max(mine, key=lambda life: life.incarnation)] if mine else []
        if not owners or owners[0].rank != ranks[0]:
            continue
        leader = owners[0]
        begun = (leader.start, leader.world, leader.ranks)
        parts = [each for each in owners if (each.start, each.world, each.ranks) == begun and step in each.steps]
        if leader.ranks <= 1:
            parts = parts[:1] if leader in parts else []
        if leader in parts and len(parts) == leader.ranks:
            found[step] = parts
    return found


def total(parts: Sequence[Life], step: int) -> NDArray[np.float64]:
    """The sketch of the whole model: the sum in float64, rounded once."""
    summed = np.stack([life.part(step) for life in parts]).astype(np.float64).sum(axis=0)
    return summed.astype(np.float32).astype(np.float64)


def run_of(records: Iterable[Record], settings: RunSettings = SETTINGS) -> RunState:
    run = RunState("t", "g", "r", settings)
    for record in records:
        assert run.apply(*record)
    return run


def wholes_of(records: Iterable[Record]) -> tuple[Ranks, dict[int, Part]]:
    """What the parts add up to by step, without all the rest of a run."""
    ranks, wholes = Ranks(Thresholds()), {}
    for kind, payload in records:
        message = parse(kind, payload)
        if isinstance(message, log_pb2.RunOpened):
            ranks.meet(message.descriptor.rank)
            ranks.open(message.descriptor.rank, message.descriptor.incarnation, generation_of(message.descriptor), None)
        elif isinstance(message, log_pb2.StoredItem):
            reading = read_sample(read_item(message.item).sample)
            whole = ranks.take(message.rank, message.incarnation, reading, None)
            if whole is not None:
                assert reading.step not in wholes
                wholes[reading.step] = whole
    return ranks, wholes


def check(run: RunState, lives: Sequence[Life]) -> None:
    """Hold the path, its length, the norms and the losses of a run against what its lives add up to."""
    expected = whole_of(lives)
    assert run.path.steps == sorted(expected)
    points = [total(expected[step], step) for step in sorted(expected)]
    length = sum(float(np.linalg.norm(after - before)) for before, after in itertools.pairwise(points))
    assert math.isclose(run.path.length or 0.0, length, rel_tol=1e-5)
    norms = run.history["weight_norm"]
    told = {
        step: math.hypot(*(norm(life.part(step)) for life in parts)) if len(parts) > 1 else norm(parts[0].part(step))
        for step, parts in expected.items()
    }
    assert dict(zip(norms.steps.tolist(), norms.values.tolist(), strict=True)) == told
    losses = run.history["loss"]
    leader = min(life.rank for life in lives)
    mine = [life for life in lives if life.rank == leader]
    owner = {
        step: max((life for life in mine if life.start <= step), key=lambda life: life.incarnation)
        for step in range(max(life.stop for life in mine))
        if any(life.start <= step for life in mine)
    }
    kept = {step: life.incarnation + leader / 10 for step, life in owner.items() if step in life.steps}
    assert dict(zip(losses.steps.tolist(), losses.values.tolist(), strict=True)) == kept
