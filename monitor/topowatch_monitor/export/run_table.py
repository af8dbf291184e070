"""One run as a columnar table: a row a step, its scalars, and its sketches where there is a sample."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from topowatch_monitor.engine.assembly import PARTIAL, add_up, part_of
from topowatch_monitor.engine.lineage import NEVER, Generation, Lineage, Span, generation_of
from topowatch_monitor.engine.reading import read_sample
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from topowatch_monitor.engine.assembly import Part
    from topowatch_monitor.store.log import Record
    from topowatch_protos.v1 import run_pb2

FIXED = ("step", "received_at", "weights", "representation")


class RunTable:
    """Collects the log records of one run; `table` then holds what is on its path.

    The lowest rank leads. What one of its lives says of a step is left out if a newer one began at or before that step;
    scalars and representation are its own. The parts of a sharded model are added up, as on the path.
    """

    def __init__(self) -> None:
        self._descriptor: run_pb2.RunDescriptor | None = None
        self._lives: dict[int, Lineage] = defaultdict(Lineage)  # by rank
        self._samples: list[tuple[int, int, sample_pb2.Sample, int]] = []  # with rank, incarnation, received_at

    def add(self, records: Iterable[Record]) -> RunTable:
        """Take records in the order of the log."""
        for record in records:
            if record.kind == LogKind.RUN_OPENED:
                descriptor = log_pb2.RunOpened.FromString(record.payload).descriptor
                self._lives[descriptor.rank].open(descriptor.incarnation, generation_of(descriptor))
                if self._descriptor is None or descriptor.rank <= self._descriptor.rank:
                    self._descriptor = descriptor
            elif record.kind == LogKind.STORED_ITEM:
                stored = log_pb2.StoredItem.FromString(record.payload)
                item = sample_pb2.Item.FromString(stored.item)
                if item.HasField("sample"):
                    received_at = stored.received_at.ToMicroseconds()
                    self._samples.append((stored.rank, stored.incarnation, item.sample, received_at))
        return self

    def table(self) -> pa.Table:
        """Build the table, ordered by step.

        Columns: `step`; `received_at` (of the leader's sample, UTC; null between samples); one float64 column a scalar;
        `weights` and, where probes were sent, `representation`: float32 lists of the sketch's numbers, null where
        there is no sample or not every rank's part has come. A scalar named as one of these gets the prefix `scalar_`.

        Raises:
            ValueError: there is no run in the records.
        """
        if self._descriptor is None:
            raise ValueError("the records hold no run")
        received: dict[int, int] = {}
        scalars: dict[str, dict[int, float]] = defaultdict(dict)
        weights: dict[int, NDArray[np.float32] | None] = {}
        representation: dict[int, NDArray[np.float32]] = {}
        for incarnation, sample, received_at in self._led():
            generation, span = self._life(incarnation)
            for series in sample.scalars:
                if generation.ranks <= 1 or series.name not in PARTIAL:
                    pairs = zip(series.steps, series.values, strict=True)
                    scalars[series.name].update((at, value) for at, value in pairs if at in span)
            if sample.step not in span:
                continue
            received[sample.step] = max(received_at, received.get(sample.step, received_at))
            if generation.ranks <= 1 and sample.weights.values:
                weights.setdefault(sample.step, np.frombuffer(sample.weights.values, "<f4"))
            if sample.predictions.sketch.values:
                representation.setdefault(sample.step, np.frombuffer(sample.predictions.sketch.values, "<f4"))
        for step, whole in self._wholes():
            weights[step] = whole.weights
            for name, value in whole.scalars.items():
                scalars[name][step] = value
        steps = sorted(received.keys() | {step for values in scalars.values() for step in values})
        columns: dict[str, pa.Array] = {
            "step": pa.array(steps, pa.int64()),
            "received_at": pa.array([received.get(step) for step in steps], pa.timestamp("us", "UTC")),
        }
        for name in sorted(scalars):
            title = f"scalar_{name}" if name in FIXED else name
            columns[title] = pa.array([scalars[name].get(step) for step in steps], pa.float64())
        columns["weights"] = _vectors(steps, weights)
        if representation:
            columns["representation"] = _vectors(steps, representation)
        return pa.table(columns, metadata={"topowatch": json.dumps(self._metadata())})

    def _led(self) -> Iterator[tuple[int, sample_pb2.Sample, int]]:
        """The leader's samples, with their incarnation and when they were stored."""
        leader = self._descriptor.rank if self._descriptor else 0
        return ((incarnation, sample, at) for rank, incarnation, sample, at in self._samples if rank == leader)

    def _life(self, incarnation: int) -> tuple[Generation, Span]:
        """Generation and steps of a life of the leader; all steps where its descriptor was lost."""
        lives = self._lives[self._descriptor.rank if self._descriptor else 0]
        if incarnation in lives:
            return lives.lives[incarnation], lives.span(incarnation)
        return Generation(0, 1, 1), Span(0, NEVER)

    def _wholes(self) -> Iterator[tuple[int, Part]]:
        """What the parts of a sharded model add up to, at each step at which all are there."""
        leader = self._descriptor.rank if self._descriptor else 0
        places: dict[tuple[int, Generation], dict[int, Part]] = defaultdict(dict)
        for rank, incarnation, sample, _ in self._samples:
            lineage = self._lives[rank]
            generation = lineage.lives.get(incarnation)
            if generation is None or generation.ranks <= 1 or sample.step not in lineage.span(incarnation):
                continue
            reach, part = self._lives[leader].reach(generation), part_of(read_sample(sample))
            if part is not None and reach is not None and sample.step in reach:
                places[sample.step, generation].setdefault(rank, part)
        for (step, generation), parts in places.items():
            if len(parts) == generation.ranks and leader in parts:
                yield step, add_up([parts[rank] for rank in sorted(parts)])

    def _metadata(self) -> dict[str, Any]:
        if self._descriptor is None:
            return {}
        key = self._descriptor.key
        return {"tenant": key.tenant, "group": key.group, "run": key.run, "labels": dict(self._descriptor.labels)}


def _vectors(steps: list[int], vectors: Mapping[int, NDArray[np.float32] | None]) -> pa.Array:
    # Not a fixed-size list: pyarrow cannot read one with nulls back from Parquet ("Expected all lists to be of size").
    return pa.array([vectors.get(step) for step in steps], pa.list_(pa.float32()))
