"""Functions that tests run as jobs, in the place of a refit; a process of its own finds them here by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topowatch_monitor.engine.group_fit import Refused
from topowatch_monitor.engine.group_forecast import nothing

if TYPE_CHECKING:
    from topowatch_monitor.engine.group_forecast import ForecastFit

HERE = Path(__file__).parent
NOISY_POINTS = 179


def total(*numbers: Any) -> Any:
    """Of numbers, or of lists of them."""
    return sum(sum(number) if isinstance(number, list) else number for number in numbers)


def fail(*arguments: object) -> None:
    raise ZeroDivisionError("of this one group")


def refuse(*arguments: object) -> Refused:
    return Refused("make it smaller")


def sleep(*arguments: object) -> None:
    """Longer than any test."""
    time.sleep(3600)


def hang(*arguments: object) -> None:
    """Raw Ripser on noise in a high dimension: C code that takes hours, with the interpreter's lock held."""
    from ripser import ripser

    ripser(np.random.default_rng(0).standard_normal((NOISY_POINTS, 100)), maxdim=5)


class _Deadly:
    def __reduce__(self) -> tuple[Any, ...]:
        os.kill(os.getpid(), signal.SIGKILL)
        return (int, ())


def die_answering() -> list[object]:
    """What kills the process while it is pickled, behind more than a pipe or a buffer holds."""
    return [bytes(1 << 20), _Deadly()]


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def learn_nothing(*found: object) -> ForecastFit:
    """Come back at once."""
    return nothing(f"{len(found)} carriers")


def learn_acc(*found: object) -> ForecastFit:
    """Come back at once with something learned, of which nothing is told yet."""
    return nothing("")._replace(metric="acc")


def learn_acc_of_others(*found: object) -> ForecastFit:
    return learn_acc()._replace(others=tuple(map(str, found)))


def kill_itself(*arguments: object) -> None:
    """Die as of a lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
