"""Keeps what took minutes to find, until the log that it was found in, or the code that found it, is another."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import topowatch_monitor
from replication.forecasts.generate import folder_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from replication.forecasts.sweep import Sweep

_ROOMS = ("detect", "engine", "forecast", "topology")
_JUDGES = ("holding_out.py", "reading.py", "shapes.py", "strangers.py")

Found = TypeVar("Found")


def keep(sweep: Sweep, name: str, find: Callable[..., Found], *of: object) -> Found:
    """Return what `find(*of)` returned before, or returns now."""
    file = folder_of(sweep) / "kept" / f"{name}.pickle"
    stamp = _stamp(sweep)
    if file.exists():
        known, found = pickle.loads(file.read_bytes())  # noqa: S301 - it was written below
        if known == stamp:
            return found
    found = find(*of)
    file.parent.mkdir(exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_bytes(pickle.dumps((stamp, found)))
    unfinished.replace(file)
    return found


def _stamp(sweep: Sweep) -> str:
    """Name the log and the code that reads and judges it."""
    code, here = Path(topowatch_monitor.__file__).parent, Path(__file__).parent
    files = [file for room in _ROOMS for file in sorted((code / room).rglob("*.py"))]
    files += [here / name for name in _JUDGES]
    log = [f"{file.name} {file.stat().st_size}".encode() for file in sorted((folder_of(sweep) / "data/log").iterdir())]
    return hashlib.sha256(b"".join([*(file.read_bytes() for file in files), *log])).hexdigest()
