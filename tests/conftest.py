"""Fixtures that tests of several kinds share."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from chromium import chromium, missing
from harness import Daemon, Job, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

    Run = Callable[..., tuple[int, str, str]]

# Workers share the cores: threads of several that wait for each other spin, and everything takes twice as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("cuda") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """Forget what other tests of this process have compiled: no hooks are hung on where torch.compile is in use."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
        sys.modules["torch._dynamo.utils"].counters.clear()


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons; flags as for `topowatch serve`. All are stopped at the end."""
    started: list[Daemon] = []

    def make(*flags: str, name: str = "daemon") -> Daemon:
        directory = tmp_path / name
        directory.mkdir()
        daemon = Daemon(directory, *flags)
        started.append(daemon)
        return daemon.start()

    yield make
    for daemon in started:
        daemon.stop()


@pytest.fixture
def inline_daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon without Ray."""
    return make_daemon("--engine", "inline")


@pytest.fixture
def start_job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start training jobs: `start_job(endpoint, "--steps", "50", SETTING="value")`. All are ended at the end."""
    started: list[Job] = []

    def start(endpoint: str, *arguments: str, **settings: str) -> Job:
        directory = tmp_path / f"job-{len(started)}"
        directory.mkdir()
        started.append(Job(directory, endpoint, arguments, settings))
        return started[-1]

    yield start
    for job in started:
        job.close()


@pytest.fixture
def one_thread_and_no_launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train here, in one thread from one seed, as a job that nothing has launched."""
    import torch  # two seconds, which most tests can spare

    for name in list(os.environ):
        if name.startswith("TOPOWATCH_") or name in {"RANK", "WORLD_SIZE", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"}:
            monkeypatch.delenv(name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, on a terminal of 80 columns."""
    from topowatch_monitor.cli import main

    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A headless Chromium."""
    if (why := missing()) is not None:
        unavailable(why)
    driver = chromium(tmp_path_factory.mktemp("browser"))
    yield driver
    driver.quit()
