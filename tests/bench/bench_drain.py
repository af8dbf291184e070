"""How long a host needs to ship what piled up in an outage: 8 jobs with 10 samples a second each, for ten minutes.

Run it with `python tests/bench/bench_drain.py [--jobs 8] [--rate 10] [--minutes 10]`. Spools, forwarder and the daemon
(`topowatch serve --engine inline`, with the analysis of all samples) are the real ones and share this machine. The
forwarder has met the outage: when the daemon is back, its pauses between two tries are at their longest.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine

from topowatch_client import messages, spool
from topowatch_client.messages import SampleParts
from topowatch_client.scalars import Series

BAR_SECONDS = 60.0
OUTAGE_SECONDS = 15.0  # until the forwarder's pauses have grown to their longest
DIMENSION = 1021


def fill(directory: Path, endpoint: str, number: int, samples: int) -> None:
    """Write the spool of one job: weights and update, and ten scalars, a sample."""
    generator = np.random.default_rng(number)
    weights = generator.standard_normal(DIMENSION).astype(np.float32)
    uuid = f"{number:032x}"
    writer = spool.SpoolWriter(directory, uuid, {"endpoint": endpoint, "mode": "online"}, 256 << 20)
    facts = messages.RunFacts("bench", f"job-{number}", 0, 1, 1, uuid, {}, DIMENSION, 0, 10**6)
    descriptor = messages.encode_descriptor(facts, incarnation=1, start_step=0, first_seq=0, probe=None)
    writer.begin(1, descriptor)
    for step in range(samples):
        update = generator.standard_normal(DIMENSION).astype(np.float32) / (1 + step)
        weights = weights + update
        series = [Series(f"scalar-{index}", [step], [1.0 / (1 + step)]) for index in range(10)]
        writer.append(messages.encode_sample(SampleParts(step, weights, update, series)))
    writer.close(ended=True)
    if writer.dropped:
        raise RuntimeError(f"{writer.dropped} samples did not fit the spool")


def serve(directory: Path, grpc: str) -> tuple[subprocess.Popen[str], str]:
    """Start the daemon; return it and its gRPC address once it is ready."""
    command = ["-m", "topowatch_monitor", "serve", "--engine", "inline", "--data-dir", str(directory)]
    with (directory.parent / "daemon.log").open("a") as log:
        daemon = subprocess.Popen(
            [sys.executable, *command, "--grpc", grpc, "--http", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert daemon.stdout is not None
    for line in daemon.stdout:
        if found := re.search(r"ready grpc=(\S+)", line):
            return daemon, found[1]
    raise RuntimeError((directory.parent / "daemon.log").read_text())


def main() -> int:
    """Measure, print figures and machine; exit 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=10.0, help="samples of a job a second")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the outage whose samples are spooled")
    options = parser.parse_args()
    samples = round(options.rate * options.minutes * 60)
    with tempfile.TemporaryDirectory() as name:
        data, spools = Path(name) / "data", Path(name) / "spool"
        daemon, endpoint = serve(data, "127.0.0.1:0")
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        for number in range(options.jobs):
            fill(spools, endpoint, number, samples)
        spooled = sum(path.stat().st_size for path in spools.glob("*/*.seg"))
        forwarder = subprocess.Popen(
            [sys.executable, "-m", "topowatch_client.forwarder", str(spools), "--grace", "0"],
            stderr=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if not key.startswith("TOPOWATCH_")},
        )
        time.sleep(OUTAGE_SECONDS)
        daemon, _ = serve(data, endpoint)
        began, first = time.monotonic(), 0.0
        while forwarder.poll() is None:
            acked = any(spool.read_cursor(path).get("acked") for path in spool.writer_directories(spools))
            first = first or acked * (time.monotonic() - began)
            time.sleep(0.05)
        seconds = time.monotonic() - began
        left = spool.writer_directories(spools)
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
    total = samples * options.jobs
    print(f"machine    {machine()}")
    print(f"spooled    {total:,} samples of {options.jobs} jobs, {spooled >> 20} MiB")
    print(f"first ack  {first:.1f} s after the daemon was back")
    print(f"drained    after {seconds:.1f} s (bar: {BAR_SECONDS:.0f} s), {total / seconds:,.0f} samples/s")
    return 0 if not left and not forwarder.returncode and seconds <= BAR_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
