"""Reads the log by ordinal, also while it is being written: whatever lies below the durable offset."""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING

from topowatch_monitor.store.log import Record, segment_path, segment_starts
from topowatch_protos import framing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from topowatch_monitor.store.disk import Disk

CHUNK_BYTES = 1 << 20
REMEMBERED_PLACES = 16384


class LogReader:
    """Reads ranges of records; made for one thread. The log may be written by another process meanwhile.

    Where a segment is damaged, the reader goes on at the next record that it can be sure of: behind the damaged frame
    if a whole one follows there, else in the next segment. `lost_records` counts what it had to leave out.
    """

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._directory = directory
        self._disk = disk
        self._segments: list[int] = []  # first ordinals
        self._places: dict[int, list[tuple[int, int]]] = {}  # by segment: (ordinal, byte position), ascending
        self._sizes: dict[int, int] = {}  # bytes of each segment when it was last read
        self._remembered = 0
        self.lost_records = 0

    def read(self, start: int, end: int) -> Iterator[Record]:
        """Yield the records with start ≤ offset < end.

        Args:
            start: ordinal of the first record.
            end: ordinal behind the last; at most the log's durable offset.
        """
        while start < end:
            segment, following = self._segment_of(start)
            if segment is None and following is None:
                return
            stop = end if following is None else min(end, following)
            if segment is not None:
                try:
                    reached = yield from self._read_segment(segment, start, stop)
                except FileNotFoundError:
                    if segment in (starts := self._look()):
                        raise
                    start = min(stop, starts[0]) if starts else stop
                    continue
                if following is None:
                    return
                self.lost_records += max(0, stop - reached)
            start = stop  # what lies before the first segment was taken out of the log

    def _segment_of(self, ordinal: int) -> tuple[int | None, int | None]:
        """Return the first ordinals of the segment that holds `ordinal` and of the one behind it."""
        if not self._segments or ordinal >= self._segments[-1]:
            self._look()
        index = bisect_right(self._segments, ordinal) - 1
        following = self._segments[index + 1] if index + 1 < len(self._segments) else None
        return self._segments[index] if index >= 0 else None, following

    def _look(self) -> list[int]:
        """Find out which segments there are now."""
        self._segments = segment_starts(self._disk.names(self._directory))
        return self._segments

    def _read_segment(self, segment: int, start: int, stop: int) -> Generator[Record, None, int]:
        """Yield the records start ≤ offset < stop of one segment; return the ordinal behind the last that was found."""
        ordinal, position = self._place_before(segment, start)
        path = segment_path(self._directory, segment)
        size = CHUNK_BYTES
        while ordinal < stop:
            if self._shrunk(segment, path):  # records were taken out of it: none is where it was
                start = max(start, ordinal)
                ordinal, position = segment, len(framing.MAGIC)
            data = self._disk.read(path, position, size)
            used = 0
            for frame in framing.scan(data, 0):
                used = frame.end
                ordinal += 1
                if ordinal >= stop:
                    self._remember(segment, ordinal, position + used)
                if ordinal > start:
                    yield Record(ordinal - 1, frame.kind, frame.payload)
                if ordinal >= stop:
                    return ordinal
            if used:
                size = CHUNK_BYTES
                position += used
                self._remember(segment, ordinal, position)
                continue
            length = _claimed_length(data)
            if size < length <= self._disk.size(path) - position:
                size = length  # a frame longer than a chunk
            elif length and self._whole_at(path, position + length):
                self.lost_records += 1
                ordinal, position = ordinal + 1, position + length
            else:
                break
        return ordinal

    def _shrunk(self, segment: int, path: Path) -> bool:
        """Whether a segment is smaller than when it was last read; then no place in it is known any more."""
        before, now = self._sizes.get(segment, 0), self._disk.size(path)
        self._sizes[segment] = now
        if now >= before:
            return False
        self._remembered -= len(self._places.pop(segment, ()))
        return True

    def _whole_at(self, path: Path, position: int) -> bool:
        """Whether an undamaged frame begins at byte `position`."""
        header = self._disk.read(path, position, framing.HEADER.size)
        return next(framing.scan(self._disk.read(path, position, _claimed_length(header)), 0), None) is not None

    def _place_before(self, segment: int, ordinal: int) -> tuple[int, int]:
        """Return the last known (ordinal, byte position) of `segment` that is not behind `ordinal`."""
        places = self._places.get(segment, [])
        index = bisect_right(places, ordinal, key=itemgetter(0)) - 1
        return places[index] if index >= 0 else (segment, len(framing.MAGIC))

    def _remember(self, segment: int, ordinal: int, position: int) -> None:
        """Note where a record begins, so that reading on does not begin at the segment's start."""
        if self._remembered >= REMEMBERED_PLACES:
            self._places.clear()
            self._remembered = 0
        places = self._places.setdefault(segment, [])
        index = bisect_right(places, ordinal, key=itemgetter(0))
        if index == 0 or places[index - 1][0] != ordinal:
            places.insert(index, (ordinal, position))
            self._remembered += 1


def _claimed_length(data: bytes) -> int:
    """Return the length of the frame at the start of `data` as its header has it; 0 if the header is cut."""
    return framing.HEADER.size + framing.HEADER.unpack_from(data)[1] if len(data) >= framing.HEADER.size else 0
