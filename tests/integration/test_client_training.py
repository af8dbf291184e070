"""Real training processes with the client attached: nothing changes in them, and what they saw arrives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from client_daemon import RecordingDaemon, eventually
from topowatch_client import spawn, spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRAINING = """
    import os, sys, time
    import torch
    from torch import nn
    import topowatch_client

    watched, forks = sys.argv[1] == "watched", sys.argv[2] == "workers"
    steps, pace = int(sys.argv[3]), float(sys.argv[4])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * 36, 5)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = torch.utils.data.TensorDataset(torch.randn(256, 1, 8, 8), torch.randint(5, (256,)))
    loader = torch.utils.data.DataLoader(
        data, batch_size=16, shuffle=True, num_workers=int(forks), multiprocessing_context="fork" if forks else None
    )
    watch = None
    if watched:
        probe = (torch.randn(80, 1, 8, 8, generator=torch.Generator().manual_seed(3)), torch.zeros(80).long())
        started = time.perf_counter()
        watch = topowatch_client.attach(model, optimizer, run="r", group="g", probe=probe)
        print("attach", time.perf_counter() - started, flush=True)
        assert watch.status["mode"] != "disabled", watch.status
    step = 0
    while step < steps:
        for inputs, targets in loader:
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if watch:
                watch.log(loss=loss)
            print("loss", loss.item().hex(), flush=True)
            time.sleep(pace)
            step += 1
            if step == steps:
                break
    if watch:
        started = time.perf_counter()
        watch.finish(accuracy=0.5)
        print("finish", time.perf_counter() - started, flush=True)
        print("failures", watch.status["failures"], watch.status["samples"], flush=True)
        assert "grpc" not in sys.modules
"""


@pytest.fixture
def daemon() -> Iterator[RecordingDaemon]:
    server = RecordingDaemon().start()
    yield server
    server.stop()


@pytest.fixture
def spool_dir(tmp_path: Path) -> Iterator[Path]:
    """A spool directory whose forwarder, if one was started, is ended with the test."""
    directory = tmp_path / "spool"
    yield directory
    pid = spawn.forwarder_pid(directory)
    if pid is not None:
        os.kill(pid, signal.SIGINT)
        eventually(lambda: spawn.forwarder_pid(directory) is None)


def train(
    spool_dir: Path,
    endpoint: str = "127.0.0.1:1",
    *,
    watched: bool = True,
    workers: bool = False,
    steps: int = 60,
    pace: float = 0.0,
    **settings: str,
) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOPOWATCH_")}
    environment |= {"TOPOWATCH_ENDPOINT": endpoint, "TOPOWATCH_SPOOL_DIR": str(spool_dir), **settings}
    arguments = ["watched" if watched else "bare", "workers" if workers else "plain", str(steps), str(pace)]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAINING), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> dict[str, list[str]]:
    """Wait for a training and return its words by their first."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    words: dict[str, list[str]] = {}
    for line in out.splitlines():
        first, *rest = line.split()
        words.setdefault(first, []).extend(rest)
    return words


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_losses_are_bit_identical_whatever_is_watched(daemon: RecordingDaemon, spool_dir: Path) -> None:
    """Dropout and batch norm, probes at every other step: with the daemon down, up, offline, and not at all."""
    often = {"TOPOWATCH_INTERVAL": "2", "TOPOWATCH_PROBE_INTERVAL": "2"}
    bare = outcome(train(spool_dir, watched=False))["loss"]
    down = outcome(train(spool_dir, **often))
    up = outcome(train(spool_dir, daemon.endpoint, **often))
    offline = outcome(train(spool_dir, TOPOWATCH_MODE="offline", **often))
    assert len(bare) == 60
    assert down["loss"] == up["loss"] == offline["loss"] == bare
    for words in (down, up, offline):
        assert words["failures"] == ["0", "31"]  # at every other step, and the last
        assert float(words["finish"][0]) < 5


def test_losses_are_bit_identical_with_workers_that_fork(daemon: RecordingDaemon, spool_dir: Path) -> None:
    """DataLoader workers are forked with the hooks in them; they do nothing there."""
    bare = outcome(train(spool_dir, watched=False, workers=True))["loss"]
    watched = outcome(train(spool_dir, daemon.endpoint, workers=True, TOPOWATCH_INTERVAL="1"))
    assert watched["loss"] == bare
    assert watched["failures"][0] == "0"
    eventually(lambda: any(item.HasField("end") for item in daemon.bodies()))
    assert len(daemon.items) == 1


def test_a_finished_run_arrives_whole_and_in_order(daemon: RecordingDaemon, spool_dir: Path) -> None:
    words = outcome(train(spool_dir, daemon.endpoint, TOPOWATCH_INTERVAL="1"))
    eventually(lambda: any(item.HasField("end") for item in daemon.bodies()))
    bodies = daemon.bodies()
    losses: dict[int, float] = {}
    for item in bodies:
        for series in item.sample.scalars:
            if series.name == "loss":
                losses |= dict(zip(series.steps, series.values, strict=True))
    assert losses == {step: float.fromhex(loss) for step, loss in enumerate(words["loss"])}
    assert [item.sample.step for item in bodies if item.sample.weights.values] == list(range(60))
    assert dict(bodies[-1].end.results) == {"accuracy": 0.5}
    eventually(lambda: not spool.writer_directories(spool_dir))


def test_finish_does_not_wait_for_a_daemon_that_takes_everything_and_answers_nothing(
    daemon: RecordingDaemon, spool_dir: Path
) -> None:
    daemon.silent.set()
    words = outcome(train(spool_dir, daemon.endpoint, steps=5, TOPOWATCH_INTERVAL="1"))
    assert len(daemon.seqs) > 0
    assert float(words["finish"][0]) < 5


def test_what_a_killed_trainer_spooled_still_arrives(daemon: RecordingDaemon, spool_dir: Path) -> None:
    """SIGKILL in mid-run while the daemon is away: the forwarder outlives the job and ships the rest."""
    daemon.stop()
    training = train(spool_dir, daemon.endpoint, steps=10_000, pace=0.01, TOPOWATCH_INTERVAL="1")
    while next_line(training).split()[0] != "loss":
        pass
    for _ in range(30):
        next_line(training)
    training.kill()
    training.communicate()
    (directory,) = spool.writer_directories(spool_dir)
    assert not spool.writer_alive(directory)
    daemon.start()
    eventually(lambda: not directory.exists(), 40)
    assert daemon.seqs == list(range(len(daemon.seqs)))
    assert len(daemon.seqs) >= 30
    assert not any(item.HasField("end") for item in daemon.bodies())


def test_a_killed_forwarder_is_started_again(daemon: RecordingDaemon, spool_dir: Path) -> None:
    """While the job lives it looks after its forwarder; at the latest, finish() does."""
    training = train(spool_dir, daemon.endpoint, steps=40, pace=0.05, TOPOWATCH_INTERVAL="1")
    while next_line(training).split()[0] != "loss":
        pass
    pid = eventually_pid(spool_dir)
    os.kill(pid, signal.SIGKILL)
    words = outcome(training)
    assert float(words["finish"][0]) < 5
    eventually(lambda: any(item.HasField("end") for item in daemon.bodies()))
    assert daemon.seqs == list(range(len(daemon.seqs)))


def eventually_pid(spool_dir: Path) -> int:
    deadline = time.monotonic() + 20
    while (pid := spawn.forwarder_pid(spool_dir)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return pid


def test_the_forwarder_is_in_a_session_of_its_own(daemon: RecordingDaemon, spool_dir: Path) -> None:
    """A Ctrl-C in the trainer's terminal does not reach it."""
    training = train(spool_dir, daemon.endpoint, steps=10_000, pace=0.01)
    while next_line(training).split()[0] != "loss":
        pass
    pid = eventually_pid(spool_dir)
    assert os.getsid(pid) == pid
    assert os.getsid(training.pid) != pid
    training.kill()
    training.communicate()
