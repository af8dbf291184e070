"""A training job that fails on purpose, run after run, for bench_alert: attached as anyone would, with defaults.

Prints one JSON object a step, and goes on failing until a line on its standard input says that it was seen.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time

import torch
from torch import nn

import topowatch_client

HEALTHY_STEPS = 128
SPREAD_STEPS = 64  # so that failures fall anywhere between two samples and two scrapes
TOO_HIGH = 100.0  # times the learning rate


def watch_one(run: str, failure: str, seen: threading.Semaphore) -> None:
    """Train one run until it is at low loss, then let it fail until that was seen."""
    torch.manual_seed(0)
    x = torch.randn(2048, 512)
    y = (x @ torch.randn(512, 10)).argmax(dim=1)
    model = nn.Sequential(
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    probe = (x[:64], y[:64])
    loss = nn.CrossEntropyLoss(reduction="none")
    fails_at = HEALTHY_STEPS + random.randrange(SPREAD_STEPS)
    step = 0
    with topowatch_client.attach(model, optimizer, run=run, group="bench", probe=probe, loss=loss) as watch:
        while not seen.acquire(blocking=False):
            batch = torch.randint(len(y), (128,))
            value = nn.functional.cross_entropy(model(x[batch]), y[batch])
            if step == fails_at and failure == "nan":
                value = value * float("nan")
            if step == fails_at and failure == "rise":
                optimizer.param_groups[0]["lr"] *= TOO_HIGH
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            watch.log(loss=value)
            print(json.dumps({"run": run, "step": step, "at": time.time(), "fails": step >= fails_at}), flush=True)
            step += 1


def main() -> None:
    """Fail as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("failure", choices=("nan", "rise"))
    parser.add_argument("--runs", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seen = threading.Semaphore(0)

    def listen() -> None:
        for _ in sys.stdin:
            seen.release()

    threading.Thread(target=listen, daemon=True).start()
    for number in range(options.runs):
        watch_one(f"{options.failure}-{number}", options.failure, seen)


if __name__ == "__main__":
    main()
