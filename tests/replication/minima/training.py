"""One watched training: what the client put into its spool and when, and what a run without it would tell at most."""

from __future__ import annotations

import logging
import math
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from replication.minima.failures import HEALTHY, KINDS, Failure, recipe_of
from replication.minima.tasks import TASKS, loss_of
from topowatch_client import attach
from topowatch_client.spool_reader import SpoolReader

if TYPE_CHECKING:
    from replication.minima.tasks import Batch, Task
    from topowatch_client import Watch

# What the governor settles on by itself with the models of bench_overhead.py (docs/bench-overhead.md), whose steps take
# 0.2 s and more. These networks take some milliseconds, so here it is fixed.
INTERVALS = {"interval": 64, "probe_interval": 1024, "pulse_interval": 1}
HEALTHY_STEPS = 2000
ONSETS = range(300, 300 + INTERVALS["interval"])  # drawn from: all places between two looks are equally likely
AFTER = {"slow": 400, "abrupt": 240}  # steps that a failure has: one that comes back within 200 is no departure
_PROBES = 128  # of the probe baseline


@dataclass(frozen=True)
class Job:
    """One run of the suite; `kind` is one of KINDS or of HEALTHY, `interval` the steps from look to look."""

    task: str
    kind: str
    seed: int
    interval: int = INTERVALS["interval"]

    @property
    def onset(self) -> int | None:
        """First step at which something is wrong; None for a healthy run."""
        if self.kind in HEALTHY:
            return None
        return 0 if self.kind == "warmup" else int(np.random.default_rng(self.salt).choice(ONSETS))

    @property
    def salt(self) -> int:
        """What its onset, weights and batches come from: no two runs share them, so no healthy step counts twice."""
        return zlib.crc32(f"{self.task} {self.kind} {self.seed}".encode())

    @property
    def steps(self) -> int:
        """How long it may last."""
        return HEALTHY_STEPS if self.onset is None else self.onset + AFTER[KINDS[self.kind].onset]


def train(job: Job) -> dict[str, np.ndarray]:
    """Train it with the client attached.

    Returns:
        losses, gradients (norms as they are before any clipping, with what a bug has scaled them by), rates, probes
        (mean loss on fixed probes): one a step, T; arrived (int64): how many items were in the spool at the end of each
        step, T; items (uint8) and their lengths; descriptor (uint8).
    """
    logging.getLogger("topowatch").setLevel(logging.ERROR)
    torch.manual_seed(job.salt)
    task = TASKS[job.task]
    failure = Failure(job.steps) if job.onset is None else KINDS[job.kind].plant(job.onset)
    with tempfile.TemporaryDirectory() as folder:
        model = task.build()
        recipe = recipe_of(job.kind, task, job.seed, failure.onset)
        optimiser = recipe.optimiser_of(model)
        config = {"mode": "offline", "spool_dir": folder, **INTERVALS, "interval": job.interval}
        probe = task.probe()
        watch = attach(model, optimiser, run="run", probe=probe, loss=_each, config=config)
        generator = torch.Generator().manual_seed(job.salt + 1)
        columns: dict[str, list[float]] = {name: [] for name in ("losses", "gradients", "rates", "probes", "arrived")}
        for step in range(job.steps):
            batch = failure.batch(step, task.draw(generator, failure.size(step, recipe.batch)), generator)
            rate = failure.rate(step, recipe.rate(step, _length(job)))
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            clip = failure.clip(step, recipe.clip)
            whole = nn.utils.clip_grad_norm_(model.parameters(), math.inf if clip is None else clip)
            clipped = _norm(model)
            failure.gradients(step, model)
            gradient = whole * _norm(model) / clipped.clamp(min=1e-30)
            optimiser.step()
            failure.weights(step, model, generator)
            columns["arrived"].append(watch.status["samples"])
            watch.log(loss=loss)
            values = (loss.item(), gradient.item(), rate, _probe_loss(model, task, probe))
            for name, value in zip(("losses", "gradients", "rates", "probes"), values, strict=True):
                columns[name].append(value)
            if len(columns["losses"]) >= 8 and not np.isfinite(columns["losses"][-8:]).any():
                break
        return {name: np.array(values) for name, values in columns.items()} | _spooled(watch)


def _length(job: Job) -> int:
    """Return the steps that the schedule is made for: a failure comes into a run that was to last longer."""
    return HEALTHY_STEPS if job.onset is None else 1000


def _norm(model: nn.Module) -> torch.Tensor:
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def _each(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")


@torch.no_grad()
def _probe_loss(model: nn.Module, task: Task, probe: Batch) -> float:
    inputs, targets = probe
    share = max(1, _PROBES * len(inputs) // targets.numel())
    model.eval()
    loss = loss_of(model, (inputs[:share], targets[:share]))
    model.train()
    return loss.item()


def _spooled(watch: Watch) -> dict[str, np.ndarray]:
    spool = Path(watch.status["spool"])
    watch.finish()
    reader, items, descriptor = SpoolReader(spool), [], b""
    while part := reader.read(1 << 30, 1 << 30):
        for entry in part:
            descriptor = entry.descriptor.SerializeToString()
            items.append(entry.envelope.item)
    return {
        "items": np.frombuffer(b"".join(items), np.uint8),
        "lengths": np.array([len(item) for item in items]),
        "descriptor": np.frombuffer(descriptor, np.uint8),
    }
