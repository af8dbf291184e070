"""What only a fresh process can show: attach and finish where no daemon answers, and memory. Prints one JSON object.

`python overhead_single.py attach|finish|memory|wandb …` is what the benchmark starts; torch is imported before timing.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from overhead_models import WORKLOADS, optimizer_of

_STEPS = 8
_MEGABYTE = 1e6


def endpoint_of(kind: str) -> tuple[str, socket.socket | None]:
    """Return an address where connections are refused, or taken and never answered, and what keeps it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    if kind == "refused":
        listener.close()
        return address, None
    listener.listen()
    return address, listener


class _Mallinfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    )


def memory() -> dict[str, float]:
    """Megabytes: allocated and not freed; resident; resident at the most so far."""
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    allocator = mallinfo()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {
        "held": (allocator.uordblks + allocator.hblkhd) / _MEGABYTE,
        "resident": pages * resource.getpagesize() / _MEGABYTE,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _MEGABYTE,
    }


def wandb_init(address: str) -> dict[str, float]:
    """Seconds that wandb takes online at an address where nobody answers, and whether it then ends the job."""
    import wandb

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"WANDB_BASE_URL": f"http://{address}", "WANDB_API_KEY": "0" * 40, "WANDB_SILENT": "true"}
        began, raised = time.perf_counter(), 0.0
        try:
            wandb.init(project="overhead", dir=folder)
        except wandb.errors.Error:
            raised = 1.0
        return {"seconds": time.perf_counter() - began, "raised": raised}


def main() -> None:
    """Measure one thing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("attach", "finish", "memory", "wandb"))
    parser.add_argument("--model", choices=WORKLOADS, default="cnn")
    parser.add_argument("--daemon", choices=("refused", "silent"), default="refused")
    parser.add_argument("--bare", action="store_true")
    options = parser.parse_args()
    if options.what == "wandb":
        json.dump(wandb_init(endpoint_of(options.daemon)[0]), sys.stdout)
        return
    workload = WORKLOADS[options.model](torch.device("cpu"))
    optimizer = optimizer_of(workload.model)
    address, listener = endpoint_of(options.daemon)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        watch = None
        if not options.bare:
            settings = {"interval": 2, "probe_interval": 4} if options.what == "memory" else {}
            began = time.perf_counter()
            import topowatch_client

            imported = time.perf_counter()
            watch = topowatch_client.attach(
                workload.model,
                optimizer,
                endpoint=address,
                probe=workload.probe,
                config={"spool_dir": folder, **settings},
            )
            found = {"import": imported - began, "attach": time.perf_counter() - imported, **watch.status}
        for step in range(_STEPS if options.what != "attach" else 1):
            optimizer.zero_grad()
            loss = workload.loss(workload.model, step)
            loss.backward()
            optimizer.step()
            if watch is not None:
                watch.log(loss=loss)
        found |= memory()
        if watch is not None:
            began = time.perf_counter()
            watch.finish()
            found["finish"] = time.perf_counter() - began
            _end_forwarder(Path(folder))
    if listener is not None:
        listener.close()
    json.dump({name: value for name, value in found.items() if isinstance(value, float)}, sys.stdout)


def _end_forwarder(folder: Path) -> None:
    from topowatch_client.spawn import _children

    for child in _children:
        child.send_signal(signal.SIGINT)  # SIGTERM leaves it time to ship
        child.wait(10)


if __name__ == "__main__":
    main()
