"""Carries the runs of many virtual shards. A plain class: a Ray actor or a process of ours holds it alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import DecodeError

from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.reading import Message, key_of, parse
from topowatch_monitor.engine.run_state import RunSettings, RunState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from topowatch_monitor.engine.view import RunView

Key = tuple[str, str, str]


class Part(NamedTuple):
    """Records for one virtual shard: (offset, kind, payload) each, in order.

    It applies only to a shard of this epoch that stands at `expected_offset`, and leaves it at `next_offset`.
    """

    vshard: int
    epoch: int
    expected_offset: int
    next_offset: int
    records: Sequence[tuple[int, int, bytes]]


class ApplyResult(NamedTuple):
    """Views of the runs that changed, and (vshard, epoch, offset) of the virtual shards that refused their part.

    Epoch and offset are those at which the shard stands; −1 if it was never loaded.
    """

    views: list[RunView]
    refused: list[tuple[int, int, int]]


@dataclass
class _Virtual:
    epoch: int
    next_offset: int
    runs: dict[Key, RunState] = field(default_factory=dict)


class Shard:
    """Virtual shards and the states of their runs.

    Args:
        settings: how much of each run is looked at.

    Attributes:
        damaged: log records that could not be decoded.
    """

    def __init__(self, settings: RunSettings | None = None) -> None:
        self._settings = settings or RunSettings()
        self._virtual: dict[int, _Virtual] = {}
        self.damaged = 0

    def load(self, vshard: int, epoch: int, next_offset: int, state: bytes | None) -> None:
        """Put a virtual shard in place, from a snapshot or empty; one that is there is replaced.

        Raises:
            CodecError: the snapshot is damaged.
        """
        virtual = _Virtual(epoch, next_offset)
        if state is not None:
            for run_state in decode(state)["runs"]:
                run = RunState.from_state(run_state, self._settings)
                virtual.runs[run.key] = run
        self._virtual[vshard] = virtual

    def apply(self, parts: Iterable[Part]) -> ApplyResult:
        """Apply records; a part that does not fit where its virtual shard stands is refused and changes nothing."""
        touched: dict[tuple[int, Key], RunState] = {}
        refused = []
        for part in parts:
            virtual = self._virtual.get(part.vshard)
            if virtual is None:
                refused.append((part.vshard, -1, -1))
            elif (part.epoch, part.expected_offset) != (virtual.epoch, virtual.next_offset):
                refused.append((part.vshard, virtual.epoch, virtual.next_offset))
            else:
                for key, messages in self._by_run(part.records).items():
                    run = virtual.runs.get(key)
                    if run is None:
                        run = virtual.runs[key] = RunState(*key, self._settings)
                    for message in messages:
                        run.apply_message(message)
                    touched[part.vshard, key] = run
                virtual.next_offset = part.next_offset
        return ApplyResult([run.view() for run in touched.values()], refused)

    def snapshot(self, vshards: Iterable[int]) -> list[tuple[int, int, bytes]]:
        """State of virtual shards: number, offset of the next record, and bytes for `load`."""
        found = []
        for number in vshards:
            virtual = self._virtual[number]
            state = encode({"runs": [run.state_dict() for run in virtual.runs.values()]})
            found.append((number, virtual.next_offset, state))
        return found

    def views(self) -> list[RunView]:
        """Views of all runs."""
        return [run.view() for virtual in self._virtual.values() for run in virtual.runs.values()]

    def _by_run(self, records: Iterable[tuple[int, int, bytes]]) -> dict[Key, list[Message]]:
        grouped: dict[Key, list[Message]] = {}
        for _, kind, payload in records:
            try:
                message = parse(kind, payload)
            except DecodeError:
                self.damaged += 1
                continue
            if message is not None:
                key = key_of(message)
                grouped.setdefault((key.tenant, key.group, key.run), []).append(message)
        return grouped
