"""The job's own signal handlers: what they do in the middle of a hook of ours stays theirs."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType


class Turns:
    """One thing of ours at a time, and nobody ever waits for it.

    What a signal handler or another thread asks for in the middle of another is done at its end, by whoever is in that
    middle. A handler may raise between any two instructions, so a lock that nobody holds any more is recognised by the
    stacks of the threads.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], object]] = deque()

    def take(self, action: Callable[[], object]) -> None:
        """Run `action`, or have it run at the end of the one that somebody is in the middle of."""
        if os.getpid() != self._process:
            return  # forked, perhaps in the middle of another thread's turn, which nobody ends here
        turn: Callable[[], object] | None = action
        broken: BaseException | None = None
        while turn is not None:  # no recursion: thousands may wait
            if self._mine():
                try:
                    turn()
                except BaseException as error:  # noqa: BLE001 - raised below: those that wait are not left waiting
                    if error is not broken:  # a handler may raise the same one twice
                        error.__context__ = error.__context__ or broken
                    broken = error
                finally:
                    if self._lock.locked():
                        self._lock.release()
            else:
                self._waiting.append(turn)
                if self._lock.locked():
                    break
            turn = self._next()
        if broken is not None:
            raise broken

    def _mine(self) -> bool:
        """Take the turn, unless somebody is in the middle of one."""
        for _ in range(2):  # whoever had it may have ended between the two looks at the first try
            if self._lock.acquire(blocking=False):
                return True
            if self._running():
                return False
        return True

    def _next(self) -> Callable[[], object] | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def _running(self) -> bool:
        """Say whether a thread is within `take`, the call of it that asks aside."""
        asking, code = sys._getframe(2), Turns.take.__code__
        for top in sys._current_frames().values():
            frame: FrameType | None = top
            while frame is not None:
                if frame.f_code is code and frame is not asking and frame.f_locals.get("self") is self:
                    return True
                frame = frame.f_back
        return False


def from_signal_handler(error: BaseException) -> bool:
    """Say whether one of the job's signal handlers raised `error`, such as DataLoader's when a worker was killed."""
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let the job's handlers wait while the block runs, in the main thread: one may save the model as it is then."""
    caught: dict[int, None] = {}  # in the order in which they came
    with contextlib.ExitStack() as stack:
        stack.callback(_deliver, caught)
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                stack.callback(signal.signal, number, handler)
                signal.signal(number, lambda number, _frame: caught.setdefault(number))
        yield


def _deliver(caught: dict[int, None]) -> None:
    """Call the handlers of signals that have waited, all of them even if one raises."""
    if caught:
        number = next(iter(caught))
        del caught[number]
        try:
            signal.raise_signal(number)
        finally:
            _deliver(caught)


def _code(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__ if not hasattr(handler, "__func__") else handler.__func__
    return getattr(handler, "__code__", None)
