"""What watching costs a training: bare and monitored steps in turn in one process, beside other tools.

`make bench-overhead` runs it. Every table carries a bare-against-bare control. The figures are kept as JSON, where
models that are run alone take their places, and as a page of docs.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from machine import machine
from overhead_models import WORKLOADS, Workload, optimizer_of, twin
from overhead_page import OURS, missed, page
from overhead_sides import SIDES, Side, Topowatch
from overhead_stats import Times, compare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "overhead.json"
PAGE = HERE.parents[1] / "docs" / "bench-overhead.md"
BARE, CONTROL = "bare", "control"
# A round is short without other tools, and steps far apart in time differ by more: closer figures for the same time.
BY_ITSELF = ", by itself"
STEPS = {
    "": {"cnn": 1024, "transformer-10m": 1024, "gpt2-124m": 320},
    BY_ITSELF: {"cnn": 2048, "transformer-10m": 1024, "gpt2-124m": 320},
}
_TURN_SECONDS = 2.0  # a turn of one side: longer than a cache stays warm, shorter than streams endure silence
_LONGEST_TURN = 16
_DRAIN_SECONDS = 20.0
_REPEATS = {"cnn": 5, "transformer-10m": 5, "gpt2-124m": 3}  # fresh processes


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run a recording daemon; yields its address."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "overhead_server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate(timeout=20)


def build(names: list[str], workload: Workload, endpoint: str) -> tuple[dict[str, Side], dict[str, str]]:
    """Return the sides, and why others could not be built.

    Bare sides and ours train the same tensors in the same memory; the other tools leave hooks on tensors, so each has a
    copy of its own.
    """
    optimizer = optimizer_of(workload.model)
    sides: dict[str, Side] = {}
    absent: dict[str, str] = {}
    for name in names:
        make, shares = SIDES[name]
        if shares:
            model, own_optimizer = twin(workload.model, optimizer)
        else:
            model = copy.deepcopy(workload.model)
            own_optimizer = optimizer_of(model)
        try:
            sides[name] = make(workload, model, own_optimizer, endpoint)
        except ImportError as error:
            absent[name] = str(error)
    return sides, absent


def turn(side: Side, steps: int, times: Times | None, device: torch.device) -> None:
    """Let one side take some steps, and note what they took."""
    walls, cpus = [], []
    helpers = side.enter()
    for _ in range(steps):
        cpu, wall = time.process_time(), time.perf_counter()
        side.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    helpers = side.leave() - helpers
    if times is not None:
        times.wall.append(walls)
        times.cpu.append(cpus)
        times.helpers.append(helpers)


def drain(side: Side, times: Times) -> None:
    """Let the forwarder ship what waits still, at the expense of its side."""
    if isinstance(side, Topowatch):
        helpers = side.enter()
        deadline = time.monotonic() + _DRAIN_SECONDS
        while not side.shipped() and time.monotonic() < deadline:
            time.sleep(0.05)
        times.helpers[-1] += side.leave() - helpers


def measure(name: str, names: list[str], steps: int, device: torch.device) -> dict[str, Any]:
    """Train one model under all sides in turn."""
    torch.manual_seed(0)
    workload = WORKLOADS[name](device)
    order = random.Random(0)
    with server() as endpoint:
        sides, absent = build(names, workload, endpoint)
        try:
            for side in sides.values():
                turn(side, 1, None, device)
            probing = Times()
            turn(sides[BARE], 3, probing, device)
            step = statistics.median(probing.wall[0])
            length = 1
            while length < _LONGEST_TURN and 2 * length * step <= _TURN_SECONDS:
                length *= 2
            print(f"{workload.title}: {step * 1e3:.0f} ms a step, turns of {length}", file=sys.stderr)
            for side in sides.values():
                turn(side, max(steps // 16 - side.steps, 4), None, device)
                side.measure()
            times = {side: Times() for side in sides}
            began = time.monotonic()
            rounds = -(-steps // length)
            for number in range(rounds):
                if number % max(1, rounds // 20) == 0:
                    passed = time.monotonic() - began
                    print(f"  {number * length:5} of {rounds * length} steps, {passed:.0f} s", file=sys.stderr)
                for side in order.sample(list(sides), len(sides)):
                    turn(sides[side], length, times[side], device)
            for side in sides:
                drain(sides[side], times[side])
            compared = compare(times, BARE, CONTROL)
            found = {side: {"version": sides[side].version, **compared[side], **sides[side].report()} for side in sides}
        finally:
            for side in sides.values():
                side.close()
    return {
        "title": workload.title,
        "batch": workload.batch,
        "parameters": workload.parameters,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "steps": rounds * length,
        "turn": length,
        "sides": found,
        "absent": absent,
    }


def alone(*arguments: str, repeats: int) -> list[dict[str, float]]:
    """Run one measurement in fresh processes, which find compiled code, as after an installation."""
    print(f"  {' '.join(arguments)}", file=sys.stderr)
    command = [sys.executable, str(HERE / "overhead_single.py"), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        found = [
            json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
            for _ in range(repeats + 1)
        ]
    return found[1:]  # the first one compiled


def single(models: list[str]) -> dict[str, Any]:
    """Attach and finish where no daemon answers, and memory."""
    found: dict[str, Any] = {"machine": machine(), "attach": {}, "finish": {}, "memory": {}}
    for model in models:
        repeats = _REPEATS[model]
        attached = alone("attach", "--model", model, repeats=repeats)
        found["attach"][model] = {name: [one[name] for one in attached] for name in ("import", "attach")}
        bare, watched = (alone("memory", "--model", model, *more, repeats=repeats) for more in (["--bare"], []))
        found["memory"][model] = {
            kind: statistics.median(one[kind] for one in watched) - statistics.median(one[kind] for one in bare)
            for kind in ("held", "resident", "peak")
        }
    for kind in ("refused", "silent"):
        found["finish"][kind] = [one["finish"] for one in alone("finish", "--daemon", kind, repeats=3)]
    if importlib.util.find_spec("wandb") is not None:
        found["wandb"] = alone("wandb", repeats=1)[0]
    return found


def kept(fresh: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the fresh parts in the places of those that were measured before; return all."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part, found in fresh.items():
        results[part] = {**results.get(part, {}), **found}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return results


def main() -> int:
    """Measure, keep, print; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=(*WORKLOADS, "single"), action="append", help="a part alone; default: all")
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="the first two always run; default: ours, then all")
    parser.add_argument("--steps", type=int, help="a side; default: 320 to 2,048, the fewest of the largest model")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # whoever ends it must not leave stopped processes behind
    parts = options.model or [*WORKLOADS, "single"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, Any] = {}
    for part in parts:
        if part == "single":
            results = kept({"single": single(list(WORKLOADS))})
            continue
        for sides in [options.sides] if options.sides else [[OURS], list(SIDES)]:
            names = [BARE, CONTROL, *(name for name in sides if name not in (BARE, CONTROL))]
            kind = BY_ITSELF if {*names} == {BARE, CONTROL, OURS} else ""
            found = measure(part, names, options.steps or STEPS[kind][part], device)
            found["title"] += kind
            results = kept({"models": {f"{part} on {device.type}{kind}": found}})
    text = page(results)
    PAGE.write_text(text)
    print(text)
    return int(bool(missed(results)))


if __name__ == "__main__":
    sys.exit(main())
