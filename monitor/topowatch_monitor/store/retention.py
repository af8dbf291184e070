"""Which segments of the log are needed no more, and what of others may go. Pure functions on their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from topowatch_protos import framing
from topowatch_protos.framing import LogKind

if TYPE_CHECKING:
    from collections.abc import Callable

    Needed = Callable[[int, bytes], bool]

# Notes that a run is forgotten: needed as long as something of the run may lie in an earlier segment.
_NOTES = frozenset({LogKind.RUN_FORGOTTEN, LogKind.GAP})


class Survey(NamedTuple):
    """What a segment holds.

    Attributes:
        needed: records that are needed.
        needed_bytes: of these and of notes, with their frames.
        bytes: of the segment.
    """

    needed: int
    needed_bytes: int
    bytes: int


def survey(data: bytes, needed: Needed) -> Survey | None:
    """Look through a segment; None where it is damaged, so that nothing may be done to it.

    Args:
        data: of the whole file.
        needed: whether a record, by kind and payload, has to stay.
    """
    count, size, end = 0, 0, len(framing.MAGIC)
    for frame in framing.scan(data):
        is_needed = frame.kind not in _NOTES and needed(frame.kind, frame.payload)
        count += is_needed
        if is_needed or frame.kind in _NOTES:
            size += frame.end - end
        end = frame.end
    return Survey(count, size, len(data)) if end == len(data) else None


def without(data: bytes, needed: Needed) -> bytes:
    """Return a segment with a gap in the place of each record that is not needed; notes stay."""
    gap = framing.encode(LogKind.GAP, b"")
    kept = (
        framing.encode(frame.kind, frame.payload) if frame.kind in _NOTES or needed(frame.kind, frame.payload) else gap
        for frame in framing.scan(data)
    )
    return b"".join([framing.MAGIC, *kept])
