"""Which run a record of the daemon's log is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2

if TYPE_CHECKING:
    from topowatch_protos.v1 import run_pb2

_MESSAGES: dict[int, Any] = {
    LogKind.STORED_ITEM: log_pb2.StoredItem,
    LogKind.ITEMS_REJECTED: log_pb2.ItemsRejected,
    LogKind.DECISION: log_pb2.Decision,
    LogKind.FORECAST: log_pb2.Forecast,
    LogKind.EVENT: log_pb2.Event,
    LogKind.RUN_FORGOTTEN: log_pb2.Event,
}


def key_of(kind: int, payload: bytes) -> run_pb2.RunKey | None:
    """Return the key of the run that a record is about; None for one about the whole daemon, or of an unknown kind.

    Raises:
        google.protobuf.message.DecodeError: the payload is not a message of its kind.
    """
    key: run_pb2.RunKey
    if kind == LogKind.RUN_OPENED:
        key = log_pb2.RunOpened.FromString(payload).descriptor.key
    elif kind in _MESSAGES:
        key = _MESSAGES[kind].FromString(payload).key
    else:
        return None
    return key if key.run else None
