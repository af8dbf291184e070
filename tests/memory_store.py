"""A log and a snapshot store in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from topowatch_monitor.store.log import Record

if TYPE_CHECKING:
    from collections.abc import Iterator


class MemoryLog:
    """A log reader over a list."""

    lost_records = 0

    def __init__(self, payloads: list[tuple[int, bytes]]) -> None:
        self.records = [Record(offset, kind, payload) for offset, (kind, payload) in enumerate(payloads)]
        self.reads: list[tuple[int, int]] = []

    def read(self, start: int, end: int) -> Iterator[Record]:
        self.reads.append((start, end))
        return iter(self.records[start:end])


class MemorySnapshots:
    """A snapshot store in a dict."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[int, bytes]] = {}

    def save(self, shard: int, offset: int, state: bytes) -> None:
        self.kept[shard] = (offset, state)

    def load(self, shard: int) -> tuple[int, bytes] | None:
        return self.kept.get(shard)
