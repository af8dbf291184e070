"""The narrow seam between the store and the file system, so that a simulation can stand in for a real disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class DiskFile(Protocol):
    """A file that is open for writing at its end."""

    def write(self, data: bytes) -> None:
        """Append all of `data`; after an OSError any part of it may have been written."""

    def overwrite(self, start: int, data: bytes) -> None:
        """Write `data` over the bytes from `start` on; the file already reaches that far."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def sync(self) -> None:
        """Return when the file's content is on the device (its directory entry need not be)."""

    def close(self) -> None:
        """Release the descriptor."""


class DiskLock(Protocol):
    """An exclusive lock that ends with the process at the latest."""

    def release(self) -> None:
        """Let another process take the lock."""


class Disk(Protocol):
    """What the store asks of a file system; everything raises OSError when it fails."""

    def make_directory(self, path: Path) -> None:
        """Make `path` and its parents, durably; an existing directory is fine."""

    def create(self, path: Path) -> DiskFile:
        """Open an empty file, replacing what is there."""

    def open(self, path: Path) -> DiskFile:
        """Open an existing file to write at its end."""

    def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
        """Return up to `size` bytes from byte `start` on (all of them without `size`)."""

    def size(self, path: Path) -> int:
        """Return the length of a file in bytes."""

    def names(self, directory: Path) -> list[str]:
        """Return the names in a directory, sorted."""

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within a directory atomically, replacing `target`."""

    def unlink(self, path: Path) -> None:
        """Remove a file."""

    def sync_directory(self, path: Path) -> None:
        """Return when the entries of a directory are on the device."""

    def lock(self, path: Path) -> DiskLock:
        """Lock the file `path`; raises BlockingIOError when another holder has it."""


class OsFile:
    """A file of the operating system."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path, flags: int) -> None:
        self._descriptor = os.open(path, flags | os.O_RDWR | os.O_CLOEXEC, 0o640)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def overwrite(self, start: int, data: bytes) -> None:
        """Write `data` over the bytes from `start` on."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._descriptor, rest, start)
            start += written
            rest = rest[written:]

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)

    def sync(self) -> None:
        """Flush content and length to the device."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._descriptor)


class OsLock:
    """A flock on a file that names its holder."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let another process take the lock."""
        os.close(self._descriptor)


class OsDisk:
    """The file system of the operating system."""

    def make_directory(self, path: Path) -> None:
        """Make `path` and its parents and flush every entry that is new."""
        if path.is_dir():
            return
        self.make_directory(path.parent)
        if path.exists():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        path.mkdir(mode=0o700, exist_ok=True)
        self.sync_directory(path.parent)

    def create(self, path: Path) -> DiskFile:
        """Open an empty file, replacing what is there."""
        return OsFile(path, os.O_CREAT | os.O_TRUNC)

    def open(self, path: Path) -> DiskFile:
        """Open an existing file to write at its end."""
        return OsFile(path, 0)

    def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
        """Return up to `size` bytes from byte `start` on."""
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            return (file.readall() if size is None else file.read(size)) or b""

    def size(self, path: Path) -> int:
        """Return the length of a file in bytes."""
        return path.stat().st_size

    def names(self, directory: Path) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(os.listdir(directory))  # noqa: PTH208 (names are asked for, not paths)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file atomically, replacing `target`."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        """Flush the entries of a directory."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: Path) -> DiskLock:
        """Lock the file `path`; raises BlockingIOError when another holder has it."""
        return OsLock(path)


class Room(NamedTuple):
    """Of a file system, in bytes: its size, and what may still be written by this process."""

    size: int
    free: int


def room_at(path: Path) -> Room | None:
    """Return the room on the file system that `path` is on; None where it does not answer. From any thread."""
    try:
        told = shutil.disk_usage(path)
    except OSError:  # what this means for the log is told where the log is written
        return None
    return Room(told.total, told.free)


def write_file(disk: Disk, path: Path, *parts: bytes) -> None:
    """Write a file of these parts and flush it, though not its directory entry.

    Raises:
        OSError: it could not be written; nothing of it is left behind.
    """
    file = disk.create(path)
    try:
        for part in parts:
            file.write(part)
        file.sync()
    except OSError:
        with contextlib.suppress(OSError):
            disk.unlink(path)
        raise
    finally:
        file.close()
