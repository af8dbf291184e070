"""Which virtual shard a log record belongs to. Pure, and stable over versions: snapshots depend on it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from topowatch_protos.framing import LogKind
from topowatch_protos.keys import key_of

if TYPE_CHECKING:
    from topowatch_protos.v1 import run_pb2

VIRTUAL_SHARDS = 256
# What no run state depends on.
_NOTES = frozenset({LogKind.EVENT, LogKind.GAP})


def shard_of_key(key: run_pb2.RunKey) -> int:
    """Hash a run to one of the `VIRTUAL_SHARDS`."""
    return hash_of((key.tenant, key.group, key.run)) % VIRTUAL_SHARDS


def hash_of(key: tuple[str, str, str]) -> int:
    """Hash tenant, group and run to 32 bits."""
    return zlib.crc32("\0".join(key).encode())


def shards_of(kind: int, payload: bytes) -> range | tuple[int, ...]:
    """Virtual shards that must see a record, in order; empty for kinds that no run state depends on.

    Raises:
        google.protobuf.message.DecodeError: the payload is not a message of its kind.
    """
    if kind in _NOTES:
        return ()
    key = key_of(kind, payload)
    if key is not None:
        return (shard_of_key(key),)
    return range(VIRTUAL_SHARDS) if kind == LogKind.DECISION else ()
