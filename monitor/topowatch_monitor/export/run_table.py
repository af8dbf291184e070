"""One run as a columnar table: a row a step, its scalars, and its sketches where there is a sample."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from topowatch_monitor.engine.lineage import NEVER, Lineage, Span
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from topowatch_monitor.store.log import Record
    from topowatch_protos.v1 import run_pb2

FIXED = ("step", "received_at", "weights", "representation")


class RunTable:
    """Collects the log records of one run; `table` then holds what is on its path.

    What one incarnation of a rank says of a step is left out if a newer one began at or before that step. Scalars and
    representation are those of the lowest rank; the parts of a sharded model are added up.
    """

    def __init__(self) -> None:
        self._descriptor: run_pb2.RunDescriptor | None = None
        self._lives: dict[int, Lineage] = defaultdict(Lineage)  # by rank
        self._samples: dict[tuple[int, int, int], tuple[sample_pb2.Sample, int]] = {}  # (rank, incarnation, step)

    def add(self, records: Iterable[Record]) -> RunTable:
        """Take records in the order of the log."""
        for record in records:
            if record.kind == LogKind.RUN_OPENED:
                descriptor = log_pb2.RunOpened.FromString(record.payload).descriptor
                self._lives[descriptor.rank].open(descriptor.incarnation, descriptor.start_step)
                if self._descriptor is None or descriptor.rank <= self._descriptor.rank:
                    self._descriptor = descriptor
            elif record.kind == LogKind.STORED_ITEM:
                stored = log_pb2.StoredItem.FromString(record.payload)
                item = sample_pb2.Item.FromString(stored.item)
                if item.HasField("sample"):
                    place = stored.rank, stored.incarnation, item.sample.step
                    self._samples[place] = item.sample, stored.received_at.ToMicroseconds()
        return self

    def table(self) -> pa.Table:
        """Build the table, ordered by step.

        Columns: `step`; `received_at` (of the step's sample, UTC; null between samples); one float64 column a scalar;
        `weights` and, where probes were sent, `representation`: float32 lists of the sketch's numbers, null where
        there is no sample or not every rank's part has come. A scalar named as one of these gets the prefix `scalar_`.

        Raises:
            ValueError: there is no run in the records.
        """
        if self._descriptor is None:
            raise ValueError("the records hold no run")
        samples: dict[int, dict[int, sample_pb2.Sample]] = defaultdict(dict)  # by step and rank
        received: dict[int, int] = {}
        scalars: dict[str, dict[int, float]] = defaultdict(dict)
        for (rank, incarnation, step), (sample, received_at) in self._samples.items():
            span = self._span(rank, incarnation)
            if step in span:
                samples[step][rank] = sample
                received[step] = max(received_at, received.get(step, received_at))
            if rank == self._descriptor.rank:
                for series in sample.scalars:
                    pairs = zip(series.steps, series.values, strict=True)
                    scalars[series.name].update((at, value) for at, value in pairs if at in span)
        steps = sorted(samples.keys() | {step for values in scalars.values() for step in values})
        columns: dict[str, pa.Array] = {
            "step": pa.array(steps, pa.int64()),
            "received_at": pa.array([received.get(step) for step in steps], pa.timestamp("us", "UTC")),
        }
        for name in sorted(scalars):
            title = f"scalar_{name}" if name in FIXED else name
            columns[title] = pa.array([scalars[name].get(step) for step in steps], pa.float64())
        columns["weights"] = _vectors(steps, {step: self._sum(ranks) for step, ranks in samples.items()})
        representation = {step: _predictions(ranks.get(self._descriptor.rank)) for step, ranks in samples.items()}
        if any(vector is not None for vector in representation.values()):
            columns["representation"] = _vectors(steps, representation)
        return pa.table(columns, metadata={"topowatch": json.dumps(self._metadata())})

    def _span(self, rank: int, incarnation: int) -> Span:
        lives = self._lives[rank]
        return lives.span(incarnation) if incarnation in lives else Span(0, NEVER)

    def _sum(self, ranks: Mapping[int, sample_pb2.Sample]) -> NDArray[np.float32] | None:
        """Add up the parts of a sharded model; None unless all are there."""
        sketches = [sample.weights.values for _, sample in sorted(ranks.items())]
        parts = [np.frombuffer(sketch, "<f4") for sketch in sketches if sketch]
        if len(parts) < max(1, self._descriptor.contributing_ranks if self._descriptor else 1):
            return None
        total: NDArray[np.float32] = np.sum(parts, axis=0, dtype=np.float32)
        return total

    def _metadata(self) -> dict[str, Any]:
        if self._descriptor is None:
            return {}
        key = self._descriptor.key
        return {"tenant": key.tenant, "group": key.group, "run": key.run, "labels": dict(self._descriptor.labels)}


def _vectors(steps: list[int], vectors: Mapping[int, NDArray[np.float32] | None]) -> pa.Array:
    # Not a fixed-size list: pyarrow cannot read one with nulls back from Parquet ("Expected all lists to be of size").
    return pa.array([vectors.get(step) for step in steps], pa.list_(pa.float32()))


def _predictions(sample: sample_pb2.Sample | None) -> NDArray[np.float32] | None:
    if sample is None or not sample.predictions.sketch.values:
        return None
    vector: NDArray[np.float32] = np.frombuffer(sample.predictions.sketch.values, "<f4")
    return vector
