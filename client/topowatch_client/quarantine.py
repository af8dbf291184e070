"""What the daemon refused and may take later, after an upgrade or with other settings; kept beside the spool.

A file of the quarantine is written like a segment of the spool, and becomes one when it is tried again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from topowatch_client import spool
from topowatch_client.spool_reader import SpoolReader
from topowatch_protos import framing
from topowatch_protos.v1 import ingest_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from topowatch_client.spool_reader import Entry

_FILES = "quarantine-*.bin"
_NOTES = {spool.META: "quarantine-meta.json", spool.CURSOR: "quarantine-cursor.json"}
_MAX_BYTES = 64 << 20  # a writer; beyond it only the log of what was refused grows


def keep(directory: Path, entries: Sequence[Entry]) -> bool:
    """Keep entries of one incarnation; False if there is no place left for them. Raises OSError if the disk fails."""
    frames = [framing.MAGIC, framing.encode(framing.SpoolKind.DESCRIPTOR, entries[0].descriptor.SerializeToString())]
    frames += [framing.encode(framing.SpoolKind.ENVELOPE, entry.envelope.SerializeToString()) for entry in entries]
    content = b"".join(frames)
    if sum(path.stat().st_size for path in kept(directory)) + len(content) > _MAX_BYTES:
        return False
    _write(directory / f"quarantine-{entries[0].seq:020d}.bin", content)
    return True


def kept(directory: Path) -> list[Path]:
    """Return the quarantine's files, oldest first."""
    return sorted(directory.glob(_FILES))


def retire(directory: Path) -> None:
    """Put what a later try has to know out of the way of a spool that is removed. Raises OSError."""
    if kept(directory):
        for name, retired in _NOTES.items():
            if (directory / name).exists():
                (directory / name).rename(directory / retired)


def requeue_all(spool_dir: Path) -> None:
    """Requeue the quarantine of every writer that is gone. Raises OSError.

    Not for a directory that a forwarder is shipping.
    """
    for directory in sorted({path.parent for path in spool_dir.glob(f"*/{_FILES}")}):
        if not spool.writer_alive(directory):
            requeue(directory)


def requeue(directory: Path) -> None:
    """Make segments of the quarantine's files. Raises OSError; what was done until then counts.

    The items get new sequence numbers, behind all others: the daemon has answered for the old ones and would take them
    for duplicates.
    """
    for name, retired in _NOTES.items():
        if (directory / retired).exists():
            (directory / retired).replace(directory / name)
    next_seq = _next_seq(directory)
    for path in kept(directory):
        first, frames = next_seq, [framing.MAGIC]
        for kind, payload, _ in framing.scan(path.read_bytes()):
            if kind == framing.SpoolKind.ENVELOPE:
                frames.append(framing.encode(kind, _renumbered(payload, next_seq)))
                next_seq += 1
            else:
                frames.append(framing.encode(kind, payload))
        if next_seq > first:
            _write(path, b"".join(frames))  # renamed only afterwards: whenever we are killed, each item is there once
            path.rename(directory / f"{first:020d}.seg")


def _next_seq(directory: Path) -> int:
    reader = SpoolReader(directory, int(spool.read_cursor(directory).get("next_seq", 0)))
    while reader.read(1 << 20, 1 << 10):
        continue
    return reader.next_seq


def _renumbered(payload: bytes, seq: int) -> bytes:
    envelope = ingest_pb2.Envelope.FromString(payload)
    envelope.seq = seq
    return envelope.SerializeToString()


def _write(path: Path, content: bytes) -> None:
    """Replace a file by a whole one."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
