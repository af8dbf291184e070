"""One more sample of a full window against computing H₀ anew with giotto-ph, and what a sample costs a run's state.

Run it with `python tests/bench/bench_topology.py`. Both sides are timed in turn in one process, on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from gph import ripser_parallel
from machine import machine

from topowatch_monitor.engine.path_state import PathSettings, PathState
from topowatch_monitor.topology import IncrementalMST

DIMENSION = 1021
BAR = 50.0


def walk(count: int, seed: int = 0) -> np.ndarray:
    """A random walk whose steps shrink: count × d, float32."""
    generator = np.random.default_rng(seed)
    steps = generator.standard_normal((count, DIMENSION)) / np.sqrt(1 + np.arange(count) / 50)[:, None]
    return np.cumsum(steps, axis=0).astype(np.float32)


def against_recomputing(window: int, steps: int) -> tuple[float, float]:
    """Seconds of one insertion with eviction, and of a computation from scratch; medians, taken in turn."""
    points = walk(window + steps)
    tree = IncrementalMST(window)
    for point in points[:window]:
        tree.add(point)
    ours, theirs = [], []
    for index in range(window, window + steps):
        began = time.perf_counter()
        tree.add(points[index])
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        diagram = ripser_parallel(points[index + 1 - window : index + 1], maxdim=0, n_threads=1)["dgms"][0]
        theirs.append(time.perf_counter() - began)
        deaths = np.sort(diagram[np.isfinite(diagram[:, 1]), 1])
        np.testing.assert_allclose(tree.lengths, deaths, rtol=1e-4)
    return float(np.median(ours)), float(np.median(theirs))


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


def main() -> int:
    """Measure, print; exit 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    print(f"machine  {machine()}, points in {DIMENSION} dimensions")
    print("one step at a full window, insertion and eviction, against giotto-ph from scratch")
    ratio = 0.0
    for window in (256, 512, 1024, 2000):
        ours, theirs = against_recomputing(window, options.steps)
        ratio = theirs / ours
        print(f"  window {window:5}  {ours * 1e3:7.2f} ms  from scratch {theirs * 1e3:8.1f} ms  {ratio:6.0f} ×")
    print(f"  bar at 2,000: {BAR:g} ×")
    h0, both = of_a_sample(h1=False), of_a_sample(h1=True)
    print(f"one sample of a path at the default window: H₀ {h0 * 1e3:.2f} ms, with H₁ {both * 1e3:.2f} ms")
    return int(ratio < BAR)


if __name__ == "__main__":
    sys.exit(main())
