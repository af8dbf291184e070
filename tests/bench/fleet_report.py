"""The page of bench_fleet.py and bench_restart.py: figures beside their bars, kept as JSON and written to docs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from tabular import table

RESULTS = Path(__file__).parent / "results" / "fleet.json"
PAGE = Path(__file__).parents[2] / "docs" / "bench-fleet.md"
LATENCY_SECONDS = 5.0  # 99 % of samples, until a scrape has shown them
SCRAPE_SECONDS = 0.3  # 95 % of scrapes
MEMORY_MEGABYTES = 12.0  # a run
ROWS_MS, BLOCKED_MS, KEY_MS = 2000.0, 200.0, 200.0
BARRED = ("back", "current")
BACK_SECONDS = 10.0

_HEAD = """\
# The daemon under a fleet, and restarted under load

Written by `make bench-fleet`. Real processes on one machine: `topowatch serve` with default settings on its embedded
Ray, the load in one process over 20 connections, a scraper, Chromium. The runs are those of `topowatch simulate`, in
sweeps of 20, one in ten fails: sketches of 1,021 numbers, 256 probe positions, a loss at each step. They send no
statistics of layers, which take 2.3 kB a layer of a run, and none ends, so no group is compared or learned from.
"""
_FLEET = """\
## {runs:,} live runs

Machine: {machine}, load {load:.1f}. {runs:,} runs were filled with {fill} samples each in {filled:.0f} s ({rate:.0f} a
second), as fast as the daemon took them; the windows are of 512 samples and 2,048 steps. Then each sent a sample every
{period:g} s for {minutes:g} minutes: {samples:,} samples.

*Sample to metric* counts from the moment at which a sample was due (99 % of them were sent {late:.0f} ms later or less)
to the end of the first scrape of `/metrics` that shows its run at that step or beyond, with a scrape every 2 s: 1 s of
it on average is the wait for that scrape. Memory is the proportional set size of all processes of the daemon, so that
what they share counts once, over the number of runs. The page was open for a minute in a browser beside the daemon,
while samples came; *blocked* is the sum of the tasks of 50 ms and more of one refresh, a key counts up to the frame
that shows what it did.
"""
_RESTART = """\
## Restarted under load: {runs:,} runs

Machine: {machine}, load {load:.1f}. {runs:,} runs with {fill} samples in their windows, then {rate:.0f} samples a
second together; `/metrics` is scraped every {every:g} s. Seconds count from the signal. Every run's series are back
with the scrape from which on each shows a step of every run; they are current with that from which on each shows of
every run all that was due {fresh:g} s before or earlier; 0 means that they never were otherwise. The gap is the
longest time between the ends of two scrapes that showed all runs. The node is one of two of a Ray cluster on this
machine that another daemon with as many runs has joined; each of them carries a shard.

Of {acked:,} samples acked in all, **{lost} were lost and {twice} counted twice**: in the log that was left, and in what
the daemon counts of each run; {sent_again:,} times a batch was sent in vain, and a second later again.

What takes until they are current: a Ray of the daemon's own starts for some seconds, with all processors busy, and
what has come since the snapshots is then computed beside what goes on coming, on the processors that the load and the
scraper use as well. Where the engine could save before it ended (SIGTERM, and SIGKILL of the front alone) the
snapshots are new; where Ray was killed they are a minute or two old.
"""
SCENARIOS = {
    "terminated": "SIGTERM, then start",
    "killed": "SIGKILL of the front, then start",
    "ray": "SIGKILL of all of Ray, front up",
    "node": "SIGKILL of a Ray node",
}


def keep(name: str, found: dict[str, Any]) -> str:
    """Keep what was found under a name beside what is there, write the page; return it."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = found
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    text = page(results)
    PAGE.write_text(text)
    return text


def page(results: dict[str, Any]) -> str:
    """Return the page."""
    parts = [_HEAD]
    for name, found in sorted(results.items()):
        parts += _fleet(found) if name == "fleet" else _restart(found)
    return "\n".join(parts)


def fleet_missed(found: dict[str, Any]) -> list[str]:
    """Which bars a fleet missed."""
    return [what for what, _, _, met in _fleet_rows(found) if not met]


def restart_missed(found: dict[str, Any]) -> list[str]:
    """Which bars the restarts missed."""
    slow = [
        f"{name}: {what}" for name, each in found["scenarios"].items() for what in BARRED if each[what] > BACK_SECONDS
    ]
    return slow + [what for what in ("lost", "twice") if found[what]]


def _fleet(found: dict[str, Any]) -> list[str]:
    size, total = found["size"], found["size"]["runs"] * found["size"]["fill"]
    said = _FLEET.format(
        **{name: size[name] for name in ("runs", "fill", "period", "minutes")},
        machine=found["machine"],
        load=found["load"],
        filled=found["filled_seconds"],
        rate=total / found["filled_seconds"],
        samples=found["samples"] + found["unseen"],
        late=1e3 * found["late"],
    )
    rows = [[what, seen, bar if met else f"{bar}, **missed**"] for what, seen, bar, met in _fleet_rows(found)]
    memory = found["memory"]
    parts = list(memory["after"])
    megabytes = [
        [
            part,
            *(f"{memory[moment].get(part, 0) / 1e6:,.0f}" for moment in ("empty", "full", "after")),
            f"{100 * found['processors'][part]:.0f} %" if part in found["processors"] else "",
        ]
        for part in parts
    ]
    totals = [f"{sum(memory[moment].values()) / 1e6:,.0f}" for moment in ("empty", "full", "after")]
    megabytes.append(["all", *totals, f"{100 * sum(found['processors'].values()):.0f} %"])
    head = ["", "MB without runs", "MB filled", "MB after", "of one processor"]
    return [said, *table(["", "seen", "bar"], rows), "", *table(head, megabytes), ""]


def _fleet_rows(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What was measured, what was seen, the bar, and whether it was met."""
    latency, browser, runs = found["latency"], found["page"], found["size"]["runs"]
    scrapes, each = np.array(found["scrapes"]), found["memory"]
    highest = max(sum(each["full"].values()), sum(each["after"].values())) / runs / 1e6
    share = highest - sum(each["empty"].values()) / runs / 1e6
    answers, blocked, keys = browser["answers"], browser["blocked"], browser["keys"] or [16.0]
    slow = float(np.quantile(scrapes, 0.95))
    return [
        (
            "sample to metric: median, 99 %, longest",
            f"{latency['0.5']:.1f}, {latency['0.99']:.1f}, {latency['1']:.1f} s",
            f"99 %: {LATENCY_SECONDS:g} s",
            latency["0.99"] <= LATENCY_SECONDS,
        ),
        ("samples that no scrape has shown", str(found["unseen"]), "0", found["unseen"] == 0),
        (
            f"a scrape of {found['series']:,} series, {found['bytes'] / 1e6:.1f} MB: median, 95 %, longest",
            f"{1e3 * np.median(scrapes):.0f}, {1e3 * slow:.0f}, {1e3 * scrapes.max():.0f} ms",
            f"95 %: {1e3 * SCRAPE_SECONDS:.0f} ms",
            slow <= SCRAPE_SECONDS,
        ),
        (
            "memory of a run: all there is over the runs; what they add",
            f"{highest:.1f}; {share:.1f} MB",
            f"all: {MEMORY_MEGABYTES:g} MB",
            highest <= MEMORY_MEGABYTES,
        ),
        (
            f"page, from opening it to its first rows ({browser['drawn']} are drawn)",
            f"{browser['rows']:.0f} ms",
            f"{ROWS_MS:.0f} ms",
            browser["rows"] <= ROWS_MS,
        ),
        (
            f"page, blocked by a refresh: median and longest of {len(blocked)}; the first",
            f"{np.median(blocked):.0f} and {max(blocked):.0f}; {browser['first_blocked']:.0f} ms",
            f"longest: {BLOCKED_MS:.0f} ms",
            max(blocked) <= BLOCKED_MS,
        ),
        (
            "page, a key in the filter: median and longest",
            f"{np.median(keys):.0f} and {max(keys):.0f} ms",
            f"longest: {KEY_MS:.0f} ms",
            max(keys) <= KEY_MS,
        ),
        (
            f"/api/v1/runs, {browser['size'] / 1e6:.1f} MB, as the page asks for it: median and longest",
            f"{np.median(answers):.0f} and {max(answers):.0f} ms",
            "–",
            True,
        ),
    ]


def _restart(found: dict[str, Any]) -> list[str]:
    size = found["size"]
    said = _RESTART.format(
        runs=size["runs"],
        fill=size["fill"],
        machine=found["machine"],
        load=found["load"],
        rate=size["runs"] / size["period"],
        every=found["every"],
        fresh=LATENCY_SECONDS,
        **{name: found[name] for name in ("acked", "lost", "twice", "sent_again")},
    )
    lines = {
        "start": "new process begun",
        "ready": "/-/ready answers",
        "back": f"every run's series are back (bar: {BACK_SECONDS:g} s)",
        "current": f"they are current (bar: {BACK_SECONDS:g} s)",
        "gap": "longest gap in the series",
    }
    rows = [
        [what, *(_figure(name, each[name]) for each in found["scenarios"].values())] for name, what in lines.items()
    ]
    return [said, *table(["", *(SCENARIOS[name] for name in found["scenarios"])], rows), ""]


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    seen = "never" if value == math.inf else f"{value:.1f}"
    return f"{seen}, **missed**" if name in BARRED and value > BACK_SECONDS else seen
