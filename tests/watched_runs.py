"""Small real trainings on scikit-learn's digits, through the real client, and what the daemon's state says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from client_loops import entries_at
from replication.data import load, split
from topowatch_client import attach
from topowatch_monitor.demo.trainer import network
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.engine.told import RunSettings
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = RunSettings(path=PathSettings(window=16, h1_every=1 << 20, shape_every=1 << 20))


@dataclass
class Training:
    """A run to be.

    Attributes:
        rate: learning rate at a step, as a multiple of the optimiser's.
        before: called before each step with its number.
        share: of the training data that is used.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int = 800
    batch: int = 32
    rate: Callable[[int], float] = lambda _: 1.0
    before: Callable[[int], object] = lambda _: None
    share: float = 1.0
    seed: int = 0


@dataclass
class Watched:
    """What became of it: (step, detector, reason) whenever a flag went on, None as reason when it went off."""

    state: RunState
    changes: list[tuple[int, str, str | None]] = field(default_factory=list)

    def raised(self) -> dict[str, int]:
        """First step of each flag."""
        return {name: step for step, name, reason in reversed(self.changes) if reason is not None}


def train(training: Training, spool: Path) -> str:
    """Train and return the directory of what the client left."""
    parts = split(load("digits"), 0)
    data = parts.train[torch.arange(int(training.share * len(parts.train)))]
    generator = torch.Generator().manual_seed(training.seed)
    rates = [group["lr"] for group in training.optimizer.param_groups]
    watch = attach(
        training.model,
        training.optimizer,
        run="r",
        probe=(parts.probe.inputs, parts.probe.targets),
        loss=nn.CrossEntropyLoss(reduction="none"),
        config={"mode": "offline", "spool_dir": spool, "interval": 4, "probe_interval": 8},
    )
    for step in range(training.steps):
        training.before(step)
        for group, rate in zip(training.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * training.rate(step)
        chosen = torch.randint(len(data), (training.batch,), generator=generator)
        training.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(training.model(data.inputs[chosen]), data.targets[chosen])
        loss.backward()
        training.optimizer.step()
        watch.log(loss=loss)
    directory = watch.status["spool"]
    watch.finish()
    return directory


def judged(spool: str) -> Watched:
    """Let a run's state take in what a client left."""
    watched, on, opened = Watched(RunState("t", "g", "r", SMALL)), {}, set()
    for entry in entries_at(spool):
        incarnation = entry.descriptor.incarnation
        if incarnation not in opened:
            opened.add(incarnation)
            record = log_pb2.RunOpened(descriptor=entry.descriptor)
            assert watched.state.apply(LogKind.RUN_OPENED, record.SerializeToString())
        item = log_pb2.StoredItem(key=entry.descriptor.key, incarnation=incarnation, item=entry.envelope.item)
        assert watched.state.apply(LogKind.STORED_ITEM, item.SerializeToString())
        view = watched.state.view()
        found = {flag["detector"]: flag["reason"] for flag in view["flags"]}
        step = view["step"] or 0
        watched.changes += [(step, name, reason) for name, reason in found.items() if name not in on]
        watched.changes += [(step, name, None) for name in on if name not in found]
        on = found
    return watched


def mlp(activation: type[nn.Module] = nn.ReLU, depth: int = 2, width: int = 64) -> nn.Sequential:
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), activation())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), activation(), *hidden, nn.Linear(width, 10))


def cnn(norm: bool = False) -> nn.Sequential:
    layers = list(network().children())
    return nn.Sequential(layers[0], *([nn.BatchNorm2d(16)] if norm else []), *layers[1:])
