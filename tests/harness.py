"""Real processes for tests: a daemon, a training job, and deadlines."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

TRAINING_JOB = Path(__file__).parent / "training_job.py"
READY = re.compile(r"ready grpc=(\S+) http=(\S+)")


def unavailable(what: str) -> NoReturn:
    """Skip the test for want of a tool; in CI, where everything has to be there, fail it."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def topowatch(*arguments: str, timeout: float = 300.0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with no setting of ours in its environment but these."""
    return subprocess.run(
        [sys.executable, "-m", "topowatch_monitor", *arguments],
        capture_output=True,
        text=True,
        env=without_settings() | environment,
        timeout=timeout,
        check=False,
    )


def without_settings() -> dict[str, str]:
    """The environment without what would tell topowatch anything."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TOPOWATCH_")}


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])


def eventually(look: Callable[[], T], *, within: float = 60.0, every: float = 0.1) -> T:
    """Call `look` until it returns something true; fail with its last answer or error after `within` seconds."""
    deadline = time.monotonic() + within
    last: object = None
    while True:
        try:
            found = look()
            if found:
                return found
            last = found
        except (httpx.HTTPError, AssertionError, LookupError) as error:
            last = error
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {within:g} s; last seen: {last!r}")
        time.sleep(every)


class Daemon:
    """A daemon process on a data directory; may be killed and started again on the same ports."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.flags = flags
        self.grpc = self.http = "127.0.0.1:0"
        self.process: subprocess.Popen[str] | None = None

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    def start(self) -> Daemon:
        arguments = ["--data-dir", str(self.data_dir), "--grpc", self.grpc, "--http", self.http, *self.flags]
        with (self.directory / "daemon.log").open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "topowatch_monitor", "serve", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=without_settings(),
            )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := READY.search(line):
                self.grpc, self.http = found[1], found[2]
                return self
        raise AssertionError(f"the daemon did not start: {self.journal()[-3000:]}")

    def journal(self) -> str:
        return (self.directory / "daemon.log").read_text()

    def get(self, path: str) -> Any:
        return httpx.get(f"http://{self.http}{path}", timeout=10.0).raise_for_status().json()

    def run(self, name: str, group: str | None = None) -> dict[str, Any]:
        return self.get(f"/api/v1/runs/{name}" + (f"?group={group}" if group else ""))

    def metric(self, name: str, **labels: str) -> float:
        """The one series of that name with these labels among its own; LookupError if there is not exactly one."""
        text = httpx.get(f"http://{self.http}/metrics", timeout=10.0).raise_for_status().text
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        if len(found) != 1:
            raise LookupError(f"{len(found)} series of {name} with {labels}")
        return found[0]

    def token(self, *options: str) -> dict[str, Any]:
        """A new token for this daemon, as `topowatch token create --json` tells it: its text is under `token`."""
        made = topowatch("token", "create", "--data-dir", str(self.data_dir), "--json", *options)
        assert made.returncode == 0, made.stderr
        return dict(json.loads(made.stdout))

    def kill(self) -> None:
        """SIGKILL to the daemon's front alone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


class Job:
    """A `training_job.py` process whose samples go to a daemon (or nowhere)."""

    def __init__(self, directory: Path, endpoint: str, arguments: tuple[str, ...], settings: dict[str, str]) -> None:
        self.spool = directory / "spool"
        self.losses = directory / "losses"
        ours = {"TOPOWATCH_ENDPOINT": endpoint, "TOPOWATCH_SPOOL_DIR": str(self.spool), "TOPOWATCH_INTERVAL": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(TRAINING_JOB), "--losses", str(self.losses), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=without_settings() | ours | {"OMP_NUM_THREADS": "1"} | settings,
        )

    def wait_for_step(self, step: int) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("step ") and int(line.split()[1]) >= step:
                return
        raise AssertionError(f"the job ended before step {step}, exit {self.process.wait()}")

    def finish(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.read()
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def forwarder(self) -> int | None:
        """Process id of the spool's forwarder, if one is at work."""
        try:
            process = int((self.spool / "forwarder.lock").read_text())
            os.kill(process, 0)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        return process

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        forwarder = self.forwarder()
        if forwarder is not None:
            os.kill(forwarder, signal.SIGINT)  # at once, whatever is left
