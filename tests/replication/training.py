"""One real training run, looked at as the client looks at one, and kept as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from replication.lessons import lessons
from topowatch_client.probes import Probe, ProbeSettings
from topowatch_client.sketch import FoldSketch

if TYPE_CHECKING:
    from replication.data import Images, Parts

INTERVAL = 16  # steps between samples of a client with a fixed interval; the client's intervals are powers of two
_EARLY = 16  # steps at the start that are all looked at: there most of the way is made
_SPREAD = 48  # samples at geometric distances after that


@dataclass(frozen=True)
class Job:
    """All that decides how a run goes; equal jobs on equal data give equal bits on one machine.

    Attributes:
        seed: Decides the initial weights and the order of the data.
        turn: Step from which on `order` decides the order of the data instead.
        before: Steps of a detour, at a constant learning rate, that come before `steps`.
    """

    network: str
    optimiser: str
    lr: float
    batch: int
    steps: int
    schedule: str  # "constant" or "cosine" (to zero)
    seed: int
    kind: str = "healthy"
    turn: int | None = None
    order: int = 0
    before: int = 0


def build(network: str) -> nn.Sequential:
    """Make a network for digits (mlp, cnn, deep) or MNIST (lenet, deep28); none has batch norm: it blurs barriers."""
    if network in {"deep", "deep28"}:
        hidden = [layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.ReLU())]
        body = [nn.Flatten(), nn.Linear(64 if network == "deep" else 784, 64), nn.ReLU(), *hidden]
    elif network == "mlp":
        body = [nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()]
    elif network == "cnn":
        convolutions = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
        body = [*convolutions, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU()]
    elif network == "lenet":
        convolutions = [nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()]
        body = [*convolutions, nn.Flatten(), nn.Linear(400, 64), nn.ReLU()]
    else:
        raise ValueError(f"no network {network!r}")
    return nn.Sequential(*body, nn.Linear(64, 10))


def moments(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps to look at, ascending, and which of them a client with a fixed interval looks at as well."""
    early = np.arange(min(_EARLY, steps) + 1)
    spread = np.geomspace(max(_EARLY, 1), steps, _SPREAD).round().astype(int) if steps > _EARLY else early
    regular = np.append(np.arange(0, steps, INTERVAL), steps)
    looks = np.unique(np.concatenate([early, spread, regular]))
    return looks, np.isin(looks, regular)


def train(job: Job, parts: Parts) -> dict[str, np.ndarray]:
    """Train a network and record its path.

    Returns:
        points (T × 1021) and weights (T × 1021), float32: representation points and weight sketches.
        probe_losses and argmax (T × n), steps (T), regular (T, bool): whether the client's interval has this step.
        curve (steps), float32: training loss of every batch.
        train_loss, probe_loss, test_accuracy: of the end; the first on the data that the run was given.
        end: the final weights, flat. And what the job says: kind, seed, lr, batch.
    """
    torch.manual_seed(job.seed)
    model = build(job.network)
    if job.kind == "frozen":  # as if the optimiser had been given the head alone
        for parameter in list(model.parameters())[:-2]:
            parameter.requires_grad_(False)
    taught = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = _optimiser(job, taught)
    steps = job.before + job.steps
    looks, regular = moments(steps)
    record = _Record(model, parts.probe)
    curve = np.zeros(steps, np.float32)
    detour, lesson = lessons(job.kind, parts.train, job.seed)
    detour_order, order = _order(job, len(detour), job.before), _order(job, len(lesson), job.steps)
    for step in range(steps):
        if step in looks:
            record.look()
        late = step - job.before  # steps into the lesson proper
        data = lesson[order[late]] if late >= 0 else detour[detour_order[step]]
        for group in optimiser.param_groups:
            group["lr"] = _rate(job, max(0, late))
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(data.inputs), data.targets)
        loss.backward()
        optimiser.step()
        curve[step] = loss.item()
    record.look()
    facts = {
        "kind": job.kind,
        "seed": job.seed,
        "lr": job.lr,
        "batch": job.batch,
        "turn": -1 if job.turn is None else job.turn,
    }
    return record.arrays() | {
        "steps": looks,
        "regular": regular,
        "curve": curve,
        "train_loss": np.float64(mean_loss(model, lesson)),
        "probe_loss": np.float64(mean_loss(model, parts.probe)),
        "test_accuracy": np.float64(_accuracy(model, parts.test)),
        "end": nn.utils.parameters_to_vector(model.parameters()).detach().numpy(),
        **{name: np.array(value) for name, value in facts.items()},
    }


def mean_loss(model: nn.Module, data: Images) -> float:
    """Return the mean cross-entropy on all of `data`, in nats."""
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(data.inputs), data.targets))


class _Record:
    """Samples of one run, taken with the client's own functions."""

    def __init__(self, model: nn.Module, probe: Images) -> None:
        self._model = model
        self._sketch = FoldSketch()
        self._probe = Probe(model, ProbeSettings(inputs=probe.inputs, targets=probe.targets), self._sketch)
        self._rows: list[dict[str, Any]] = []

    def look(self) -> None:
        seen = self._probe.run()
        weights = self._sketch.model(self._model.named_parameters())
        row = {"points": seen.sketch, "weights": weights.numpy(), "probe_losses": seen.losses, "argmax": seen.argmax}
        self._rows.append(row)

    def arrays(self) -> dict[str, np.ndarray]:
        kinds = {"points": np.float32, "weights": np.float32, "probe_losses": np.float32, "argmax": np.uint8}
        return {name: np.stack([row[name] for row in self._rows]).astype(kind) for name, kind in kinds.items()}


def _optimiser(job: Job, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if job.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=job.lr)
    return torch.optim.SGD(parameters, lr=job.lr, momentum=0.9)


def _rate(job: Job, step: int) -> float:
    return job.lr * (0.5 + 0.5 * float(np.cos(np.pi * step / job.steps))) if job.schedule == "cosine" else job.lr


def _order(job: Job, examples: int, steps: int) -> torch.Tensor:
    """Return the examples of every batch, steps × batch: epoch after epoch, each in a new order."""

    def shuffled(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        wanted = steps * job.batch
        epochs = [generator.permutation(examples) for _ in range(-(-wanted // examples))]
        return np.concatenate([*epochs, np.zeros(0, int)])[:wanted].reshape(steps, job.batch)

    rows = shuffled(job.seed)
    if job.turn is not None:
        rows[job.turn :] = shuffled(job.order)[job.turn :]
    return torch.from_numpy(rows)


def _accuracy(model: nn.Module, data: Images) -> float:
    with torch.no_grad():
        return float((model(data.inputs).argmax(1) == data.targets).float().mean())
