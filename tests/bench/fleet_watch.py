"""Looks at a daemon from outside: what /metrics shows when, and what memory and processors its processes take."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from topowatch_monitor.export import registry

TIMEOUT_SECONDS = 10.0
PATIENCE_SECONDS = 1800.0
CALM_SECONDS = 20.0
_STEP = re.compile(rf'^{registry.RUN_STEP.name}{{[^}}]*\brun="([^"]*)"[^}}]*}} (\S+)$', re.MULTILINE)
_LAG = re.compile(rf"^{registry.SHARD_LAG.name} (\S+)$", re.MULTILINE)
_SERIES = re.compile(r"^[^#]", re.MULTILINE)


@dataclass(frozen=True)
class Scrape:
    """What /metrics answered, or nothing. Times are those of the machine's monotonic clock, in seconds."""

    began: float
    ended: float
    size: int = 0  # bytes
    series: int = 0
    lag: float = 0.0  # records
    steps: dict[str, int] = field(default_factory=dict)


def scrape(client: httpx.Client) -> Scrape:
    """Ask for /metrics once."""
    began = time.monotonic()
    try:
        text = client.get("/metrics").raise_for_status().text
    except httpx.HTTPError:
        return Scrape(began, time.monotonic())
    ended = time.monotonic()
    lag = _LAG.search(text)
    assert lag is not None
    steps = {run: int(float(step)) for run, step in _STEP.findall(text)}
    return Scrape(began, ended, len(text.encode()), len(_SERIES.findall(text)), float(lag[1]), steps)


class Scraper:
    """Asks for /metrics at a fixed pace in a thread, as Prometheus would, until closed."""

    def __init__(self, http: str, every: float) -> None:
        self.scrapes: list[Scrape] = []
        self._every = every
        self._http = http
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        at = time.monotonic()
        with httpx.Client(base_url=f"http://{self._http}", timeout=TIMEOUT_SECONDS) as client:
            while not self._stop.wait(max(0.0, at - time.monotonic())):
                self.scrapes.append(scrape(client))
                at = max(at + self._every, time.monotonic())


def settled(http: str, samples: int) -> None:
    """Wait until every run has been analysed up to so many samples, then until the engine has come to rest."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with httpx.Client(base_url=f"http://{http}", timeout=60.0) as client:
        while True:
            analysed = [run["analysed"] for run in client.get("/api/v1/runs").raise_for_status().json()["runs"]]
            if analysed and min(analysed) >= samples:
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"not everything was analysed within {PATIENCE_SECONDS:g} s")
            time.sleep(2.0)
    time.sleep(CALM_SECONDS)


@dataclass(frozen=True)
class Footprint:
    """Memory in bytes and processor seconds so far, by part of the daemon.

    Memory is the proportional set size, which counts what several processes share once; `store` is what they share of
    Ray's object store and the like (shared memory), which is in no other part.
    """

    memory: Counter[str]
    processor: Counter[str]


def footprint(front: int) -> Footprint:
    """Look at the daemon's front and all processes below it."""
    memory: Counter[str] = Counter()
    processor: Counter[str] = Counter()
    process = psutil.Process(front)
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
            part = "front" if each.pid == front else part_of(each)
            text = Path(f"/proc/{each.pid}/smaps_rollup").read_text()
            kilobytes = {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
            memory[part] += 1024 * (kilobytes["Pss"] - kilobytes["Pss_Shmem"])
            memory["store"] += 1024 * kilobytes["Pss_Shmem"]
            times = each.cpu_times()
            processor[part] += times.user + times.system
    return Footprint(memory, processor)


def part_of(process: psutil.Process) -> str:
    """Which part of the daemon a process below the front is: host, actors or ray."""
    command = process.cmdline()
    if "topowatch_monitor.engine.host" in command:
        return "host"
    return "actors" if command and command[0].startswith("ray::Shard") else "ray"
