"""A disk in memory that fails, tears and forgets as real ones do, from a seed."""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SECTOR = 64  # bytes that reach the device together; small, so that short writes tear too


class PowerLoss(Exception):  # noqa: N818 (an event, not an error of anyone's)
    """The machine stopped in the middle of an operation; no code runs until `SimDisk.restart`."""


@dataclass
class Inode:
    """A file: what programs read (`cached`), and what the device holds (`stored`)."""

    cached: bytearray = field(default_factory=bytearray)
    stored: bytearray = field(default_factory=bytearray)
    versions: list[bytes] = field(default_factory=list)  # states since the last flush, any of which may be on its way
    dirty: list[tuple[int, int]] = field(default_factory=list)  # byte ranges that the next flush will write

    def touch(self, start: int, end: int) -> None:
        """Bytes start..end were written."""
        self.dirty.append((start, end))
        self.versions.append(bytes(self.cached))

    def flush(self) -> None:
        """Write the dirty ranges, and nothing else: what an earlier failed flush lost stays lost."""
        length = len(self.cached)
        del self.stored[length:]
        self.stored.extend(bytes(length - len(self.stored)))
        for start, end in self.dirty:
            self.stored[start : min(end, length)] = self.cached[start : min(end, length)]
        self.dirty.clear()
        self.versions.clear()

    def lose(self, rng: random.Random) -> None:
        """Fail a flush: some sectors arrive, none is tried again, and memory goes on showing what was written."""
        for start, end in self.dirty:
            for sector in range(start // SECTOR * SECTOR, min(end, len(self.cached)), SECTOR):
                if rng.random() < 0.5 and sector <= len(self.stored):
                    reach = min(sector + SECTOR, len(self.cached))
                    self.stored[sector:reach] = self.cached[sector:reach]
        self.dirty.clear()

    def crash(self, rng: random.Random) -> None:
        """Keep what is stored, plus any of what was on its way, torn by sectors."""
        if self.versions:
            version = rng.choice(self.versions)
            length = rng.choice([len(self.stored), len(version), rng.randint(0, len(version))])
            length = max(length, min(len(self.stored), len(version)))
            torn = bytearray(self.stored[:length])
            torn.extend(bytes(length - len(torn)))
            for sector in range(0, length, SECTOR):
                if version[sector : sector + SECTOR] != torn[sector : sector + SECTOR] and rng.random() < 0.7:
                    end = min(sector + SECTOR, length, len(version))
                    torn[sector:end] = version[sector:end]
            self.stored = torn
        self.cached = bytearray(self.stored)
        self.dirty.clear()
        self.versions.clear()


class SimFile:
    """An open file of a SimDisk."""

    def __init__(self, disk: SimDisk, inode: Inode) -> None:
        self._disk = disk
        self._inode = inode

    def write(self, data: bytes) -> None:
        written = self._disk.step("write", len(data))
        start = len(self._inode.cached)
        self._inode.cached += data[:written]
        self._inode.touch(start, start + written)
        self._disk.finish(written, len(data), errno.ENOSPC)

    def overwrite(self, start: int, data: bytes) -> None:
        written = self._disk.step("overwrite", len(data))
        assert start + len(data) <= len(self._inode.cached)
        self._inode.cached[start : start + written] = data[:written]
        self._inode.touch(start, start + written)
        self._disk.finish(written, len(data), errno.EIO)

    def truncate(self, size: int) -> None:
        self._disk.operate("truncate")
        del self._inode.cached[size:]
        self._inode.touch(size, size)

    def sync(self) -> None:
        try:
            self._disk.operate("sync")
        except OSError:
            self._inode.lose(self._disk.rng)
            raise
        self._inode.flush()

    def close(self) -> None:
        pass


class SimLock:
    """The lock of a SimDisk."""

    def __init__(self, disk: SimDisk, path: Path) -> None:
        self._disk = disk
        self._path = path

    def release(self) -> None:
        self._disk.locks.discard(self._path)


class SimDisk:
    """Fails with the given chances; `faults` counts what was injected.

    Attributes:
        error_rate: chance that an operation fails with EIO, or a write with ENOSPC after part of it.
        loss_rate: chance that the power goes in the middle of an operation.
    """

    def __init__(self, seed: int, *, error_rate: float = 0.0, loss_rate: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.error_rate = error_rate
        self.loss_rate = loss_rate
        self.sick = 0  # operations during which errors are the rule: they come in bursts
        self.faults = 0
        self.dead = False
        self.locks: set[Path] = set()
        self._entries: dict[Path, Inode] = {}
        self._stored_entries: dict[Path, Inode] = {}
        self._pending: list[tuple[Path, Inode | None]] = []  # changes of entries since the directory was flushed

    # Faults

    def step(self, what: str, size: int) -> int:
        """Return how many of `size` bytes an operation manages; `finish` raises if that is not all."""
        if self.dead:
            raise PowerLoss(what)
        chance = self.rng.random()
        error_rate = self.error_rate if self.sick == 0 else 0.6
        self.sick = max(0, self.sick - 1)
        if chance < error_rate + self.loss_rate:
            self.faults += 1
            self.dead = chance < self.loss_rate
            self.sick = self.sick or self.rng.choice([0, 0, 4, 12])
            return self.rng.randint(0, max(0, size - 1))
        return size

    def finish(self, managed: int, size: int, code: int) -> None:
        """Raise what befell an operation that managed only part of its bytes."""
        if self.dead:
            raise PowerLoss
        if managed < size:
            raise OSError(code, "injected")

    def operate(self, what: str) -> None:
        """Let an operation happen, or fail before it does anything."""
        self.finish(self.step(what, 1), 1, errno.EIO)

    def restart(self, *, power: bool) -> None:
        """Go on after the process was killed, or after the power was lost, which forgets what was not flushed."""
        self.dead = False
        self.sick = self.sick if not power else 0
        self.locks.clear()
        self.faults += 1
        if not power:
            return
        entries = dict(self._stored_entries)
        for path, inode in self._pending[: self.rng.randint(0, len(self._pending))]:
            _apply(entries, path, inode)
        for inode in {id(inode): inode for inode in (*self._entries.values(), *entries.values())}.values():
            inode.crash(self.rng)
        self._entries = entries
        self._stored_entries = dict(entries)
        self._pending.clear()

    # Disk

    def make_directory(self, path: Path) -> None:
        self.operate("make_directory")

    def create(self, path: Path) -> SimFile:
        self.operate("create")
        inode = Inode()
        self._change(path, inode)
        return SimFile(self, inode)

    def open(self, path: Path) -> SimFile:
        self.operate("open")
        return SimFile(self, self._find(path))

    def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
        if self.dead:
            raise PowerLoss
        end = None if size is None else start + size
        return bytes(self._find(path).cached[start:end])

    def size(self, path: Path) -> int:
        return len(self.read(path))

    def names(self, directory: Path) -> list[str]:
        if self.dead:
            raise PowerLoss
        return sorted(path.name for path in self._entries if path.parent == directory)

    def rename(self, source: Path, target: Path) -> None:
        self.operate("rename")
        inode = self._find(source)
        self._change(target, inode)
        self._change(source, None)

    def unlink(self, path: Path) -> None:
        self.operate("unlink")
        self._find(path)
        self._change(path, None)

    def sync_directory(self, path: Path) -> None:
        self.operate("sync_directory")
        for entry, inode in self._pending:
            _apply(self._stored_entries, entry, inode)
        self._pending.clear()

    def lock(self, path: Path) -> SimLock:
        if path in self.locks:
            raise BlockingIOError(errno.EAGAIN, "locked")
        self.locks.add(path)
        return SimLock(self, path)

    def _change(self, path: Path, inode: Inode | None) -> None:
        _apply(self._entries, path, inode)
        self._pending.append((path, inode))

    def _find(self, path: Path) -> Inode:
        if path not in self._entries:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self._entries[path]


def _apply(entries: dict[Path, Inode], path: Path, inode: Inode | None) -> None:
    if inode is None:
        entries.pop(path, None)
    else:
        entries[path] = inode
