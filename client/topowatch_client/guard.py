"""The job's own signal handlers: what they do in the middle of a hook of ours stays theirs."""

from __future__ import annotations

import functools
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType


class Turns:
    """One thing of ours at a time: what a signal handler asks for in the middle of another waits until that is done."""

    def __init__(self) -> None:
        self._thread: int | None = None
        self._waiting: list[Callable[[], object]] = []

    def take(self, action: Callable[[], object]) -> None:
        """Run `action`, or have it run at the end of the one that this thread is in the middle of."""
        thread = threading.get_ident()
        if self._thread == thread:
            self._waiting.append(action)
            return
        other, self._thread = self._thread, thread
        try:
            action()
        finally:
            self._thread = other
            while self._waiting:
                self.take(self._waiting.pop(0))


def from_signal_handler(error: BaseException) -> bool:
    """Say whether one of the job's signal handlers raised `error`, such as DataLoader's when a worker was killed."""
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__ if not hasattr(handler, "__func__") else handler.__func__
    return getattr(handler, "__code__", None)
