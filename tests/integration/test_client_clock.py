"""A training on a machine whose clock jumps: in mid-run, and back between two starts of the job."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

from topowatch_client import spool
from topowatch_client.spool_reader import SpoolReader
from topowatch_protos.v1 import sample_pb2

if TYPE_CHECKING:
    from pathlib import Path

TRAINING = """
    import sys, time
    days, real, real_ns = [float(sys.argv[1])], time.time, time.time_ns
    time.time = lambda: real() + days[0] * 86_400
    time.time_ns = lambda: real_ns() + int(days[0] * 86_400e9)
    import torch
    import topowatch_client

    watch = topowatch_client.attach(torch.nn.Linear(8, 8), run="r", config={"mode": "offline", "interval": 1})
    for jump in (0, -3, 5, 0):
        days[0] += jump
        for _ in range(5):
            watch.step()
    began = time.monotonic()
    watch.finish()
    print(time.monotonic() - began < 5, watch.status["failures"], watch.status["incarnation"])
"""


def train(spool_dir: Path, days: float) -> int:
    """Train with a clock that is `days` off and jumps; return the number of this life of the run."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOPOWATCH_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TRAINING), str(days)],
        env={**environment, "TOPOWATCH_SPOOL_DIR": str(spool_dir)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    in_time, failures, incarnation = done.stdout.split()
    assert (in_time, failures) == ("True", "0"), done.stderr
    return int(incarnation)


def test_a_job_that_starts_again_on_a_clock_that_went_back_supersedes_its_older_life(tmp_path: Path) -> None:
    """And in each life every step is there, whatever the clock did meanwhile."""
    lives = [train(tmp_path, days) for days in (0.0, -1.0)]
    assert lives[1] > lives[0]
    for directory in spool.writer_directories(tmp_path):
        items = [sample_pb2.Item.FromString(entry.envelope.item) for entry in SpoolReader(directory).read(1 << 30, 999)]
        assert [item.sample.step for item in items if item.sample.weights.values] == list(range(20))
