"""Which virtual shard a log record belongs to. Pure, and stable over versions: snapshots depend on it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2

if TYPE_CHECKING:
    from topowatch_protos.v1 import run_pb2

VIRTUAL_SHARDS = 256
_OF_ONE_RUN: dict[int, Any] = {
    LogKind.STORED_ITEM: log_pb2.StoredItem,
    LogKind.ITEMS_REJECTED: log_pb2.ItemsRejected,
    LogKind.FORECAST: log_pb2.Forecast,
    LogKind.RUN_FORGOTTEN: log_pb2.Event,
}


def shard_of_key(key: run_pb2.RunKey) -> int:
    """Hash a run to one of the `VIRTUAL_SHARDS`."""
    name = f"{key.tenant}\0{key.group}\0{key.run}"
    return zlib.crc32(name.encode()) % VIRTUAL_SHARDS


def shards_of(kind: int, payload: bytes) -> range | tuple[int, ...]:
    """Virtual shards that must see a record, in order; empty for kinds that no run state depends on.

    Raises:
        google.protobuf.message.DecodeError: the payload is not a message of its kind.
    """
    if kind == LogKind.RUN_OPENED:
        return (shard_of_key(log_pb2.RunOpened.FromString(payload).descriptor.key),)
    if kind == LogKind.DECISION:
        decision = log_pb2.Decision.FromString(payload)
        return (shard_of_key(decision.key),) if decision.key.run else range(VIRTUAL_SHARDS)
    of_one_run = _OF_ONE_RUN.get(kind)
    return () if of_one_run is None else (shard_of_key(of_one_run.FromString(payload).key),)
