"""The frame that the client's spool, the daemon's log and recordings share on disk.

A file opens with `MAGIC`, whose last byte is the version of what follows. Each frame is `crc32, length, kind, payload`
(little-endian u32, u32, u8, bytes); the checksum covers kind and payload, so a torn or damaged frame ends a scan and is
never handed on.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"TOPOSEG1"  # its number is raised by what an older version could neither read nor pass over
HEADER = struct.Struct("<IIB")


class SpoolKind(IntEnum):
    """Frame kinds of the client's spool."""

    DESCRIPTOR = 1  # RunDescriptor
    ENVELOPE = 2  # Envelope


class LogKind(IntEnum):
    """Frame kinds of the daemon's log and of recordings; each is one message of log.proto.

    A daemon passes over kinds that it does not know, and keeps them.
    """

    RUN_OPENED = 1
    STORED_ITEM = 2
    ITEMS_REJECTED = 3
    DECISION = 4
    FORECAST = 5
    EVENT = 6
    RUN_FORGOTTEN = 7  # Event, with the key of a run: what comes before it of that run counts no more
    GAP = 8  # nothing: a record that was taken out of the log, so that those behind keep their ordinals


LOG_KINDS = frozenset(LogKind)


class Frame(NamedTuple):
    """One frame of a file and the byte offset just behind it."""

    kind: int
    payload: bytes
    end: int


def other_version(head: bytes) -> str:
    """Return the version of a file that begins with `head`; empty for this one's, and where it is no such file."""
    family = len(MAGIC) - 1
    same = head.startswith(MAGIC) or not head.startswith(MAGIC[:family])
    return "" if same else head[family : len(MAGIC)].decode("latin-1")


def header(kind: int, *parts: bytes) -> bytes:
    """Return what stands before a payload of these parts; raises ValueError if it does not fit the length field."""
    length = sum(map(len, parts))
    if length > 0xFFFFFFFF:
        raise ValueError(f"a frame holds at most 4 GiB, this payload has {length} bytes")
    checksum = zlib.crc32(bytes((kind,)))
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return HEADER.pack(checksum, length, kind)


def encode(kind: int, payload: bytes) -> bytes:
    """Frame `payload`; raises ValueError if it does not fit the length field."""
    return header(kind, payload) + payload


def scan(data: bytes | memoryview, start: int = len(MAGIC)) -> Iterator[Frame]:
    """Yield the whole frames of `data` from byte `start`; stop at the first that is torn or damaged."""
    view = memoryview(data)
    position = start
    while position + HEADER.size <= len(view):
        checksum, length, kind = HEADER.unpack_from(view, position)
        end = position + HEADER.size + length
        if end > len(view):
            return
        payload = bytes(view[position + HEADER.size : end])
        if zlib.crc32(payload, zlib.crc32(bytes((kind,)))) != checksum:
            return
        yield Frame(kind, payload, end)
        position = end
