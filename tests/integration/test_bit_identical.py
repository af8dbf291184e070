"""Losses of 200 steps are the same to the last bit whether a training is watched or not, on the CPU and on a GPU.

Watched means: with probe passes, searches for the critical step, and a loss slice. Distributed trainings have files of
their own.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import topowatch_client
from client_loops import samples_at
from tiny_gpt import TinyGPT
from topowatch_client import probe_plan, wishes
from topowatch_client.activations import Activations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEPS = 200
VOCABULARY, LENGTH = 61, 24


class Restless(nn.Module):
    """Draws numbers, keeps statistics, caches and counts: all that a stray pass would leave a trace in."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 16))
        self.rest = nn.Sequential(nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 4))
        self.register_buffer("seen", torch.zeros(6))
        self.calls = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen = 0.9 * self.seen + 0.1 * inputs.detach().mean(0)
        noise = 0.01 * torch.randn_like(inputs)
        return self.rest(self.first(inputs - self.seen + noise)) * (1 + 1e-3 * (self.calls % 7))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


class Attentive(nn.Module):
    """Attention that shows its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 2, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.reshape(len(inputs), 3, 2)
        return self.head(self.attention(rows, rows, rows)[0].flatten(1))


class Convolutional(nn.Sequential):
    """Convolutions with batch norm, on images of 2 × 3."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 8, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip


class Case(NamedTuple):
    """A way to train."""

    model: Callable[[], nn.Module] = plain
    compiled: str = ""  # before or after attach
    backend: str = "aot_eager"
    sizes: tuple[int, ...] = (16,)  # batches, in turn
    autocast: torch.dtype | None = None
    scaled: bool = False  # by a gradient scaler, which skips steps
    accumulated: int = 1


CASES = {
    "plain": Case(),
    "restless": Case(Restless),
    "language": Case(lambda: TinyGPT(VOCABULARY, LENGTH)),
    "attention": Case(Attentive),
    "convolutions": Case(Convolutional),
    "attention-bfloat16": Case(Attentive, autocast=torch.bfloat16),
    "bfloat16": Case(autocast=torch.bfloat16),
    "float16": Case(autocast=torch.float16, scaled=True),
    "accumulated": Case(accumulated=3),
    "compiled-before": Case(compiled="before", backend="inductor"),
    "compiled-after": Case(compiled="after"),
    "compiled-dynamic": Case(compiled="before", backend="eager", sizes=(16, 9, 12, 23)),
    "compiled-language": Case(lambda: TinyGPT(VOCABULARY, LENGTH), compiled="after", backend="eager"),
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(probe_plan, "BUDGET", VOCABULARY * LENGTH // 2)  # language models: the head alone
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Where to train; a GPU adds in any order unless it is told not to."""
    if request.param == "cuda":
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    yield torch.device(request.param)
    torch.use_deterministic_algorithms(False)


def batch(model: nn.Module, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(model, TinyGPT):
        text = torch.randint(VOCABULARY, (min(size, 5), LENGTH + 1))
        return text[:, :-1].to(device), text[:, 1:].to(device)
    return torch.randn(size, 6).to(device), torch.randint(4, (size,)).to(device)


def outputs(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    made = model(inputs)
    return (made if isinstance(made, torch.Tensor) else made.logits).flatten(0, -2)


def attach(
    model: nn.Module, optimizer: torch.optim.Optimizer, inner: nn.Module, spool: Path, device: torch.device
) -> Any:
    generator = torch.random.get_rng_state()
    inputs, targets = batch(inner, 40, device)
    torch.random.set_rng_state(generator)
    watch = topowatch_client.attach(
        model,
        optimizer,
        probe=(inputs, targets),
        config={"mode": "offline", "spool_dir": spool, "interval": 4, "probe_interval": 8, "critical_interval": 16},
    )
    assert watch.status["error"] is None
    wishes.write(Path(watch.status["spool"]), [wishes.SliceWish("asked", side=5)])
    watch._observer.governor.points_at = lambda step: step % 2 == 0  # a budget would spread it over more than 200 steps
    return watch


class Trained(NamedTuple):
    """What came of a training."""

    losses: list[str]
    compiled: dict[str, Any]  # what torch.compile counted
    activations: list[int]  # how many modules were seen in each watched step


def train(case: Case, device: torch.device, spool: Path | None = None, *, activations: bool = False) -> Trained:
    """Train, watched if there is a spool; with `activations`, hooks hang on the model in every eighth step."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    inner = case.model().to(device)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.05, momentum=0.9)
    model: Any = torch.compile(inner, backend=case.backend) if case.compiled == "before" else inner
    watch = attach(model, optimizer, inner, spool, device) if spool is not None else None
    if case.compiled == "after":
        model = torch.compile(inner, backend=case.backend)
    scaler = torch.amp.GradScaler(device.type, enabled=case.scaled, init_scale=2.0**24, growth_interval=20)
    hooks, losses, seen = Activations(inner), [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        for _ in range(case.accumulated):
            inputs, targets = batch(inner, case.sizes[step % len(case.sizes)], device)
            with torch.autocast(device.type, dtype=case.autocast) if case.autocast else contextlib.nullcontext():
                loss = nn.functional.cross_entropy(outputs(model, inputs), targets.flatten())
                scaler.scale(loss).backward()
                losses.append(loss.item().hex())
        scaler.step(optimizer)
        scaler.update()
        if activations and step % 8 == 6:
            hooks.arm(training=True)
        elif activations and step % 8 == 7:
            seen.append(len(hooks.take()[1]))
    if watch is not None:
        assert watch._observer._probe.facts is not None  # a pass was made
        watch.finish()
        status = watch.status
        assert (status["error"], status["failures"]) == (None, 0)
        assert status["samples"] >= STEPS // (5 if case.scaled else 4)  # a step that the scaler skips is none
        found = samples_at(status["spool"])
        assert sum(each.HasField("curvature") for each in found) > 3
        assert [each.loss_slice.rows for each in found if each.HasField("loss_slice")] == [5]
    compiled = {kind: dict(counts) for kind, counts in counters.items() if kind in {"stats", "frames"}}
    return Trained(losses, compiled, seen)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if CASES[name].backend == "inductor" else name for name in CASES],
)
def test_losses_are_bit_identical(name: str, device: torch.device, tmp_path: Path) -> None:
    """With probe passes, and with activations of training steps where there are none; nothing is compiled anew."""
    case = CASES[name]
    bare, probed, seen = train(case, device), train(case, device, tmp_path), train(case, device, activations=True)
    assert len(bare.losses) == STEPS * case.accumulated
    assert len(set(bare.losses)) > STEPS / 2
    assert bool(bare.compiled) == bool(case.compiled)
    assert probed.losses == seen.losses == bare.losses
    assert probed.compiled == seen.compiled == bare.compiled
    assert len(seen.activations) == STEPS // 8
    assert all(bool(count) != bool(case.compiled) for count in seen.activations)
