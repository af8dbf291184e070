"""Group commit: one thread that turns whatever is queued into one durable append."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from topowatch_monitor.store.log import Log

T = TypeVar("T")
FRAME_BYTES = 64  # what a queued record costs beside its payload, roughly


class QueueFullError(Exception):
    """Too many bytes wait to be written; nothing of the submission was taken."""


class CommitClosedError(Exception):
    """The committer has been closed; nothing of the submission was taken."""


class _Submission(NamedTuple):
    records: Sequence[tuple[int, bytes]]
    size: int
    future: Future[int]


class GroupCommit:
    """Owns a log while it lives: all writing goes through its thread.

    Futures of one group are resolved in the order of submission, which is the order in the log.

    Args:
        log: an open log; closing it is left to the caller, after `close`.
        max_pending_bytes: bytes that may wait or be under way before `submit` raises QueueFullError.
        max_group_bytes: bytes of one append, unless a single submission is larger.
        on_durable: called in the writer thread with the log's next offset after each append or exclusive call.
    """

    def __init__(
        self,
        log: Log,
        *,
        max_pending_bytes: int = 128 << 20,
        max_group_bytes: int = 4 << 20,
        on_durable: Callable[[int], None] | None = None,
    ) -> None:
        self._log = log
        self._max_pending_bytes = max_pending_bytes
        self._max_group_bytes = max_group_bytes
        self._on_durable = on_durable
        self._changed = threading.Condition()
        self._queue: deque[_Submission] = deque()
        self._exclusive: deque[tuple[Callable[[Log], Any], Future[Any]]] = deque()
        self._pending_bytes = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="topowatch-commit", daemon=True)
        self._thread.start()

    @property
    def log(self) -> Log:
        """The log; read its properties only."""
        return self._log

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait or are being written."""
        return self._pending_bytes

    def submit(self, records: Sequence[tuple[int, bytes]]) -> Future[int]:
        """Queue `(kind, payload)` records; the future gives their first offset once they are on the device.

        The future raises LogUnavailable where the log could not be written; nothing of the records counts then.

        Raises:
            QueueFullError: more than `max_pending_bytes` would wait.
            CommitClosedError: after `close`.
        """
        size = sum(len(payload) + FRAME_BYTES for _, payload in records)
        future = _uncancellable(Future[int]())
        with self._changed:
            if self._closed:
                raise CommitClosedError
            if self._pending_bytes and self._pending_bytes + size > self._max_pending_bytes:
                raise QueueFullError(f"{self._pending_bytes} bytes wait to be written")
            self._pending_bytes += size
            self._queue.append(_Submission(records, size, future))
            self._changed.notify()
        return future

    def run_exclusive(self, function: Callable[[Log], T]) -> Future[T]:
        """Run `function(log)` in the writer thread when nothing is queued.

        Raises:
            CommitClosedError: after `close`.
        """
        future = _uncancellable(Future[T]())
        with self._changed:
            if self._closed:
                raise CommitClosedError
            self._exclusive.append((function, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Write what is queued and end the thread; later submissions raise CommitClosedError."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._exclusive or self._closed)
                group = self._take_group()
                exclusive = self._exclusive.popleft() if not group and self._exclusive else None
            if group:
                self._write(group)
            elif exclusive:
                self._call(*exclusive)
            else:
                return

    def _take_group(self) -> list[_Submission]:
        group: list[_Submission] = []
        size = 0
        while self._queue and (not group or size + self._queue[0].size <= self._max_group_bytes):
            size += self._queue[0].size
            group.append(self._queue.popleft())
        return group

    def _write(self, group: list[_Submission]) -> None:
        try:
            offset = self._log.append([record for submission in group for record in submission.records])
        except Exception as error:  # noqa: BLE001 (whoever waits is told; the thread must live on)
            self._release(group)
            for submission in group:
                submission.future.set_exception(error)
            return
        self._release(group)
        for submission in group:
            submission.future.set_result(offset)
            offset += len(submission.records)
        self._announce()

    def _release(self, group: list[_Submission]) -> None:
        with self._changed:
            self._pending_bytes -= sum(submission.size for submission in group)

    def _call(self, function: Callable[[Log], Any], future: Future[Any]) -> None:
        try:
            result = function(self._log)
        except Exception as error:  # noqa: BLE001 (whoever waits is told; the thread must live on)
            future.set_exception(error)
            return
        future.set_result(result)
        self._announce()

    def _announce(self) -> None:
        if self._on_durable is not None:
            self._on_durable(self._log.next_offset)


def _uncancellable(future: Future[T]) -> Future[T]:
    """What is queued gets written, also when whoever asked for it no longer waits."""
    future.set_running_or_notify_cancel()
    return future
