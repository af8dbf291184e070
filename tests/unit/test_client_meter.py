"""What watching costs is read from real clocks, and what the forwarder uses is charged to the run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil
import pytest
import torch

import topowatch_client
from client_daemon import eventually
from client_loops import network, train
from topowatch_client import meter, spawn
from topowatch_client.governor import Spent

if TYPE_CHECKING:
    from pathlib import Path

    from topowatch_client.watch import Watch


def watched(folder: Path, **config: object) -> tuple[Watch, torch.nn.Module, torch.optim.Optimizer]:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    settings = {"spool_dir": folder, "mode": "offline", **config}
    return topowatch_client.attach(model, optimizer, config=settings), model, optimizer


def test_a_span_tells_waiting_from_working() -> None:
    waiting = meter.Span()
    time.sleep(0.05)
    waited = waiting.stop().spent()
    assert waited.wall >= 0.05 > waited.cpu
    working = meter.Span()
    began = time.process_time()
    while time.process_time() - began < 0.03:
        pass
    assert working.stop().spent().cpu >= 0.03
    assert working.beyond_host() == Spent()


def test_the_account_of_a_run_covers_its_hooks(tmp_path: Path) -> None:
    watch, model, optimizer = watched(tmp_path, interval=2)
    began = meter.now()
    train(model, optimizer, 40)
    whole_job = meter.now().minus(began)
    own, whole = watch._observer.governor.account
    assert 0 < own.cpu < whole.cpu
    assert whole.wall > 0.8 * whole_job.wall
    assert watch.status["overhead_ratio"] == own.share_of(whole)
    assert 0 < watch._observer.governor.typical_sample_cost < own.wall


def test_the_forwarder_is_charged_but_not_for_its_start(tmp_path: Path) -> None:
    assert spawn.forwarder_cpu_seconds(tmp_path) is None
    assert spawn.ensure_forwarder(tmp_path)
    eventually(lambda: spawn.forwarder_pid(tmp_path))
    pid = spawn.forwarder_pid(tmp_path)
    try:
        used = spawn.forwarder_cpu_seconds(tmp_path)
        times = psutil.Process(pid).cpu_times()
        assert used == pytest.approx(times.user + times.system, abs=0.1)
    finally:
        child = next(child for child in spawn._children if child.pid == pid)
        child.terminate()
        child.wait(20)
    watch, model, optimizer = watched(tmp_path / "spool")
    train(model, optimizer, 3)
    before = watch._observer.governor.account[0]
    for reading in (5.0, 5.5, None, 0.25, 0.75):  # gone and started anew in between
        watch._observer.charge_forwarder(reading)
    after = watch._observer.governor.account[0]
    assert after.cpu - before.cpu == pytest.approx(1.0)
    assert after.wall == before.wall
