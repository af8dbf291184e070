"""What a weight sketch costs beside one read of the weights, and how well it keeps distances.

Run it with `python tests/bench/bench_sketch.py`. Both sides of a ratio are timed in turn in one process, by CPU time.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from machine import machine

from topowatch_client.sketch import FoldSketch

if TYPE_CHECKING:
    from collections.abc import Callable

BAR_COST = 4.0
SIZES = (10**7, 10**8)


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ratios(size: int, dtype: torch.dtype, rounds: int) -> list[float]:
    """Cost of a sketch over that of `tensor.sum()` of the same tensor, pair by pair."""
    values = torch.randn(size, dtype=torch.float32).to(dtype)
    sketch = FoldSketch()
    sketch.slice("weight", values)
    values.sum()
    return [cpu_seconds(lambda: sketch.slice("weight", values)) / cpu_seconds(values.sum) for _ in range(rounds)]


def main() -> int:
    """Measure, print; exit 1 where the bar is missed (fp32)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"machine  {machine()}, 1 thread")
    print("sketch over tensor.sum(), CPU time: median (min to max)")
    missed = False
    for dtype in (torch.float32, torch.bfloat16):
        for size in SIZES:
            found = ratios(size, dtype, options.rounds)
            median = float(np.median(found))
            missed |= dtype == torch.float32 and median > BAR_COST
            bar = f"  bar: {BAR_COST:g}" if dtype == torch.float32 else ""
            print(f"  {str(dtype).removeprefix('torch.'):8}  10^{len(str(size)) - 1} elements  "
                  f"{median:.2f} × ({min(found):.2f} to {max(found):.2f}){bar}")  # fmt: skip
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
