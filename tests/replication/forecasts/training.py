"""One training of a sweep, watched by several real clients at once: without labels, with validation, with a shift."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from replication.forecasts.data import parts_of, shifted
from replication.forecasts.networks import build
from topowatch_client import attach
from topowatch_client.slices import Slice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from replication.forecasts.data import Batch
    from replication.forecasts.sweep import Configuration

# Steps between looks. The governor chooses them for steps of 0.1 s and more; these take some milliseconds.
INTERVALS = {"interval": 8, "probe_interval": 16, "pulse_interval": 16, "critical_interval": 64}
VALIDATED_EVERY = 16  # steps between values of the validation metric
SLICE_SIDE = 13
_SLICE_EXAMPLES = 256
_MEASURED = 2_000  # training examples that the accuracy on them is taken from


def train(configuration: Configuration, endpoint: str, spool: Path) -> dict[str, Any]:
    """Train a network; samples go to the daemon at `endpoint` through spools below `spool`.

    Returns:
        results: as given to `Watch.finish`, by group and name.
        slice: losses of a plane through the final weights, on training data; SLICE_SIDE rows.
        samples: of each handle, by group.

    Raises:
        RuntimeError: a handle was not on to the end.
    """
    logging.getLogger("topowatch").setLevel(logging.ERROR)
    cell, parts = configuration.cell, parts_of(configuration.cell.data)
    torch.manual_seed(configuration.seed)
    model = build(cell.architecture, cell.data, configuration.width)
    optimiser = _optimiser(configuration, model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, configuration.steps)
    shared: dict[str, Any] = {"run": configuration.run, "labels": configuration.labels, "endpoint": endpoint}
    config = {"spool_dir": spool, **INTERVALS}
    probes = {cell.name: (parts.probe[0], None), cell.validated: parts.probe}
    tests = {cell.name: parts.test, cell.validated: parts.test}
    for shift in configuration.shifts:
        probes[cell.shifted(shift)] = shifted(parts.probe[0], shift), None
        tests[cell.shifted(shift)] = shifted(parts.test[0], shift), parts.test[1]
    watches = {
        group: attach(model, optimiser, group=group, probe=probe, loss=_each, config=config, **shared)
        for group, probe in probes.items()
    }
    lesson = _noisy(parts.train, configuration, parts.classes)
    generator = torch.Generator().manual_seed(configuration.seed)
    for step in range(configuration.steps):
        inputs, targets = _rows(lesson, torch.randint(len(lesson[0]), (configuration.batch,), generator=generator))
        optimiser.zero_grad()
        loss = cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        loss.backward()
        optimiser.step()
        schedule.step()
        for watch in watches.values():
            watch.log(loss=loss)
        if step % VALIDATED_EVERY == VALIDATED_EVERY - 1:
            watches[cell.validated].log(val_accuracy=accuracy(model, parts.validation))
    measured = lesson[0][:_MEASURED], lesson[1][:_MEASURED]
    taught = accuracy(model, measured)
    results = {
        group: {"test_accuracy": accuracy(model, test), "train_accuracy": taught} for group, test in tests.items()
    }
    for group, watch in watches.items():
        watch.finish(**results[group])
        if watch.status["error"]:
            raise RuntimeError(f"{configuration.run} of {group}: {watch.status['error']}")
    samples = {group: watch.status["samples"] for group, watch in watches.items()}
    seen = _rows(lesson, torch.arange(_SLICE_EXAMPLES if cell.data != "text" else _SLICE_EXAMPLES // 8))
    return {"results": results, "slice": _slice(model, seen, configuration.seed), "samples": samples}


@torch.no_grad()
def accuracy(model: nn.Module, batch: Batch) -> float:
    """Return the share of positions whose class is predicted, in evaluation mode."""
    model.eval()
    right = [(model(inputs).argmax(-1) == targets).flatten() for inputs, targets in zip(*_split(batch), strict=True)]
    model.train()
    return float(torch.cat(right).float().mean())


def _split(batch: Batch) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    return batch[0].split(500), batch[1].split(500)


def _rows(batch: Batch, chosen: torch.Tensor) -> Batch:
    return batch[0][chosen], batch[1][chosen]


def _optimiser(configuration: Configuration, model: nn.Module) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": configuration.rate, "weight_decay": configuration.decay}
    if configuration.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=0.9, **common)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[configuration.optimiser](model.parameters(), **common)


def _noisy(batch: Batch, configuration: Configuration, classes: int) -> Batch:
    """Replace a share of the targets by other classes, evenly drawn; the same all along the run."""
    generator = torch.Generator().manual_seed(configuration.seed + 1)
    inputs, targets = batch
    wrong = torch.rand(targets.shape, generator=generator) < configuration.noise
    shift = torch.randint(1, classes, targets.shape, generator=generator)
    return inputs, torch.where(wrong, (targets + shift) % classes, targets)


def _each(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")


def _slice(model: nn.Module, batch: Batch, seed: int) -> list[list[float]]:
    """Take a plane of the training loss through the weights; the model evaluates, as it does when it is used."""

    @contextlib.contextmanager
    def losses() -> Iterator[Callable[[], torch.Tensor]]:
        with torch.no_grad():
            yield lambda: cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())

    model.eval()
    plane = Slice(model, SLICE_SIDE, seed)
    while not plane.complete:
        plane.take_point(losses)
    return plane.result().view(SLICE_SIDE, SLICE_SIDE).tolist()
