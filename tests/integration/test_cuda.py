"""On an NVIDIA GPU: hooks do not make the host wait, sketches are those of the CPU, graphs stay what they are."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from client_loops import samples_at
from tiny_gpt import TinyGPT
from topowatch_client import attach
from topowatch_client.sketch import FoldSketch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.cuda

VOCABULARY, LENGTH = 61, 24
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """An operation that makes the host wait is an error only where a test says so."""
    torch.manual_seed(0)
    yield
    torch.cuda.set_sync_debug_mode("default")


def classifier() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Linear(6, 80), nn.BatchNorm1d(80), nn.ReLU(), nn.Dropout(), nn.Linear(80, 3))
    return model.to(GPU), torch.randn(16, 6, device=GPU), torch.randint(3, (16,), device=GPU)


def language() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    text = torch.randint(VOCABULARY, (4, LENGTH + 1), device=GPU)
    return TinyGPT(VOCABULARY, LENGTH).to(GPU), text[:, :-1], text[:, 1:]


def loss_of(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    outputs = model(inputs)
    return nn.functional.cross_entropy(getattr(outputs, "logits", outputs).flatten(0, -2), targets.flatten())


@pytest.mark.parametrize("where", [GPU, torch.device("cpu")], ids=["probes on the GPU", "probes on the host"])
@pytest.mark.parametrize("make", [classifier, language])
def test_no_hook_makes_the_host_wait(tmp_path: Path, make: Any, where: torch.device) -> None:
    """Torch itself raises where one would: on looks, updates, gradients, pulses, logged tensors and probe passes."""
    model, inputs, targets = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    settings = {"mode": "offline", "spool_dir": tmp_path, "interval": 2, "probe_interval": 4}
    settings["critical_interval"] = 1 << 20  # a search asks for losses, and has to wait for them
    watch = attach(model, optimizer, config=settings, probe=(inputs.to(where), targets.to(where)))
    seen = watch._observer.on_step

    def on_step() -> None:
        if watch._observer.step >= 4:  # the first passes look at what the probe set is
            torch.cuda.set_sync_debug_mode("error")
        try:
            seen()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    watch._observer.on_step = on_step
    for _ in range(32):
        optimizer.zero_grad()
        loss = loss_of(model, inputs, targets)
        loss.backward()
        optimizer.step()
        watch.log(loss=loss)
    watch.finish()
    assert (watch.status["error"], watch.status["failures"]) == (None, 0)
    found = samples_at(watch.status["spool"])
    assert sum(bool(each.weights.values) for each in found) >= 16
    assert sum(each.HasField("predictions") for each in found) >= 7


def test_the_same_is_noticed_where_it_happens() -> None:
    """The oracle above sees what it should."""
    values = torch.arange(4.0, device=GPU)
    torch.cuda.set_sync_debug_mode("error")
    for wait in (values.sum().item, values.cpu, values.nonzero):
        with pytest.raises(RuntimeError, match="synchroniz"):
            wait()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3,), (1021,), (640, 384), (1500, 2000)])
def test_sketches_are_those_of_the_cpu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(shape).to(dtype)
    here, there = FoldSketch(seed=3), FoldSketch(seed=3)
    expected = here.slice("weight", values.flatten())
    found = there.slice("weight", values.flatten().to(GPU)).cpu()
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())
    if len(shape) == 2:
        part = values[7:-9, 5:-3]
        boxes = [
            sketch.box("weight", each, shape, (7, 5)).cpu() for sketch, each in ((here, part), (there, part.to(GPU)))
        ]
        assert float((boxes[1] - boxes[0]).norm()) <= 1e-5 * float(boxes[0].norm())


def test_a_sample_tells_of_the_weights_of_its_step(tmp_path: Path) -> None:
    """Although copies to the host do not block, and the weights move on."""
    model, inputs, targets = language()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watch = attach(model, optimizer, config={"mode": "offline", "spool_dir": tmp_path, "interval": 1})
    expected, losses = {}, {}
    for step in range(40):
        optimizer.zero_grad()
        loss = loss_of(model, inputs, targets)
        loss.backward()
        optimizer.step()
        watch.log(loss=loss)
        losses[step] = loss.item()
        expected[step] = FoldSketch().model((name, each.detach().cpu()) for name, each in model.named_parameters())
    watch.finish()
    assert watch.status["failures"] == 0
    seen, logged = 0, {}
    for each in samples_at(watch.status["spool"]):
        logged.update(
            (step, value)
            for series in each.scalars
            if series.name == "loss"
            for step, value in zip(series.steps, series.values, strict=True)
        )
        if each.weights.values:
            values = np.frombuffer(each.weights.values, dtype=np.float32)
            np.testing.assert_allclose(
                values, expected[each.step].numpy(), atol=1e-5 * float(expected[each.step].norm())
            )
            seen += 1
    assert seen >= 20
    assert logged == pytest.approx(losses, rel=1e-6)


def test_a_captured_step_is_left_alone(tmp_path: Path) -> None:
    """A whole step in a CUDA graph: nothing of ours is captured, and its replays give the losses of a bare one."""

    def trained(spool: Path | None) -> list[float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)).to(GPU)
        inputs, targets = torch.randn(16, 6, device=GPU), torch.randint(3, (16,), device=GPU)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, capturable=True)
        watch = None
        if spool is not None:
            settings = {"mode": "offline", "spool_dir": spool, "interval": 1}
            watch = attach(model, optimizer, config=settings, probe=(inputs, targets))

        def step() -> torch.Tensor:
            optimizer.zero_grad(set_to_none=False)
            loss = loss_of(model, inputs, targets)
            loss.backward()
            optimizer.step()
            return loss

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = step()
        losses = []
        for _ in range(50):
            graph.replay()
            if watch is not None:
                watch.step()
            losses.append(loss.item())
        if watch is not None:
            watch.finish()
            assert (watch.status["error"], watch.status["failures"]) == (None, 0)
            assert watch.status["samples"] > 10
        return losses

    bare = trained(None)
    assert trained(tmp_path) == bare
    assert bare[-1] < bare[0] / 2


def test_a_search_puts_the_weights_back_bit_by_bit(tmp_path: Path) -> None:
    model, inputs, targets = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    settings = {"mode": "offline", "spool_dir": tmp_path, "interval": 2, "critical_interval": 8}
    watch = attach(model, optimizer, config=settings, probe=(inputs, targets))
    seen, differences = watch._observer.on_step, []

    def on_step() -> None:
        before = copy.deepcopy(model.state_dict())
        seen()
        differences.extend(name for name, value in model.state_dict().items() if not value.equal(before[name]))

    watch._observer.on_step = on_step
    for _ in range(64):
        optimizer.zero_grad()
        loss = loss_of(model, inputs, targets)
        loss.backward()
        optimizer.step()
        watch.log(loss=loss)
    watch.finish()
    assert watch._observer.excursions.problem is None
    assert sum(each.HasField("curvature") for each in samples_at(watch.status["spool"])) > 3
    assert differences == []
