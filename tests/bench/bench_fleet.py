"""The daemon as a whole under a fleet: how fresh /metrics is, what a scrape, a run's memory and the page take.

`make bench-fleet` runs it: a daemon on an embedded Ray with default settings, the load, a scraper and a browser, each
a process or thread of its own on the same machine. Windows are filled first, as fast as the daemon takes it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from bisect import bisect_left
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fleet_load import Load, Report, Size
from fleet_report import fleet_missed, keep
from fleet_watch import CALM_SECONDS, Footprint, Scrape, Scraper, footprint, settled
from machine import machine

sys.path.insert(0, str(Path(__file__).parents[1]))
import fleet_browser

from chromium import missing
from harness import Daemon

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRAPE_EVERY = 2.0  # seconds, as deploy/prometheus has it
PAGE_SECONDS = 60.0


def latencies(report: Report, scrapes: Sequence[Scrape]) -> tuple[list[float], int]:
    """Seconds from each sample to the end of the first scrape that shows its run at its step or beyond.

    Returns:
        They, and how many samples no scrape shows.
    """
    shown: dict[str, tuple[list[int], list[float]]] = {}
    for each in scrapes:
        for run, step in each.steps.items():
            steps, ends = shown.setdefault(run, ([], []))
            if not steps or step > steps[-1]:
                steps.append(step)
                ends.append(each.ended)
    found = []
    unseen = 0
    for sample in report["sent"]:
        steps, ends = shown.get(sample["run"], ([], []))
        place = bisect_left(steps, sample["step"])
        if place < len(steps):
            found.append(ends[place] - sample["due"])
        else:
            unseen += 1
    return found, unseen


def spent(before: Footprint, after: Footprint, seconds: float) -> dict[str, float]:
    """Processors that each part kept busy."""
    return {part: (after.processor[part] - before.processor[part]) / seconds for part in after.processor}


def measure(daemon: Daemon, size: Size, minutes: float) -> dict[str, Any]:
    """Fill the windows, then look at the daemon for some minutes, then at its page."""
    front = daemon.process.pid if daemon.process is not None else 0
    while "actors" not in footprint(front).memory:
        time.sleep(1.0)
    time.sleep(CALM_SECONDS)
    empty = footprint(front)
    with closing(Load(daemon.grpc, size)) as load:
        began = time.monotonic()
        load.filled()
        settled(daemon.http, size.fill)
        filled = time.monotonic() - began - CALM_SECONDS
        full = footprint(front)
        load.go()
        time.sleep(size.period)
        with closing(Scraper(daemon.http, SCRAPE_EVERY)) as scraper:
            before, at = footprint(front), time.monotonic()
            time.sleep(60.0 * minutes)
            after, until = footprint(front), time.monotonic()
            page = fleet_browser.look(daemon.http, PAGE_SECONDS)
            time.sleep(10.0)  # so that the last samples have been shown
        report = load.stop()
    quiet = [each for each in scraper.scrapes if at <= each.began and each.ended <= until]
    report["sent"] = [each for each in report["sent"] if at <= each["due"] <= until]
    delays, unseen = latencies(report, scraper.scrapes)
    return {
        "machine": machine(),
        "load": os.getloadavg()[0],
        "size": vars(size) | {"minutes": minutes},
        "filled_seconds": filled,
        "samples": len(delays),
        "unseen": unseen,
        "latency": {f"{q:g}": float(np.quantile(delays, q)) for q in (0.5, 0.9, 0.99, 1.0)},
        "late": float(np.quantile([each["sent"] - each["due"] for each in report["sent"]], 0.99)),
        "scrapes": [each.ended - each.began for each in quiet],
        "bytes": quiet[-1].size,
        "series": quiet[-1].series,
        "memory": {"empty": empty.memory, "full": full.memory, "after": after.memory},
        "processors": spent(before, after, until - at),
        "page": page,
    }


def main() -> int:
    """Measure, keep, print; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--fill", type=int, default=520, help="samples a run before anything is measured")
    parser.add_argument("--period", type=float, default=10.0, help="seconds between two samples of a run")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--probes", type=int, default=256, help="prediction positions a sample")
    options = parser.parse_args()
    if (why := missing()) is not None:
        raise SystemExit(why)
    seconds = 60.0 * options.minutes + PAGE_SECONDS + 120.0
    size = Size(options.runs, options.fill, options.period, seconds, options.probes)
    with tempfile.TemporaryDirectory() as directory:
        daemon = Daemon(Path(directory), "--engine", "ray").start()
        try:
            found = measure(daemon, size, options.minutes)
        finally:
            daemon.stop()
    print(keep("fleet", found))
    return int(bool(fleet_missed(found)))


if __name__ == "__main__":
    sys.exit(main())
