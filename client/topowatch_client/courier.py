"""Ships one writer's spool over one acked stream, through outages and restarts, until it is drained."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import shutil
import time
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from topowatch_client import quarantine, spool, wishes
from topowatch_client.shipper import Limits, Progress, Refused, Shipper
from topowatch_client.spool_reader import SpoolReader
from topowatch_client.transport import Access, is_too_large
from topowatch_protos.v1 import ingest_pb2, ingest_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REJECTED_LOG = spool.REJECTED_LOG
_POLL_SECONDS = 0.25
_IDLE_SECONDS = 1.0  # between two looks where samples come rarely
_BELIEVED_SECONDS = 1.0  # how long a writer that was seen alive is taken to be
_log = logging.getLogger("topowatch.forwarder")


class StreamBrokenError(Exception):
    """The stream cannot be used any more, for a reason that gRPC does not see."""


class Courier:
    """One writer's directory on its way to the daemon. `finished` means: drained, and the writer is gone."""

    def __init__(
        self,
        directory: Path,
        access: Callable[[], Access],
        limits: Limits | None = None,
        silence_seconds: float = 0.0,
        queue: asyncio.Semaphore | None = None,
    ) -> None:
        self.directory = directory
        self.finished = False
        self.drained = False  # all that is in the spool was answered for, the last time that we looked
        self.limits = limits or Limits()
        cursor = spool.read_cursor(directory)
        self.progress = Progress(
            next_seq=int(cursor.get("next_seq", 0)),
            acked=int(cursor.get("acked", 0)),
            rejected=int(cursor.get("rejected", 0)),
        )
        self._access = access
        self._queue = queue or asyncio.Semaphore()  # for those whose writer is gone: they can wait for one another
        self._reader = SpoolReader(directory, self.progress.next_seq)
        self.shipper = Shipper(self._reader, self.progress, self.limits, random.Random())  # noqa: S311 -- jitter
        self._lives_until = 0.0
        self._noted: dict[str, object] = {}
        self._wished: list[wishes.SliceWish] = []
        self._note_failed = False
        self._news = asyncio.Event()
        noted = (spool.read_meta(directory) or {}).get("boot")
        self._patience = silence_seconds if noted and noted != spool.boot_id() else 0.0
        self._heard = (self._reader.next_seq, time.monotonic())  # what was last read, and since when it is the last

    @property
    def fenced(self) -> bool:
        """Whether another forwarder has taken this writer over."""
        return self.shipper.fenced

    def writer_alive(self) -> bool:
        """Say whether more may come.

        A lock tells that within one kernel. Those of another one, across a network or a virtual machine's file system,
        may not reach us: there a writer that did not say that it ended is believed to be gone after some silence.
        """
        now = time.monotonic()
        if now < self._lives_until:
            return True
        if spool.writer_alive(self.directory):
            self._lives_until = now + _BELIEVED_SECONDS
            return True
        self._reader.look_again()  # what it wrote last decides whether the spool may go
        if not self._patience or (self.directory / spool.ENDED).exists():
            return False
        if self._heard[0] != self._reader.next_seq:
            self._heard = (self._reader.next_seq, now)
        return now - self._heard[1] < self._patience

    async def run(self) -> None:
        """Ship until the spool is drained for good, or the stream was fenced off."""
        delay = 0.0
        while not self.finished and not self.fenced:
            await asyncio.sleep(delay)
            delay = _POLL_SECONDS
            try:
                alive = self.writer_alive()  # asked before reading: what it wrote last is not missed
                async with contextlib.nullcontext() if alive else self._queue:
                    delay = await self._ship() or delay
                    if not alive and self.drained and self._may_go():
                        self._remove()
                        self.finished = True
                        return
            except OSError as error:  # the spool's disk, a token or a certificate
                delay = self._troubled(str(error))
            self._try_note()

    async def _ship(self) -> float:
        """Ship what there is; return seconds to wait, 0 for no reason to."""
        self.shipper.on_connect()
        batch = self.shipper.next_batch(time.monotonic())
        self.drained = batch is None and self.shipper.idle
        return 0.0 if batch is None else await self._session(batch)

    async def _session(self, batch: ingest_pb2.Batch) -> float:
        """Open a stream and use it as long as it holds; return seconds to wait before the next one."""
        access = self._access()
        metadata = access.metadata()
        channel = access.open()
        receiver: asyncio.Task[None] | None = None
        try:
            stub = ingest_pb2_grpc.IngestServiceStub(channel)  # type: ignore[no-untyped-call] # generated code
            call = stub.StreamBatches(metadata=metadata)
            receiver = asyncio.create_task(self._receive(call))
            await self._send(call, receiver, batch)
        except (grpc.RpcError, StreamBrokenError, asyncio.InvalidStateError, asyncio.TimeoutError) as error:
            return self._broken(access, _cause(error, receiver))
        finally:
            if receiver is not None:
                receiver.cancel()
                await asyncio.gather(receiver, return_exceptions=True)
            await channel.close()
        return 0.0

    async def _send(
        self, call: grpc.aio.StreamStreamCall, receiver: asyncio.Task[None], batch: ingest_pb2.Batch | None
    ) -> None:
        """Send batch after batch; returns when the writer is gone and everything is answered for, or when fenced."""
        delay = _POLL_SECONDS
        while not self.fenced:
            alive = True
            if batch is None:
                alive = self.writer_alive()
                batch = self.shipper.next_batch(time.monotonic())
            self.drained = batch is None and self.shipper.idle
            if batch is not None:
                request = ingest_pb2.StreamBatchesRequest(batch=batch)
                await asyncio.wait_for(call.write(request), self.limits.ack_seconds)
                batch, delay = None, _POLL_SECONDS
                continue
            if not alive and self.shipper.idle:
                await call.done_writing()
                return
            if receiver.done():
                raise StreamBrokenError("the daemon closed the stream")
            if self.shipper.overdue(time.monotonic()):
                raise StreamBrokenError(f"no answer within {self.limits.ack_seconds:.0f} s")
            self._news.clear()
            timer = asyncio.get_running_loop().call_later(delay, self._news.set)  # far cheaper than wait_for
            await self._news.wait()
            if timer.when() <= asyncio.get_running_loop().time():
                delay = min(2 * delay, _IDLE_SECONDS)
            timer.cancel()
            self._try_note()  # in case it failed before

    async def _receive(self, call: grpc.aio.StreamStreamCall) -> None:
        try:
            async for response in call:
                before = self._state()
                self.shipper.on_ack(response.ack, time.monotonic())
                if before != self._state():
                    self._reader.remove_acked(self.progress.next_seq)  # first: a note may need the room that this makes
                    self._try_note()
                self._news.set()
        finally:
            self._news.set()

    def _state(self) -> tuple[object, ...]:
        """What the note says of the writer."""
        ids = [request.id for request in self.progress.wished]
        return self.progress.next_seq, self.progress.rejected, self.progress.message, ids

    def _broken(self, access: Access, error: BaseException) -> float:
        too_large = isinstance(error, grpc.RpcError) and is_too_large(error)
        if isinstance(error, grpc.aio.AioRpcError):
            message = f"{access.endpoint}: {error.code().name}: {error.details()}"
        else:
            message = f"{access.endpoint}: {error or type(error).__name__}"
        return self._troubled(message, too_large=too_large)

    def _troubled(self, message: str, *, too_large: bool = False) -> float:
        """Say what is wrong, once; return seconds to wait."""
        if message != self.progress.message:
            _log.warning("%s: %s", self.directory.name, message)
        return self.shipper.on_disconnect(message, too_large=too_large)

    def _may_go(self) -> bool:
        """Whether the spool is needed no more: what was refused stays until that, and how far we are, is noted."""
        return self._try_note() or not (self.progress.refused or quarantine.kept(self.directory))

    def _try_note(self) -> bool:
        """Write the note; trouble with that, such as a full disk, waits for the next time and stops nothing."""
        try:
            self._note()
        except OSError as error:
            if not self._note_failed:
                _log.warning("%s: the state of shipping cannot be noted: %s", self.directory.name, error)
            self._note_failed = True
        else:
            self._note_failed = False
        return not self._note_failed

    def _note(self) -> None:
        """Write down how far shipping has come; readers never see half a file."""
        while self.progress.refused:
            self._write_refused(self.progress.refused[0])
            del self.progress.refused[0]
        state: dict[str, object] = {
            "next_seq": self.progress.next_seq,
            "acked": self.progress.acked,
            "rejected": self.progress.rejected,
            "connected": self.progress.connected,
            "message": self.progress.message,
        }
        if state != self._noted and self.directory.exists():
            fresh = self.directory / f"{spool.CURSOR}.new"
            fresh.write_text(json.dumps(state), encoding="utf-8")
            os.replace(fresh, self.directory / spool.CURSOR)  # noqa: PTH105 -- says that it replaces
            self._noted = state
        wished = [wishes.SliceWish(request.id, request.side) for request in self.progress.wished]
        if wished != self._wished and self.directory.exists():
            wishes.write(self.directory, wished)
            self._wished = wished

    def _write_refused(self, refused: Refused) -> None:
        seqs = [entry.seq for entry in refused.entries]
        line = json.dumps({"time": time.time(), "seqs": seqs, "reason": refused.reason})
        kept = refused.curable and quarantine.keep(self.directory, refused.entries)
        with (self.directory / REJECTED_LOG).open("a", encoding="utf-8") as log:
            log.write(line + "\n")
        _log.warning("%s: %d item(s) from seq %d refused: %s", self.directory.name, len(seqs), seqs[0], refused.reason)
        if refused.curable and not kept:
            _log.warning("%s: the quarantine is full: they are lost", self.directory.name)

    def _remove(self) -> None:
        """Remove a drained spool; what was refused stays for a look, and is no spool any more. Raises OSError."""
        if not (self.directory / REJECTED_LOG).exists():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.directory)
            return
        quarantine.retire(self.directory)
        for path in (*self.directory.glob("*.seg"), *(self.directory / name for name in _SPOOL_FILES)):
            path.unlink(missing_ok=True)


_SPOOL_FILES = (spool.CURSOR, spool.LOCK, spool.ENDED, spool.RESERVE, spool.META, spool.WISHES)


def _cause(error: BaseException, receiver: asyncio.Task[None] | None) -> BaseException:
    """Prefer the receiving side's error: it carries the daemon's status where the sending side only sees the end."""
    if receiver is not None and receiver.done() and not receiver.cancelled():
        return receiver.exception() or error
    return error
