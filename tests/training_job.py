"""A training job for tests, run as a process: dropout, batch norm, and its losses written bit by bit.

Prints `step N` after every step, so that a test can act in mid-run, and paces itself with --pace seconds a step.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

import torch
from torch import nn

import topowatch_client


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default="job")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--losses", type=Path)
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--explode-at", type=int, help="step at which the loss becomes NaN")
    parser.add_argument("--until", type=Path, help="file whose appearance ends the training, as the last step does")
    parser.add_argument("--checkpoint", type=Path, help="resume from here if it exists; written at step 60")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = torch.randn(512, 20), torch.randint(5, (512,))
    first = 0
    if arguments.checkpoint and arguments.checkpoint.exists():
        state = torch.load(arguments.checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    watch = None
    if not arguments.bare:
        probe = (x[:64], y[:64])
        loss = nn.CrossEntropyLoss(reduction="none")
        watch = topowatch_client.attach(model, optimizer, run=arguments.run, group="tests", probe=probe, loss=loss)
    with arguments.losses.open("a") if arguments.losses else contextlib.nullcontext() as out:
        for step in range(first, arguments.steps):
            batch = torch.randint(len(y), (32,))
            loss_value = nn.functional.cross_entropy(model(x[batch]), y[batch])
            if step == arguments.explode_at:
                loss_value = loss_value * float("nan")
            optimizer.zero_grad()
            loss_value.backward()
            optimizer.step()
            if watch:
                watch.log(loss=loss_value)
            if out:
                out.write(f"{loss_value.item().hex()}\n")
            if arguments.checkpoint and step + 1 == 60 and not arguments.checkpoint.exists():
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
                torch.save(state, arguments.checkpoint)
            print(f"step {step}", flush=True)
            if arguments.until and arguments.until.exists():
                break
            time.sleep(arguments.pace)
    if watch:
        watch.finish(test_accuracy=0.5)


if __name__ == "__main__":
    main()
