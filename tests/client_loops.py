"""Small training loops for the client's tests, and what they left in the spool."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from topowatch_client.spool_reader import SpoolReader
from topowatch_protos.v1 import sample_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from topowatch_client import Watch
    from topowatch_client.messages import ProbeResult
    from topowatch_client.probe_result import Found
    from topowatch_client.spool_reader import Entry


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    after: Callable[[torch.Tensor], object] | None = None,
) -> None:
    inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        if after is not None:
            after(loss)


def entries(watch: Watch) -> list[Entry]:
    """Return what is in the spool, with the sample that the next hook would put there."""
    if watch._observer is not None:
        watch._observer._emit()
    return entries_at(watch.status["spool"])


def entries_at(spool: str) -> list[Entry]:
    reader, found = SpoolReader(Path(spool)), []
    while part := reader.read(1 << 30, 1 << 30):
        found += part
    return found


def items(watch: Watch) -> list[sample_pb2.Item]:
    return [sample_pb2.Item.FromString(entry.envelope.item) for entry in entries(watch)]


def items_at(spool: str) -> list[sample_pb2.Item]:
    return [sample_pb2.Item.FromString(entry.envelope.item) for entry in entries_at(spool)]


def samples_at(spool: str) -> list[sample_pb2.Sample]:
    return [item.sample for item in items_at(spool) if item.HasField("sample")]


def samples(watch: Watch) -> list[sample_pb2.Sample]:
    return [item.sample for item in items(watch) if item.HasField("sample")]


def looked_at(watch: Watch) -> list[int]:
    """Return the steps with a sample of the weights; scalars that come late travel alone."""
    return [sample.step for sample in samples(watch) if sample.weights.values]


def on_host(found: Found) -> ProbeResult:
    """Read what a probe pass found."""
    return found.reading.result({name: values.cpu().numpy() for name, values in found.tensors.items()})


def scalars(sample: sample_pb2.Sample) -> dict[str, dict[int, float]]:
    return {series.name: dict(zip(series.steps, series.values, strict=True)) for series in sample.scalars}


def merged(found: list[sample_pb2.Sample], name: str) -> dict[int, float]:
    values: dict[int, float] = {}
    for sample in found:
        values |= scalars(sample).get(name, {})
    return values


def numbers(sketch: sample_pb2.Sketch) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(sketch.values, "<f4")
