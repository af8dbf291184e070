"""The asynchronous shell around admission and the log: order, group commit, back-pressure, recovery of the disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from topowatch_monitor.access.tokens import DEFAULT_TENANT
from topowatch_monitor.ingest.admission import Admission, Admitted, Token, refusal
from topowatch_monitor.ingest.counters import Counters
from topowatch_monitor.ingest.limits import DEFAULT_LIMITS, Limits
from topowatch_monitor.ingest.quota import Quotas
from topowatch_monitor.ingest.registry import to_timestamp
from topowatch_monitor.ingest.wishes import Wishes
from topowatch_monitor.store.commit import CommitClosedError, QueueFullError
from topowatch_monitor.store.log import LogUnavailable
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import ingest_pb2 as pb
from topowatch_protos.v1 import log_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Future

    from topowatch_monitor.ingest.registry import RunSummary
    from topowatch_monitor.store.commit import GroupCommit

_logger = logging.getLogger(__name__)

# The log counts as writable again once this much fits: about one group, so that readiness does not flap on a disk that
# has room for a few bytes.
_PROBE_BYTES = 4 << 20


class Ingest:
    """Takes batches and answers when they are on disk. Lives in one event loop; properties may be read from any thread.

    Args:
        admission: restored from the log's last segment.
        commit: the log's group commit; `close` closes it, and leaves the log to the caller.
        limits: bounds, the same as the admission's.
        now: Unix seconds, for the records.
        monotonic: seconds of a clock that never jumps, for latencies.
    """

    def __init__(
        self,
        admission: Admission,
        commit: GroupCommit,
        *,
        limits: Limits = DEFAULT_LIMITS,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = Counters()
        self.wishes = Wishes(monotonic)
        self.limits = limits
        self.quotas = Quotas(limits)
        self._admission = admission
        self._commit = commit
        self._now = now
        self._monotonic = monotonic
        self._fault = ""  # why the log cannot be written; empty while it can
        self._closing = False
        self._watchers: list[Callable[[bool], None]] = []
        self._handling_bytes = 0
        self._ranks: WeakValueDictionary[tuple[str, str, str, int], asyncio.Lock] = WeakValueDictionary()
        self._gate = asyncio.Event()  # shut while the log is being rotated
        self._gate.set()
        self._tokens = 0  # that are neither committed nor abandoned
        self._rotate_from = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._recovery: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether batches are being stored."""
        return not self._fault and not self._closing

    @property
    def reason(self) -> str:
        """Why it is not ready, in words; empty while it is."""
        return self._fault or ("the daemon is shutting down" if self._closing else "")

    @property
    def log_bytes(self) -> int:
        """Bytes of the log on disk."""
        return self._commit.log.size_bytes

    def watch(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(ready)` in the event loop whenever `ready` may have changed."""
        self._watchers.append(callback)

    def runs(self) -> list[RunSummary]:
        """Return what ingest knows of every run; call it in the event loop."""
        return self._admission.runs()

    def take_changed(self) -> list[RunSummary]:
        """Return the runs that changed since the last call, all of them on the first; call it in the event loop."""
        return self._admission.take_changed()

    async def handle(
        self, batch: pb.Batch, stream: int, *, tenant: str = DEFAULT_TENANT, size: int | None = None
    ) -> pb.Ack:
        """Store what is new in a batch and return its ack.

        A batch that was begun is finished even if the caller is cancelled.

        Args:
            batch: as it came.
            stream: identifies the stream that brought it; a later stream has a higher number.
            tenant: who sends.
            size: bytes of the encoded batch, if known.
        """
        started = self._monotonic()
        size = batch.ByteSize() if size is None else size
        if not self.ready:
            ack = refusal(batch.id, pb.ACK_STATUS_UNAVAILABLE, self.reason, self.limits.retry_unavailable)
        elif self._handling_bytes and self._handling_bytes + size > self.limits.max_pending_bytes:
            ack = self._overloaded(batch.id)
        elif (refused := self.quotas.take(tenant, len(batch.items), size, started)) is not None:
            ack = refusal(batch.id, pb.ACK_STATUS_RESOURCE_EXHAUSTED, *refused)
        else:
            self._handling_bytes += size
            task = self._spawn(self._take(batch, stream, tenant))
            task.add_done_callback(lambda _: self._release(size))
            ack = await asyncio.shield(task)
            if ack.status == pb.ACK_STATUS_STORED:
                ack.slice_requests.extend(self.wishes.of((tenant, batch.key.group, batch.key.run)))
        self.counters.count_ack(ack, self._monotonic() - started)
        return ack

    async def forget(self, before: float) -> int:
        """Know runs no more that were silent since `before`, Unix seconds; return how many when the log says so.

        Raises:
            OSError: the log could not be written.
        """
        names = self._admission.unheard(before)
        if not names or not self.ready:
            return 0
        at = to_timestamp(round(self._now() * 1e9))
        notes = [log_pb2.Event(at=at, name="run_forgotten", key=run_pb2.RunKey(**name._asdict())) for name in names]
        try:
            durable = self._commit.submit([(LogKind.RUN_FORGOTTEN, note.SerializeToString()) for note in notes])
        except (QueueFullError, CommitClosedError):
            return 0
        self._admission.forget(names)  # a batch that comes now introduces its run behind the note
        await asyncio.wrap_future(durable)
        return len(names)

    def knows(self, key: run_pb2.RunKey) -> bool:
        """Whether a run is known; may be called from any thread."""
        return self._admission.knows(key)

    def note(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Put records of the daemon's own into the log, where that can be done; nothing waits for them."""
        if records and self.ready:
            with contextlib.suppress(QueueFullError, CommitClosedError):
                self._commit.submit(records).add_done_callback(lambda future: future.exception())

    async def close(self) -> None:
        """Answer what is being handled, refuse what comes, and end the group commit; not for ever, if one is stuck."""
        self._closing = True
        self._announce()
        if self._recovery is not None:
            self._recovery.cancel()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.limits.close_seconds
        while self._tasks and (left := deadline - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        if self._tasks:
            _logger.error("%d batches are still under way: going on without them", len(self._tasks))
            for task in self._tasks:
                task.cancel()
        # A thread that the end of the process does not wait for: the device may never answer.
        closed = asyncio.Event()
        threading.Thread(target=self._close_commit, args=(loop, closed), name="topowatch-close", daemon=True).start()
        try:
            await asyncio.wait_for(closed.wait(), max(deadline - loop.time(), 1.0))
        except asyncio.TimeoutError:  # before Python 3.11 it is not the builtin one
            _logger.error("the log's last write does not end: going on without it")

    def _close_commit(self, loop: asyncio.AbstractEventLoop, closed: asyncio.Event) -> None:
        self._commit.close()
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(closed.set)

    async def _take(self, batch: pb.Batch, stream: int, tenant: str) -> pb.Ack:
        """Admit a batch when its rank's turn has come, and wait until its records are durable."""
        rank = (tenant, batch.key.group, batch.key.run, batch.rank)
        lock = self._ranks.get(rank)
        if lock is None:
            lock = self._ranks[rank] = asyncio.Lock()
        async with lock:
            while not self._gate.is_set():
                await self._gate.wait()
            admitted = self._admission.admit(batch, self._now(), stream, tenant)
            token = admitted.token
            if token is None:
                return admitted.ack
            try:
                durable = self._commit.submit(admitted.records)
            except QueueFullError:
                self._admission.abandon(token)
                return self._overloaded(batch.id)
            except CommitClosedError:
                self._admission.abandon(token)
                return refusal(batch.id, pb.ACK_STATUS_UNAVAILABLE, self.reason, self.limits.retry_unavailable)
            self._tokens += 1
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[pb.Ack] = loop.create_future()
            # Called in the order of the log, and the loop keeps it: tokens have to be committed in that order.
            durable.add_done_callback(
                lambda future: loop.call_soon_threadsafe(self._settle, admitted, token, future, answer)
            )
            return await answer

    def _settle(self, admitted: Admitted, token: Token, durable: Future[int], answer: asyncio.Future[pb.Ack]) -> None:
        """The fate of a batch's records is known."""
        self._tokens -= 1
        ack = admitted.ack
        error = durable.exception()
        if error is None:
            self._admission.commit(token)
            self.counters.count_stored(token)
        else:
            self._admission.abandon(token)
            self._fail(error)
            ack = refusal(ack.batch_id, pb.ACK_STATUS_UNAVAILABLE, str(error), self.limits.retry_unavailable)
        if not answer.done():
            answer.set_result(ack)
        if self._commit.log.wants_rotation and self._monotonic() >= self._rotate_from:
            self._gate.clear()
        if not self._gate.is_set() and self._tokens == 0:
            self._spawn(self._rotate())

    async def _rotate(self) -> None:
        """Begin a new segment; nothing is under way, and the gate is shut."""
        try:
            head = self._admission.head()
            await asyncio.wrap_future(self._commit.run_exclusive(lambda log: log.rotate(head)))
        except LogUnavailable as error:
            # The segment before goes on growing; if the disk is really full, the next batch will tell.
            _logger.warning("%s; trying again later", error)
            self._rotate_from = self._monotonic() + self.limits.retry_unavailable
        except Exception:
            # A defect must not shut the gate on every run; the segment before serves on.
            _logger.exception("cannot begin a log segment; trying again in %g s", self.limits.retry_rotation)
            self._rotate_from = self._monotonic() + self.limits.retry_rotation
        finally:
            self._gate.set()

    def _fail(self, error: BaseException) -> None:
        """Stop storing until the log can be written again."""
        if not self._fault:
            _logger.error("not storing any more: %s", error)
            self._fault = str(error) or repr(error)
            self._announce()
            if not self._closing:
                self._recovery = self._spawn(self._recover())

    async def _recover(self) -> None:
        """Try the log until it can be written, then leave a note in it."""
        while self._fault:
            await asyncio.sleep(self.limits.retry_unavailable)
            try:
                await asyncio.wrap_future(self._commit.run_exclusive(lambda log: log.probe(_PROBE_BYTES)))
            except LogUnavailable as error:
                self._fault = str(error)
            else:
                note = log_pb2.Event(
                    at=to_timestamp(round(self._now() * 1e9)), name="log_recovered", detail=self._fault
                )
                self._commit.submit([(LogKind.EVENT, note.SerializeToString())])
                _logger.warning("storing again after: %s", self._fault)
                self._fault = ""
        self._announce()

    def _announce(self) -> None:
        for watcher in self._watchers:
            watcher(self.ready)

    def _overloaded(self, batch_id: int) -> pb.Ack:
        return refusal(
            batch_id,
            pb.ACK_STATUS_RESOURCE_EXHAUSTED,
            f"over {self.limits.max_pending_bytes} bytes wait to be written",
            self.limits.retry_after,
        )

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _release(self, size: int) -> None:
        self._handling_bytes -= size
