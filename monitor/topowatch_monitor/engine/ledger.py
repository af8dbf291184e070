"""What each virtual shard was handed of the log, who carries it, and what is still to be delivered to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from topowatch_monitor.engine.routing import shards_of
from topowatch_monitor.engine.shard import Part

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from topowatch_monitor.engine.pool import Call
    from topowatch_monitor.store.log import Record
    from topowatch_monitor.store.reader import LogReader

CHUNK_RECORDS = 1024
CHUNK_BYTES = 4 << 20
NOBODY = -1  # in the place of a carrier


@dataclass(eq=False)
class Virtual:
    """Where a virtual shard stands.

    Attributes:
        carrier: who carries it.
        origin: who hands it over to that carrier, until that has it.
        epoch: of its deliveries; it rises whenever it is put in place anew.
        next_offset: every record of the log below was handed to it.
        saved_offset: that its newest snapshot was taken at.
        saved_at: when, by the engine's clock.
        unsaved: whether it was handed anything since.
    """

    carrier: int = NOBODY
    origin: int | None = None
    epoch: int = 0
    next_offset: int = 0
    saved_offset: int = 0
    saved_at: float = 0.0
    unsaved: bool = False


@dataclass(frozen=True)
class Flight:
    """A call that is under way, answered by an `ApplyResult`.

    Attributes:
        call: the call.
        first_offset: of the log that depends on it.
        serial: the later it was begun, the higher.
        receives: number of the virtual shard that it puts in place on another carrier, if it does that.
    """

    call: Call
    first_offset: int
    serial: int
    receives: int | None = None


class Chunk(NamedTuple):
    """Records of the log below offset `end`, in order."""

    records: list[Record]
    end: int


def read_chunk(reader: LogReader, start: int, end: int) -> Chunk:
    """Read on from `start`; what the log cannot read any more is passed over."""
    end = min(end, start + CHUNK_RECORDS)
    records: list[Record] = []
    size = 0
    for record in reader.read(start, end):
        records.append(record)
        size += len(record.payload)
        if size >= CHUNK_BYTES:
            return Chunk(records, record.offset + 1)
    return Chunk(records, end)


def deliveries(virtual: Sequence[Virtual], chunk: Chunk, only: Container[int] | None = None) -> dict[int, list[Part]]:
    """Group records by carrier and virtual shard, leaving out what a shard already has; moves `next_offset`.

    Args:
        virtual: all virtual shards, by number.
        chunk: of the log.
        only: numbers of those that are delivered to; None: all.
    """
    records: dict[int, list[tuple[int, int, bytes]]] = {}
    for offset, kind, payload in chunk.records:
        for number in shards_of(kind, payload):
            if offset >= virtual[number].next_offset and (only is None or number in only):
                records.setdefault(number, []).append((offset, kind, payload))
    parts: dict[int, list[Part]] = {}
    for number, found in records.items():
        one = virtual[number]
        parts.setdefault(one.carrier, []).append(Part(number, one.epoch, one.next_offset, chunk.end, found))
        one.next_offset = chunk.end
        one.unsaved = True
    return parts
