"""What path classes cost: 11,000 paths, growth with paths, points and landmarks, and a sample of a live run.

`make bench` runs it. One process; the figures are kept as JSON and as a page of docs.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from tabular import table

sys.path.insert(0, str(Path(__file__).parents[1]))
from planted_paths import Paths, around, hole_free
from topowatch_monitor.topology import PathTracker, classify_paths

BAR = 10.0  # seconds, for MANY paths
MANY, MANY_POINTS = 11_000, 5_000_000
DIMENSION = 1021
RUNS = (24, 96, 384, 1536)
SAMPLES = (64, 256, 1024, 4096)
LANDMARKS = (100, 200, 400)
REPEATS = 3
RESULTS = Path(__file__).parent / "results" / "classes.json"
PAGE = Path(__file__).parents[2] / "docs" / "bench-classes.md"

_HEAD = """\
# What path classes cost

Written by `make bench`. Machine: {machine}.

Seconds of wall time of `classify_paths` and of its atlas; medians of {repeats}. Where a loop beats the law of noise it
is compared with 5 to 20 Gaussian groups as well (`topology/scatter.py`): a group with a hole takes longer.
"""
_MANY = """\
{paths:,} paths of {points:,} points in 3 dimensions: {seconds:.1f} s (bar: {bar:g} s), {classes} classes; their atlas
another {atlas_seconds:.1f} s.
"""
_SAMPLE = """\
One sample of a live run in {dimension} dimensions, placed and compared with the classes of 24 siblings by
loops that count ({bars}): {milliseconds:.2f} ms. The atlas has {atlas_bytes:,} bytes.
"""


def fitted(paths: Paths, landmarks: int = 400) -> tuple[float, Any]:
    """Seconds to classify paths and make their atlas; and the classes."""
    began = time.perf_counter()
    classes = classify_paths(paths, landmarks=landmarks)
    assert classes.atlas is not None
    return time.perf_counter() - began, classes


def of_groups(runs: int, samples: int, landmarks: int) -> dict[str, Any]:
    """Seconds for a group without a hole and one around one."""
    ranges = (samples, samples + 1)
    without = hole_free("bundle", runs, 0)
    without = [_resampled(path, samples) for path in without]
    with_hole, _ = around(runs, 0, samples=ranges)
    return {
        "runs": runs,
        "samples": samples,
        "landmarks": landmarks,
        **{
            name: float(np.median([fitted(paths, landmarks)[0] for _ in range(REPEATS)]))
            for name, paths in (("without", without), ("around", with_hole))
        },
    }


def of_many() -> dict[str, Any]:
    """Seconds for MANY paths of MANY_POINTS points in three dimensions around a hole."""
    length = MANY_POINTS // MANY + 1
    paths, _ = around(MANY, 0, dims=3, samples=(length, length + 1))
    began = time.perf_counter()
    classes = classify_paths(paths)
    classified = time.perf_counter()
    assert classes.atlas is not None
    return {
        "seconds": classified - began,
        "atlas_seconds": time.perf_counter() - classified,
        "paths": len(paths),
        "points": sum(map(len, paths)),
        "classes": int(classes.labels.max()) + 1,
        "abstained": classes.abstained,
    }


def of_a_sample() -> dict[str, Any]:
    """Mean seconds of one sample of a live run on an atlas of 24 siblings, and the bytes of that atlas."""
    paths, _ = around(25, 0, dims=DIMENSION, noise=0.02 / DIMENSION**0.5)
    _, classes = fitted(paths[:-1])
    tracker = PathTracker(classes.atlas)
    began = time.perf_counter()
    for point in paths[-1]:
        tracker.add(point)
        tracker.compatible()
    seconds = (time.perf_counter() - began) / len(paths[-1])
    return {"seconds": seconds, "bars": len(classes.bars), "atlas_bytes": len(pickle.dumps(classes.atlas))}


def page(results: dict[str, Any]) -> str:
    """Return the page."""
    many, sample = results["many"], results["sample"]
    head = ["paths", "points of each", "landmarks", "without a hole", "around a hole"]
    rows = [
        [
            *(str(line[name]) for name in ("runs", "samples", "landmarks")),
            *(f"{line[name]:.2f} s" for name in ("without", "around")),
        ]
        for line in results["growth"]
    ]
    return "\n".join(
        [
            _HEAD.format(machine=results["machine"], repeats=REPEATS),
            _MANY.format(**many, bar=BAR),
            *table(head, rows),
            "",
            _SAMPLE.format(dimension=DIMENSION, milliseconds=sample["seconds"] * 1e3, **sample),
        ]
    )


def main() -> int:
    """Measure, keep, print; exit 1 where the bar is missed."""
    cells = [(runs, 128, 400) for runs in RUNS]
    cells += [(24, samples, 400) for samples in SAMPLES]
    cells += [(24, 128, landmarks) for landmarks in LANDMARKS[:-1]]
    growth = []
    for cell in cells:
        print("{} paths of {} points, {} landmarks".format(*cell), file=sys.stderr)
        growth.append(of_groups(*cell))
    print(f"{MANY:,} paths", file=sys.stderr)
    results = {"machine": machine(), "growth": growth, "many": of_many(), "sample": of_a_sample()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    text = page(results)
    PAGE.write_text(text)
    print(text)
    return int(results["many"]["seconds"] > BAR)


def _resampled(path: np.ndarray, count: int) -> np.ndarray:
    """A polyline sampled at `count` places."""
    places = np.linspace(0, len(path) - 1, count)
    return np.column_stack([np.interp(places, np.arange(len(path)), column) for column in path.T])


if __name__ == "__main__":
    sys.exit(main())
