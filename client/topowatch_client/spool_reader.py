"""Reading side of the spool: follows a writer's segments while they grow, rotate, or are dropped."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from topowatch_client.glances import Glances
from topowatch_protos import framing
from topowatch_protos.v1 import ingest_pb2, run_pb2

if TYPE_CHECKING:
    from pathlib import Path

_LOOKS_SKIPPED = 16  # in a row, where neither the directory nor its newest segment seems to have changed
_CHUNK_BYTES = 4 << 20


class Entry(NamedTuple):
    """One item of the spool and the life of the run that it belongs to."""

    seq: int
    envelope: ingest_pb2.Envelope
    size: int  # bytes of the encoded envelope
    descriptor: run_pb2.RunDescriptor


class SpoolReader:
    """Hands out entries with seq ≥ `next_seq`, in order, each once.

    Damage is passed over: what follows a torn frame in a segment that has a successor is skipped (the daemon sees the
    gap in the sequence numbers); in the newest segment reading waits for the rest.
    """

    def __init__(self, directory: Path, next_seq: int = 0) -> None:
        self.directory = directory
        self.next_seq = next_seq
        self._segment: Path | None = None
        self._position = 0
        self._descriptor: run_pb2.RunDescriptor | None = None
        self._ready: list[Entry] = []
        self._glances = Glances(_LOOKS_SKIPPED)

    def read(self, max_bytes: int, max_items: int) -> list[Entry]:
        """Return the next entries of one incarnation, at most `max_items` and `max_bytes` (but always one if there is).

        Raises:
            OSError: The disk fails; reading may be tried again.
        """
        while not self._ready and self._advance():
            pass
        count = total = 0
        for entry in self._ready:
            total += entry.size
            if count and (
                total > max_bytes
                or count == max_items
                or entry.descriptor.incarnation != self._ready[0].descriptor.incarnation
            ):
                break
            count += 1
        taken, self._ready = self._ready[:count], self._ready[count:]
        return taken

    def look_again(self) -> None:
        """Read the files the next time, whatever they look like."""
        self._glances.forget()

    def remove_acked(self, next_seq: int) -> None:
        """Delete segments that hold nothing at or above `next_seq` and are no longer written to."""
        segments = segments_of(self.directory)
        for path, successor in itertools.pairwise(segments):
            if first_seq(successor) <= next_seq and path != self._segment:
                path.unlink(missing_ok=True)

    def _advance(self) -> bool:
        """Read on; False when there is nothing more for now."""
        if not self._glances.needed(self._like()):
            return False
        found = self._look()
        if found:
            self._glances.forget()
        return found

    def _like(self) -> tuple[int, int] | None:
        """Return what changes with every frame and every segment: far cheaper to ask for than to read them."""
        if self._segment is None:
            return None
        try:
            return self.directory.stat().st_mtime_ns, self._segment.stat().st_size
        except OSError:
            return None

    def _look(self) -> bool:
        segments = segments_of(self.directory)  # listed first: whoever has a successor here is written to no more
        if not segments:
            return False
        if self._segment is None or self._segment not in segments:
            # Segments below the cursor were acked; the one before the first that starts above it may hold the rest.
            older = [path for path in segments if first_seq(path) <= self.next_seq]
            self._open(older[-1] if older else segments[0])
        assert self._segment is not None  # noqa: S101 -- for the type checker; set just above
        if self._read_chunk(self._segment):
            return True
        behind = [path for path in segments if path > self._segment]
        if not behind:
            return False
        self._open(behind[0])
        return True

    def _open(self, segment: Path) -> None:
        self._segment, self._position, self._descriptor = segment, 0, None

    def _read_chunk(self, segment: Path) -> bool:
        try:
            with segment.open("rb") as file:
                if self._position == 0:
                    if file.read(len(framing.MAGIC)) != framing.MAGIC:
                        return False
                    self._position = len(framing.MAGIC)
                file.seek(self._position)
                data = file.read(_CHUNK_BYTES)
                if len(data) >= framing.HEADER.size:
                    _, length, _ = framing.HEADER.unpack_from(data)
                    if framing.HEADER.size + length > len(data) == _CHUNK_BYTES:
                        data += file.read(framing.HEADER.size + length - len(data))
        except FileNotFoundError:
            return False  # dropped by the writer
        consumed = 0
        for frame in framing.scan(data, 0):
            consumed = frame.end
            self._take(frame)
        self._position += consumed
        return consumed > 0

    def _take(self, frame: framing.Frame) -> None:
        if frame.kind == framing.SpoolKind.DESCRIPTOR:
            self._descriptor = run_pb2.RunDescriptor.FromString(frame.payload)
        elif frame.kind == framing.SpoolKind.ENVELOPE and self._descriptor is not None:
            envelope = ingest_pb2.Envelope.FromString(frame.payload)
            if envelope.seq >= self.next_seq:
                self._ready.append(Entry(envelope.seq, envelope, len(frame.payload), self._descriptor))
                self.next_seq = envelope.seq + 1


def segments_of(directory: Path) -> list[Path]:
    """Return a writer's segments, oldest first."""
    return sorted(directory.glob("*.seg"))


def first_seq(segment: Path) -> int:
    """Return the sequence number that a segment starts with."""
    return int(segment.stem)
