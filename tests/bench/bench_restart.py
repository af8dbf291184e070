"""The daemon restarted under load, Ray or a node lost: how long until /metrics is back, and what became of samples.

`make bench-fleet` runs it after bench_fleet.py: SIGTERM and start, SIGKILL of the front and start, SIGKILL of
everything of Ray with the front up; and, of a daemon that has joined a cluster, SIGKILL of one of its two nodes. The
load keeps what is not acked and sends it again, as forwarders do.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
from fleet_load import Load, Report, Size
from fleet_report import LATENCY_SECONDS, SCENARIOS, keep, restart_missed
from fleet_watch import Scrape, Scraper, part_of, settled
from machine import machine

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness import Daemon, eventually
from ray_cluster import RayCluster, token
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CALM_SECONDS = 20.0  # of steady load before each event
WAIT_SECONDS = 400.0  # for everything to be well again after one
LAG_SECONDS = 2.0  # of the load, that the engine is behind at most where everything is well
SMALL = Size(runs=200, fill=128, period=2.0, seconds=900.0, probes=256)
FULL = Size(runs=1000, fill=520, period=10.0, seconds=1500.0, probes=256)


class Event:
    """What was done to the daemon, and when; times in seconds since then."""

    def __init__(self, daemon: Daemon, cluster: RayCluster | None) -> None:
        self._daemon = daemon
        self._cluster = cluster
        self.at = time.monotonic()
        self.start: float | None = None
        self.ready: float | None = None

    def terminated(self) -> None:
        self._daemon.stop()
        self._begin()

    def killed(self) -> None:
        self._daemon.kill()
        self._begin()

    def ray(self) -> None:
        assert self._daemon.process is not None
        for process in psutil.Process(self._daemon.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if part_of(process) in {"actors", "ray"}:
                    process.kill()

    def node(self) -> None:
        assert self._cluster is not None
        self._cluster.nodes[-1].kill()

    def _begin(self) -> None:
        self.start = time.monotonic() - self.at
        self._daemon.start()
        while httpx.get(f"http://{self._daemon.http}/-/ready").status_code != 200:
            time.sleep(0.05)
        self.ready = time.monotonic() - self.at


def recovery(at: float, scrapes: Sequence[Scrape], is_well: Callable[[Scrape], bool]) -> float:
    """Seconds from `at` to the end of the first scrape from which on all is well; 0 where it always was."""
    unwell = [place for place, scrape in enumerate(scrapes) if not is_well(scrape)]
    if not unwell:
        return 0.0
    after = scrapes[unwell[-1] + 1 :]
    return after[0].ended - at if after else math.inf


def judge(event: Event, until: float, scrapes: Sequence[Scrape], report: Report, runs: int) -> dict[str, float | None]:
    """What the scrapes between an event and the next one say of it."""
    due: dict[str, list[float]] = defaultdict(list)
    steps: dict[str, list[int]] = defaultdict(list)
    for sample in report["sent"]:
        due[sample["run"]].append(sample["due"])
        steps[sample["run"]].append(sample["step"])

    def is_full(scrape: Scrape) -> bool:
        return len(scrape.steps) == runs

    def is_current(scrape: Scrape) -> bool:
        sent = {run: bisect_left(times, scrape.began - LATENCY_SECONDS) for run, times in due.items()}
        return is_full(scrape) and all(
            count == 0 or scrape.steps[run] >= steps[run][count - 1] for run, count in sent.items()
        )

    after = [scrape for scrape in scrapes if event.at <= scrape.began and scrape.ended < until]
    full = [scrape.ended for scrape in scrapes if is_full(scrape) and scrape.began < until]
    ends = [max(end for end in full if end <= event.at), *(end for end in full if end > event.at)]
    return {
        "start": event.start,
        "ready": event.ready,
        "back": recovery(event.at, after, is_full),
        "current": recovery(event.at, after, is_current),
        "gap": max((later - earlier for earlier, later in pairwise(ends)), default=math.inf),
    }


def accounts(daemon: Daemon, report: Report, size: Size, counted: Mapping[str, int]) -> dict[str, int]:
    """Hold what was acked against the log and against what the daemon counts of each run."""
    stored: Counter[tuple[str, int]] = Counter()
    for record in LogReader(daemon.data_dir / "log", OsDisk()).read(0, 1 << 62):
        if record.kind == LogKind.STORED_ITEM:
            item = log_pb2.StoredItem.FromString(record.payload)
            stored[item.key.run, item.seq] += 1
    acked = {(plan.run, seq) for plan in size.plans() for seq in range(size.fill)}
    acked |= {(sample["run"], sample["seq"]) for sample in report["sent"] if sample["acked"] is not None}
    held = Counter(run for run, _ in stored)
    return {
        "acked": len(acked),
        "sent_again": report["sent_again"],
        "lost": len(acked - stored.keys()) + sum(max(0, held[run] - counted[run]) for run in held),
        "twice": sum(stored.values()) - len(stored) + sum(max(0, counted[run] - held[run]) for run in held),
    }


def wait_until_well(scraper: Scraper, size: Size) -> None:
    """Return when the last scrapes show all runs and hardly any lag, or after WAIT_SECONDS."""
    lag = LAG_SECONDS * size.runs / size.period
    time.sleep(10.0)  # it may take a while to show that something is wrong
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        last = scraper.scrapes[-8:]
        if all(len(scrape.steps) == size.runs and scrape.lag <= lag for scrape in last):
            return


def measure(
    daemon: Daemon,
    size: Size,
    calm: float,
    every: float,
    scenarios: Sequence[str],
    *,
    cluster: RayCluster | None = None,
) -> dict[str, Any]:
    """Fill the windows, wait until they are saved, then do these things under load, one after the other."""
    with closing(Load(daemon.grpc, size)) as load:
        load.filled()
        settled(daemon.http, size.fill)
        time.sleep(calm)
        with closing(Scraper(daemon.http, every)) as scraper:
            load.go()
            events: dict[str, Event] = {}
            for name in scenarios:
                time.sleep(CALM_SECONDS)
                event = events[name] = Event(daemon, cluster)
                getattr(event, name)()
                wait_until_well(scraper, size)
            time.sleep(CALM_SECONDS)
            until = time.monotonic()
        report = load.stop()
    sent = Counter(sample["run"] for sample in report["sent"] if sample["acked"] is not None)
    settled(daemon.http, size.fill + min(sent.values()))
    counted = {run["run"]: run["analysed"] for run in daemon.get("/api/v1/runs")["runs"]}
    ends = [*(event.at for event in events.values()), until][1:]
    return {
        "machine": machine(),
        "load": os.getloadavg()[0],
        "size": vars(size),
        "every": every,
        "scenarios": {
            name: judge(event, end, scraper.scrapes, report, size.runs)
            for (name, event), end in zip(events.items(), ends, strict=True)
        },
        **accounts(daemon, report, size, counted),
    }


def embedded(size: Size, calm: float, every: float) -> dict[str, Any]:
    """Measure a daemon on a Ray of its own."""
    with tempfile.TemporaryDirectory() as directory:
        daemon = Daemon(Path(directory), "--engine", "ray").start()
        try:
            return measure(daemon, size, calm, every, [name for name in SCENARIOS if name != "node"])
        finally:
            daemon.stop()


def joined(size: Size, calm: float, every: float) -> dict[str, Any]:
    """Measure a daemon that joins a head and another node, each with one processor and so with one shard."""
    os.environ.update(token())
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as directory:
        cluster = RayCluster(Path(directory))
        with closing(cluster):
            cluster.head()
            cluster.join()
            daemon = Daemon(Path(directory), "--ray-address", cluster.address).start()
            try:
                eventually(lambda: all(node.shards for node in cluster.nodes))
                return measure(daemon, size, calm, every, ["node"], cluster=cluster)
            finally:
                daemon.stop()


def main() -> int:
    """Measure, keep, print; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help=f"{FULL.runs:,} runs with full windows (an hour)")
    options = parser.parse_args()
    size, calm, every = (FULL, 900.0, 1.0) if options.full else (SMALL, 90.0, 0.5)
    name, found = f"restart-{size.runs:04d}", embedded(size, calm, every)
    keep(name, found)  # what follows may fail
    of_cluster = joined(size, calm, every)
    found["scenarios"] |= of_cluster["scenarios"]
    found |= {count: found[count] + of_cluster[count] for count in ("acked", "sent_again", "lost", "twice")}
    print(keep(name, found))
    return int(bool(restart_missed(found)))


if __name__ == "__main__":
    sys.exit(main())
