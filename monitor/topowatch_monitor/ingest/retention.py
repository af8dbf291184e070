"""Keeps the log from growing for ever: forgets runs that were silent for long, and takes out of it what was theirs."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from google.protobuf.message import DecodeError

from topowatch_monitor.store.disk import write_file
from topowatch_monitor.store.log import TEMPORARY, Log, segment_path
from topowatch_monitor.store.retention import Survey, survey, without
from topowatch_protos.framing import LOG_KINDS, LogKind
from topowatch_protos.keys import key_of
from topowatch_protos.v1 import log_pb2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from topowatch_monitor.ingest.core import Ingest
    from topowatch_monitor.store.commit import GroupCommit
    from topowatch_monitor.store.disk import Disk

_logger = logging.getLogger(__name__)
T = TypeVar("T")

# A segment that is needed in part is written anew where that frees so much of it.
WORTH = 0.5


class Swept(NamedTuple):
    """What a sweep did: runs forgotten, segments removed or made smaller, bytes freed."""

    runs: int = 0
    segments: int = 0
    freed: int = 0


class Retention:
    """Sweeps now and then. Lives in ingest's event loop; reads and writes segments in threads.

    A segment is removed once it is the oldest and nothing in it is of a run that is known. One that is needed in part
    is made smaller: gaps take the place of records, so that all others keep their ordinals.

    Args:
        ingest: whose runs.
        commit: of the log; sealed segments are exchanged in its thread.
        directory: of the log.
        disk: the file system.
    """

    def __init__(self, ingest: Ingest, commit: GroupCommit, directory: Path, disk: Disk) -> None:
        self._ingest, self._commit = ingest, commit
        self._directory, self._disk = directory, disk
        self._looked_at: dict[int, int] = {}  # runs that had been forgotten when a segment was last looked at
        self._forgotten = 0

    async def sweep(self, before: float) -> Swept:
        """Forget the runs that were silent since `before`, Unix seconds, and free what can be freed.

        Raises:
            OSError: a segment cannot be read or written; what was freed before stays so.
        """
        runs = await self._ingest.forget(before)
        self._forgotten += runs
        swept = Swept(runs)
        for first in await self._run(Log.sealed):
            if self._looked_at.get(first) == self._forgotten:
                continue
            began = time.monotonic()
            freed, gone = await self._take(first)
            await asyncio.sleep(time.monotonic() - began)  # half of the time is for others
            swept = swept._replace(segments=swept.segments + bool(freed), freed=swept.freed + freed)
            if gone:
                self._looked_at.pop(first, None)
            else:
                self._looked_at[first] = self._forgotten
        return swept

    async def _take(self, first: int) -> tuple[int, bool]:
        """Take what is not needed out of a sealed segment; return the bytes that this freed, and whether it is gone."""
        path = segment_path(self._directory, first)
        found: Survey | None = await asyncio.to_thread(self._survey, path)
        if found is None:
            _logger.warning("%s is damaged: it stays as it is", path)
            return 0, False
        if not found.needed and (await self._run(Log.sealed))[:1] == [first]:
            await self._run(lambda log: log.drop_oldest(first))
            return found.bytes, True
        if found.bytes - found.needed_bytes < WORTH * found.bytes:
            return 0, False
        smaller = path.with_suffix(TEMPORARY)
        after = await asyncio.to_thread(self._write_without, path, smaller)
        if after >= found.bytes:
            with suppress(OSError):
                self._disk.unlink(smaller)
            return 0, False
        await self._run(lambda log: log.exchange(first, smaller))
        return found.bytes - after, False

    def _survey(self, path: Path) -> Survey | None:
        return survey(self._disk.read(path), self._needed)

    def _write_without(self, path: Path, smaller: Path) -> int:
        data = without(self._disk.read(path), self._needed)
        write_file(self._disk, smaller, data)
        return len(data)

    def _needed(self, kind: int, payload: bytes) -> bool:
        """Whether a record is of a run that is known; such as repeat what an earlier one says are not needed."""
        if kind not in LOG_KINDS:
            return True  # of a newer version: not ours to judge
        try:
            if kind == LogKind.RUN_OPENED and log_pb2.RunOpened.FromString(payload).HasField("progress"):
                return False
            key = key_of(kind, payload)
        except DecodeError:
            return True  # likewise, perhaps
        return key is not None and kind != LogKind.EVENT and self._ingest.knows(key)

    async def _run(self, function: Callable[[Log], T]) -> T:
        return await asyncio.wrap_future(self._commit.run_exclusive(function))
