"""One more sample of a path against computing H₀ anew with giotto-ph and with ripser, and what a sample costs a run.

`make bench` runs it. All sides are timed in turn in one process, on one thread; the figures are kept as JSON and as a
page of docs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gph import ripser_parallel
from machine import machine
from ripser import ripser
from tabular import table

from topowatch_monitor.engine.path_state import PathSettings, PathState
from topowatch_monitor.topology import IncrementalMST

if TYPE_CHECKING:
    from collections.abc import Callable

DIMENSION = 1021
WINDOWS = (256, 512, 1024, 2000, 4096)
BAR = 50.0
BAR_WINDOW = 2000
RESULTS = Path(__file__).parent / "results" / "topology.json"
PAGE = Path(__file__).parents[2] / "docs" / "bench-topology.md"

_HEAD = """\
# What the topology of one path costs

Written by `make bench`. Machine: {machine}. Points in {dimension} dimensions, one thread, medians taken in turn.

One more point of H₀: at a full window, which inserts it and evicts the oldest, and in a window that grows; against the
H₀ of the same points from scratch. Bar: {bar:g} × giotto-ph at a full window of 2,000.
"""


def walk(count: int, seed: int = 0) -> np.ndarray:
    """A random walk whose steps shrink: count × d, float32."""
    generator = np.random.default_rng(seed)
    steps = generator.standard_normal((count, DIMENSION)) / np.sqrt(1 + np.arange(count) / 50)[:, None]
    return np.cumsum(steps, axis=0).astype(np.float32)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def against_recomputing(window: int, steps: int, *, growing: bool) -> dict[str, Any]:
    """Seconds of one insertion, and of computations from scratch of the same points; the results are compared."""
    points = walk(window + steps)
    tree = IncrementalMST(None if growing else window)
    for point in points[:window]:
        tree.add(point)
    seconds: dict[str, list[float]] = {"ours": [], "giotto_ph": [], "ripser": []}
    for index in range(window, window + steps):
        alive = points[0 if growing else index + 1 - window : index + 1]
        seconds["ours"].append(timed(lambda index=index: tree.add(points[index]))[0])
        taken, diagram = timed(lambda alive=alive: ripser_parallel(alive, maxdim=0, n_threads=1)["dgms"][0])
        seconds["giotto_ph"].append(taken)
        seconds["ripser"].append(timed(lambda alive=alive: ripser(alive, maxdim=0))[0])
        deaths = np.sort(diagram[np.isfinite(diagram[:, 1]), 1])
        np.testing.assert_allclose(tree.lengths, deaths, rtol=1e-4)
    return {
        "window": window,
        "growing": growing,
        **{name: float(np.median(values)) for name, values in seconds.items()},
    }


def of_a_sample(h1: bool) -> float:
    """Mean seconds of one sample of a run at its default full window."""
    settings = PathSettings() if h1 else PathSettings(h1_every=10**9)
    points = walk(2 * settings.window)
    path = PathState(settings)
    for step in range(settings.window):
        path.add(step, points[step])
    began = time.perf_counter()
    for step in range(settings.window, 2 * settings.window):
        path.add(step, points[step])
    return (time.perf_counter() - began) / settings.window


def page(results: dict[str, Any]) -> str:
    """Return the page."""
    rows = [
        [
            str(line["window"]),
            "growing" if line["growing"] else "full",
            f"{line['ours'] * 1e3:.2f} ms",
            *(f"{line[other] * 1e3:,.0f} ms" for other in ("giotto_ph", "ripser")),
            *(f"{line[other] / line['ours']:.0f} ×" for other in ("giotto_ph", "ripser")),
        ]
        for line in results["h0"]
    ]
    head = ["points", "window", "one point", "giotto-ph", "ripser", "over giotto-ph", "over ripser"]
    h0, both = (results["sample"][name] * 1e3 for name in ("h0", "both"))
    return "\n".join(
        [
            _HEAD.format(machine=results["machine"], dimension=DIMENSION, bar=BAR),
            *table(head, rows),
            "",
            f"One sample of a run at the default window of 512: {h0:.2f} ms; with H₁ every so often {both:.2f} ms.",
            "",
        ]
    )


def main() -> int:
    """Measure, keep, print; exit 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=9)
    options = parser.parse_args()
    lines = []
    for growing in (False, True):
        for window in WINDOWS:
            print(f"H₀, {'growing' if growing else 'full'} window, {window} points", file=sys.stderr)
            lines.append(against_recomputing(window, options.steps, growing=growing))
    sample = {"h0": of_a_sample(h1=False), "both": of_a_sample(h1=True)}
    results = {"machine": machine(), "h0": lines, "sample": sample}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    text = page(results)
    PAGE.write_text(text)
    print(text)
    judged = next(line for line in lines if line["window"] == BAR_WINDOW and not line["growing"])
    return int(judged["giotto_ph"] / judged["ours"] < BAR)


if __name__ == "__main__":
    sys.exit(main())
