"""One function call in a process of its own, which can be killed whatever it does: the twin of a Ray task.

The child is this file run as a module. What passes between the two is pickled: both are this program.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# How far a job stands behind its parent: a tenth of its share of a full processor, so that it still comes to its end.
# What it yields to is worth more than its own speed, and matrices as small as these gain nothing from several threads.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
NICER = 10
# Where the kernel does not end the child of a parent that was killed, it goes on for so long at most, in seconds.
LONGEST_LIFE = 3600
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


class ChildJob:
    """A call that begins at once; a thread feeds the child and waits for it, so nobody else has to.

    Args:
        function: found by its name in an importable module.
        arguments: of the call.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
        )
        self._answer = b""
        self._thread = threading.Thread(target=self._run, args=(function, arguments), name="group-job", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether the child has answered or died."""
        return not self._thread.is_alive()

    @property
    def process(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def answer(self) -> tuple[bool, Any]:
        """Whether the call returned, and what it returned, or what it raised in words; raises EOFError if it died."""
        self._thread.join()
        if self._process.returncode:  # what it has written may lack its end
            raise EOFError(f"exit status {self._process.returncode}")
        answer: tuple[bool, Any] = pickle.loads(self._answer)  # noqa: S301 - the child's own
        return answer

    def kill(self) -> None:
        """End the child at once."""
        self._process.kill()

    def _run(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        told = pickle.dumps(sys.path) + pickle.dumps((function, arguments), protocol=pickle.HIGHEST_PROTOCOL)
        self._answer, _ = self._process.communicate(told)


def serve_call() -> None:
    """Read a call from standard input, make it, and write to standard output what came of it."""
    # Both work while C code holds the interpreter's lock, too.
    faulthandler.dump_traceback_later(LONGEST_LIFE, exit=True)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    os.nice(NICER)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between
    sys.path[:] = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our parent, as is what follows
    function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301
    answer: tuple[bool, Any]
    try:
        answer = True, function(*arguments)
    except Exception as error:  # noqa: BLE001 - handed to the parent in words
        answer = False, f"{type(error).__name__}: {error}"
    with answers:
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)


if __name__ == "__main__":
    serve_call()
