"""Samples a second from the wire to the analysed state: one daemon, two shards on an embedded Ray, load beside it.

Run it with `python tests/bench/bench_shards.py [--runs 20] [--samples 1000]`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time

import httpx
from machine import machine

BAR_RATE = 1000
COMMAND = [sys.executable, "-m", "topowatch_monitor"]


def analysed(http: str) -> int:
    """Samples that the engine's views hold."""
    return sum(run["analysed"] for run in httpx.get(f"http://{http}/api/v1/runs", timeout=30.0).json()["runs"])


def main() -> int:
    """Measure, print; exit 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=1000, help="of each run")
    parser.add_argument("--engine", default="ray")
    options = parser.parse_args()
    wanted = options.runs * options.samples
    with tempfile.TemporaryDirectory() as directory:
        flags = ["--data-dir", directory, "--engine", options.engine, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        daemon = subprocess.Popen(
            [*COMMAND, "serve", *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert daemon.stdout is not None
            found = re.search(r"grpc=(\S+) http=(\S+)", daemon.stdout.readline())
            assert found is not None
            grpc, http = found[1], found[2]
            size = ["--runs", "1", "--samples", "10", "--rate", "0"]
            subprocess.run([*COMMAND, "simulate", "--endpoint", grpc, "--group", "warm-up", *size],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            while analysed(http) < 10:
                time.sleep(0.2)
            size = ["--runs", str(options.runs), "--samples", str(options.samples), "--rate", "0", "--failing", "0"]
            began = time.perf_counter()
            subprocess.run([*COMMAND, "simulate", "--endpoint", grpc, *size],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            sent = time.perf_counter() - began
            while analysed(http) < wanted + 10:
                time.sleep(0.2)
            rate = wanted / (time.perf_counter() - began)
        finally:
            daemon.terminate()
            daemon.wait()
    print(f"machine  {machine()}; the load's own process shares it")
    print(f"sent     {wanted:,} samples of 4 KiB of {options.runs} runs in {sent:.1f} s")
    print(f"analysed {rate:,.0f} samples/s, from the first byte sent to the last result (bar: {BAR_RATE:,})")
    return int(rate < BAR_RATE)


if __name__ == "__main__":
    sys.exit(main())
