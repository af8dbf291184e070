"""What a weight sketch costs beside one read of the weights, and how well it keeps distances.

`make bench` runs it. Both sides of a ratio are timed in turn in one process, by CPU time on one thread. The figures are
kept as JSON and as a page of docs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from machine import machine
from tabular import table

sys.path.insert(0, str(Path(__file__).parents[1]))
from topowatch_client.sketch import FoldSketch, Part
from weight_differences import BARS, differences, training_path

if TYPE_CHECKING:
    from collections.abc import Callable

BAR_COST = 4.0
SIZES = (10**7, 10**8)
TRIALS = 400
PATH_BAR, PATH_SEEDS, PATH_STEPS = 0.08, 40, 10
RESULTS = Path(__file__).parent / "results" / "sketch.json"
PAGE = Path(__file__).parents[2] / "docs" / "bench-sketch.md"

_HEAD = """\
# What a weight sketch costs and keeps

Written by `make bench`. Machine: {machine}, one thread.

A sketch has 1,021 numbers. Its cost is CPU time over that of `tensor.sum()` of the same tensor, pair by pair: median,
least and most of {rounds}. The sum of a bf16 tensor reads half the bytes of an fp32 one, so its ratio is higher.
"""
_KEPT = """
How far the length of a sketched difference lies from the true one (relative, {trials} draws of a 384 × 512 matrix under
as many names; consecutive steps of Adam on a small network under {seeds} seeds). *Shards* is how far the sum of the
sketches of shards (5 uneven row slices; 3 × 2 boxes) lies from the sketch of the whole, relative to its length: float32
rounding, so distances are kept as well with shards as without.
"""


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ratios(values: torch.Tensor, rounds: int) -> list[float]:
    """Cost of a sketch over that of `tensor.sum()` of the same tensor, pair by pair."""
    sketch = FoldSketch()
    sketch.slice("weight", values)
    values.sum()
    return [cpu_seconds(lambda: sketch.slice("weight", values)) / cpu_seconds(values.sum) for _ in range(rounds)]


def sharded(fold: FoldSketch, name: str, values: torch.Tensor) -> list[torch.Tensor]:
    """Sketches of a matrix from uneven row slices, and from boxes, added up."""
    shape = tuple(values.shape)
    first, rows = 0, []
    for size in (100, 1, 83, 0, shape[0] - 184):
        rows.append(Part(name, values[first : first + size], shape, (first, 0)))
        first += size
    boxes = [
        Part(name, values[top : top + 128, left : left + 256], shape, (top, left))
        for top in range(0, shape[0], 128)
        for left in range(0, shape[1], 256)
    ]
    return [fold.matrix(parts).sum(0) for parts in (rows, boxes)]


def distortion(kind: str) -> dict[str, float]:
    """Errors of the lengths of one kind of difference, and of the sums over shards."""
    random, fold = torch.Generator().manual_seed(1), FoldSketch()
    errors, shards = [], []
    for trial in range(TRIALS):
        delta, name = differences(kind, random), f"block.{trial}.weight"
        whole = fold.slice(name, delta)
        errors.append(abs(float(whole.norm() / delta.norm()) - 1))
        if trial < 20:
            shards += [float((total - whole).norm() / whole.norm()) for total in sharded(fold, name, delta)]
    return _quantiles(errors) | {"shards": max(shards)}


def path_distortion() -> dict[str, float]:
    """Errors of the lengths of real updates, all parameters together."""
    path, errors, shards = training_path(PATH_STEPS), [], []
    for seed in range(PATH_SEEDS):
        fold = FoldSketch(seed)
        points = [fold.model(weights.items()) for weights in path]
        steps = zip(itertools.pairwise(path), itertools.pairwise(points), strict=True)
        for (before, after), (start, end) in steps:
            true = torch.sqrt(sum(((after[name] - before[name]).square().sum() for name in before), torch.zeros(())))
            errors.append(abs(float((end - start).norm() / true) - 1))
        parts = [
            Part(name, piece, tuple(values.shape), (index * -(-len(values) // 3),) + (0,) * (values.dim() - 1))
            for name, values in path[-1].items()
            for index, piece in enumerate(values.chunk(3))
        ]
        shards.append(float((fold.matrix(parts).sum(0) - points[-1]).norm() / points[-1].norm()))
    return _quantiles(errors) | {"shards": max(shards)}


def _quantiles(errors: list[float]) -> dict[str, float]:
    return {"median": float(np.median(errors)), "p99": float(np.quantile(errors, 0.99)), "worst": max(errors)}


def page(results: dict[str, Any]) -> str:
    """Lay the results out."""
    costs = [
        [
            row["type"],
            f"10^{len(str(row['size'])) - 1}",
            f"{row['median']:.2f} ×",
            f"{row['least']:.2f} × to {row['most']:.2f} ×",
            f"{BAR_COST:g} ×" if row["type"] == "float32" else "–",
        ]
        for row in results["cost"]
    ]
    kept = [
        [
            kind,
            *(f"{row[name]:.2%}" for name in ("median", "p99", "worst")),
            f"{row['bar']:.0%}",
            f"{row['shards']:.0e}",
        ]
        for kind, row in results["distortion"].items()
    ]
    lines = [
        _HEAD.format(machine=results["machine"], rounds=results["rounds"]),
        *table(["type", "elements", "cost", "range", "bar"], costs),
        _KEPT.format(trials=TRIALS, seeds=PATH_SEEDS),
        *table(["difference", "median", "p99", "worst", "bar on p99", "shards"], kept),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print and keep; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cost = []
    for dtype in (torch.float32, torch.bfloat16):
        for size in SIZES:
            print(f"cost of 10^{len(str(size)) - 1} elements of {dtype}", file=sys.stderr, flush=True)
            found = ratios(torch.randn(size, dtype=torch.float32).to(dtype), options.rounds)
            cost.append({"type": str(dtype).removeprefix("torch."), "size": size, "median": float(np.median(found)),
                         "least": min(found), "most": max(found)})  # fmt: skip
    kept = {}
    for kind, bar in BARS.items():
        print(f"distortion of {kind}", file=sys.stderr, flush=True)
        kept[kind] = distortion(kind) | {"bar": bar}
    kept["a real path"] = path_distortion() | {"bar": PATH_BAR}
    results = {"machine": machine(), "rounds": options.rounds, "cost": cost, "distortion": kept}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))
    print(page(results))
    missed = any(row["type"] == "float32" and row["median"] > BAR_COST for row in cost)
    return int(missed or any(row["p99"] > row["bar"] or row["shards"] > 1e-5 for row in kept.values()))


if __name__ == "__main__":
    sys.exit(main())
