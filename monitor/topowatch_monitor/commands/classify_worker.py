"""The process that `topowatch classify` computes in, so that it can be ended: `python -m … FILE OPTIONS`.

It writes JSON, one object a line: {"stage": words} while it works, and {"result": …} or {"error": words} at its end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topowatch_monitor.commands.paths_file import PathsFileError, read_paths
from topowatch_monitor.engine.group_fit import MOST_MERGED, merges
from topowatch_monitor.export.strict_json import dumps
from topowatch_monitor.topology.limits import check_classes
from topowatch_monitor.topology.path_classes import PathClasses, classify_paths, outliers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


GRACE_SECONDS = 5.0  # this process ends by itself that long after its parent should have ended it


def main(arguments: Sequence[str]) -> int:
    """Classify the paths of a file; the arguments are its name and the options as JSON."""
    file, options = Path(arguments[0]), json.loads(arguments[1])
    if hasattr(signal, "setitimer"):  # where the parent cannot end it any more; the default of SIGALRM is to end
        signal.setitimer(signal.ITIMER_REAL, options["timeout"] + GRACE_SECONDS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _say(result=classify_file(file, options))
    except ValueError as error:
        _say(error=str(error))
    except MemoryError:
        _say(error=f"the paths of {file} do not fit into this machine's memory: thin them out")
    return 0


def classify_file(file: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the classes of a file's paths as JSON has them; raises ValueError."""
    _say(stage=f"reading {file.name}")

    def check(points: int, dimension: int) -> None:
        # The points are held twice more while they are read and sorted.
        reading = 2 * np.dtype(np.float64).itemsize * points * dimension
        _check_memory(check_classes(points, dimension, options["landmarks"]).memory + reading)

    paths = read_paths(file, check)
    points = sum(map(len, paths.values()))
    _say(stage=f"classifying {len(paths):,} paths of {points:,} points")
    classes = classify_paths(
        list(paths.values()),
        landmarks=options["landmarks"],
        dims=options["dims"],
        relative=options["relative"],
        alpha=options["alpha"],
    )
    return as_json(classes, list(paths), points)


def as_json(classes: PathClasses, names: Sequence[str], points: int) -> dict[str, Any]:
    """Return the fields of PathClasses, the labels by name as well, who is outside, and the tree of merge scales."""
    told: dict[str, Any] = {"paths": list(names), "points": points}
    for field in fields(classes):
        if not field.name.startswith("_"):
            value = getattr(classes, field.name)
            told[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
    p_values, outside = outliers(classes)
    told["label_of"] = {name: int(label) for name, label in zip(names, classes.labels, strict=True)}
    told["p_value_of"] = {name: float(value) for name, value in zip(names, p_values, strict=True)}
    told["outliers"] = [name for name, out in zip(names, outside, strict=True) if out]
    few = len(names) <= MOST_MERGED
    told["merge_scale"] = classes.merge_scale.tolist() if few else None
    told["merges"] = merges(classes.merge_scale) if few else None
    return told


def _check_memory(needed: int) -> None:
    free = _free_memory()
    if free is not None and needed > free:
        raise PathsFileError(
            f"the paths need about {needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are free: "
            "thin them out, or project the points first"
        )


def _free_memory() -> int | None:
    """Return the bytes that can be had, where the system says."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        [kilobytes] = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        return 1024 * int(kilobytes)
    except (OSError, ValueError):
        return None


def _say(**message: Any) -> None:
    sys.stdout.buffer.write(dumps(message) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_parent() -> None:
    """End when the parent does: it holds the other end of standard input, and never writes."""
    # Not through sys.stdin: its lock would be held when the interpreter ends, which aborts then.
    while os.read(0, 1 << 10):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
