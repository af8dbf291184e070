"""Runs a computation in a process that can be ended, whatever C code it is in."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from topowatch_monitor.commands.output import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence


class TooSlowError(Exception):
    """The computation was ended because it took too long."""


def run_killable(module: str, arguments: Sequence[str], *, timeout: float) -> Any:
    """Run `python -m module` and return its result; its stages are shown on standard error if that is a terminal.

    The module writes JSON, one object a line: {"stage": words}, then {"result": …} or {"error": words}. It finds its
    standard input closed when this process has gone.

    Raises:
        CommandError: it said what is wrong, or ended without a word.
        TooSlowError: it took longer than `timeout` seconds.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches this process only, which ends the other
    )
    lines: list[bytes] = []
    errors: list[bytes] = []
    readers = [
        threading.Thread(target=_gather, args=pair) for pair in ((process.stdout, lines), (process.stderr, errors))
    ]
    for reader in readers:
        reader.start()
    try:
        _wait(process, lines, time.monotonic() + timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for reader in readers:
            reader.join()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    return _answer(lines, errors, process.returncode)


def _gather(stream: Any, into: list[bytes]) -> None:
    into.extend(iter(stream.readline, b""))


def _wait(process: subprocess.Popen[bytes], lines: Sequence[bytes], deadline: float) -> None:
    """Return when the process has ended; raises TooSlowError at the deadline."""
    began = time.monotonic()
    terminal = Console(stderr=True, highlight=False)
    shown = terminal.status("") if terminal.is_terminal else contextlib.nullcontext()
    with shown as status:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(0.2, max(0.0, deadline - time.monotonic())))
                return
            if time.monotonic() >= deadline:
                raise TooSlowError
            if status is not None and lines:
                stage = json.loads(lines[-1]).get("stage", "")
                status.update(Text(f"{stage}, {time.monotonic() - began:.0f} s"))


def _answer(lines: Sequence[bytes], errors: Sequence[bytes], status: int) -> Any:
    last = json.loads(lines[-1]) if lines else {}
    if "result" in last:
        return last["result"]
    if "error" in last:
        raise CommandError(last["error"])
    said = b"".join(errors).decode(errors="replace").strip().rpartition("\n")[2]
    if status == -signal.SIGKILL:
        said = "it was killed, most often for want of memory"
    elif status < 0:
        said = f"it was ended by signal {signal.Signals(-status).name}"
    raise CommandError(f"the computation ended without a result: {said or f'exit status {status}'}")
