"""Within the hook nothing reads a number back from a tensor: on an accelerator that would make the host wait."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from client_loops import looked_at
from tiny_gpt import TinyGPT
from topowatch_client import attach

# What hands numbers to Python, or shapes that depend on numbers.
_WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}


class _Waits(TorchDispatchMode):
    """Notes operations that wait for their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().partition("::")[2].partition(".")[0]
        mask = name in {"index", "index_put", "index_put_"} and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        if name in _WAITING or mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def read_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that read a whole tensor, which on the CPU is no operation."""
    files: list[str] = []
    for name in ("cpu", "numpy", "tolist", "item"):
        original = getattr(torch.Tensor, name)

        def noted(tensor: torch.Tensor, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            files.append(Path(sys._getframe(1).f_code.co_filename).name)
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, noted)
    return files


def _classifier() -> tuple[nn.Module, torch.Tensor, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 80), nn.BatchNorm1d(80), nn.ReLU(), nn.Dropout(), nn.Linear(80, 3))
    model[0].bias.requires_grad_(False)
    return model, torch.randn(16, 6), torch.randint(3, (16,))


def _regression() -> tuple[nn.Module, torch.Tensor, Any]:
    model, inputs, _ = _classifier()
    return model, inputs, torch.randn(16, 3)


def _probabilities() -> tuple[nn.Module, torch.Tensor, Any]:
    model, inputs, _ = _classifier()
    return nn.Sequential(model, nn.Softmax(dim=1)), inputs, None


def _language() -> tuple[nn.Module, torch.Tensor, Any]:
    torch.manual_seed(0)
    text = torch.randint(62, (4, 25))
    targets = text[:, 1:].clone()
    targets[:, :5] = -100
    return TinyGPT(62, 24), text[:, :-1], targets


@pytest.mark.parametrize(
    ("make", "output"),
    [(_classifier, "logits"), (_regression, "values"), (_probabilities, "probs"), (_language, "logits")],
)
def test_no_hook_after_the_first_waits(tmp_path: Path, read_by: list[str], make: Any, output: str) -> None:
    """With looks, updates, gradients, logged tensors, probe passes and frames; only what has arrived is read."""
    model, inputs, targets = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    settings = {"mode": "offline", "spool_dir": tmp_path, "interval": 2, "probe_interval": 2}
    watch = attach(model, optimizer, config=settings, probe=(inputs, targets), output=output)
    waits, seen = _Waits(), watch._observer.on_step

    def on_step() -> None:
        first = watch._observer.step < 0
        before = len(read_by)
        with torch.no_grad() if first else waits:
            seen()
        read = set(read_by[before:])
        assert first or read <= {"taken.py"}

    watch._observer.on_step = on_step
    for step in range(12):
        optimizer.zero_grad()
        outputs = model(inputs)
        outputs = getattr(outputs, "logits", outputs)
        outputs.float().square().mean().backward()
        optimizer.step()
        watch.log(loss=outputs.detach().mean() + step)
    assert waits.seen == []
    assert "taken.py" in read_by
    assert watch.status["failures"] == 0
    watch.finish()
    assert watch._failed == 0
    assert looked_at(watch) == [0, 2, 4, 6, 8, 10, 11]


def test_the_same_is_noticed_where_it_happens() -> None:
    """The oracle above sees what it should."""
    with _Waits() as waits:
        tensor = torch.arange(4.0)
        float(tensor[0])
        bool((tensor > 0).all())
        tensor[tensor > 1]
        tensor[tensor > 1] = 0.0
        tensor.nonzero()
    assert len(waits.seen) == 5
