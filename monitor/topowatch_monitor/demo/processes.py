"""The demo's processes: a daemon, four trainers and what they start; all of them end with it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.engine.session import kill_session

if TYPE_CHECKING:
    from pathlib import Path

READY = re.compile(r"ready grpc=(\S+) http=(\S+)")
START_SECONDS = 60.0
INTERVAL = "16"  # steps between samples; of such short steps the governor would take fewer
END_SECONDS = 40.0  # the daemon stores snapshots and takes Ray down


@dataclass(frozen=True)
class Job:
    """One training job of the demo."""

    run: str
    seed: int
    spoil: str | None
    story: str


JOBS = (
    Job("healthy-a", 1, None, "clean data, seed 1"),
    Job("healthy-b", 2, None, "clean data, seed 2"),
    Job("hot-lr", 1, "destabilise", "its learning rate climbs 100 × in mid-run"),
    Job("noise-40", 1, "random-labels", "40 % of the labels are random"),
)


class DemoError(RuntimeError):
    """The demo cannot go on; the message says what happened and where to read more."""


class Processes:
    """Starts the demo's processes in sessions of their own and ends every one of them.

    Args:
        directory: takes the daemon's data, the spool and what the processes print.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._daemon: subprocess.Popen[str] | None = None
        self.trainers: dict[str, subprocess.Popen[bytes]] = {}
        self.grpc = ""
        self.http = ""

    @property
    def _daemon_log(self) -> Path:
        return self._directory / "daemon.log"

    @property
    def spool(self) -> Path:
        """Where the trainers leave their samples."""
        return self._directory / "spool"

    def start_daemon(self) -> None:
        """Start a daemon with an embedded Ray on free ports; raises DemoError if it does not get ready."""
        arguments = ["serve", "--data-dir", str(self._directory / "data"), "--grpc", "127.0.0.1:0"]
        with self._daemon_log.open("wb") as stderr:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "topowatch_monitor", *arguments, "--http", "127.0.0.1:0"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
                cwd=self._directory, env=_clean_environment(),
            )  # fmt: skip
        assert self._daemon.stdout is not None  # noqa: S101 - tells mypy what PIPE above means
        patience = threading.Timer(START_SECONDS, self._daemon.kill)
        patience.start()
        try:
            for line in self._daemon.stdout:
                if found := READY.search(line):
                    self.grpc, self.http = found[1], f"http://{found[2]}"
                    return
        finally:
            patience.cancel()
        raise DemoError(f"the daemon did not start; {self.last_words()}")

    def start_trainer(self, job: Job, steps: int) -> None:
        """Start one training job, attached to the daemon."""
        arguments = ["--run", job.run, "--seed", str(job.seed), "--steps", str(steps)]
        arguments += ["--spoil", job.spoil] if job.spoil else []
        settings = {"ENDPOINT": self.grpc, "SPOOL_DIR": str(self.spool), "INTERVAL": INTERVAL}
        environment = _clean_environment() | {f"TOPOWATCH_{name}": value for name, value in settings.items()}
        with self.journal(job).open("wb") as journal:
            self.trainers[job.run] = subprocess.Popen(
                [sys.executable, "-m", "topowatch_monitor.demo.trainer", *arguments],
                stdin=subprocess.DEVNULL, stdout=journal, stderr=journal, start_new_session=True,
                cwd=self._directory, env=environment | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def journal(self, job: Job) -> Path:
        """What a trainer printed."""
        return self._directory / f"{job.run}.log"

    def last_words(self) -> str:
        """What the daemon said last, for a message."""
        return f"the daemon said:\n{self._daemon_log.read_text()[-2000:]}"

    def check(self) -> None:
        """Raise DemoError if the daemon or a trainer has failed."""
        if self._daemon is None or self._daemon.poll() is not None:
            raise DemoError(f"the daemon ended; {self.last_words()}")
        for job in JOBS:
            code = self.trainers[job.run].poll() if job.run in self.trainers else None
            if code:
                raise DemoError(f"{job.run} failed (exit {code}):\n{self.journal(job).read_text()[-2000:]}")

    def stop(self) -> None:
        """End trainers, forwarder and daemon, in this order, and wait until they are gone."""
        for trainer in self.trainers.values():
            _end(trainer, signal.SIGKILL)
        self._stop_forwarder()
        if self._daemon is not None:
            _end(self._daemon, signal.SIGTERM)

    def _stop_forwarder(self) -> None:
        """Ask the spool's forwarder, which outlives its trainers, to end; its lock file names it."""
        lock = self.spool / "forwarder.lock"
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            process = int(lock.read_text())
            os.kill(process, signal.SIGINT)  # at once, whatever is left to send
            deadline = time.monotonic() + END_SECONDS
            while time.monotonic() < deadline:
                os.kill(process, 0)  # raises ProcessLookupError once it is gone
                time.sleep(0.05)
            os.kill(process, signal.SIGKILL)


def _clean_environment() -> dict[str, str]:
    """The environment without settings of topowatch that are meant for real jobs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TOPOWATCH_")}


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Signal a session's leader, then kill what is left of the session."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(how)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        kill_session(process.pid)
