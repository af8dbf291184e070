from google.protobuf import timestamp_pb2 as _timestamp_pb2
from topowatch_protos.v1 import run_pb2 as _run_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SeqRange(_message.Message):
    __slots__ = ("first", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class WriterProgress(_message.Message):
    __slots__ = ("next_seq", "missing", "samples", "rejected", "dropped", "last_step", "last_received_at", "ended")
    NEXT_SEQ_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_RECEIVED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    next_seq: int
    missing: _containers.RepeatedCompositeFieldContainer[SeqRange]
    samples: int
    rejected: int
    dropped: int
    last_step: int
    last_received_at: _timestamp_pb2.Timestamp
    ended: bool
    def __init__(self, next_seq: _Optional[int] = ..., missing: _Optional[_Iterable[_Union[SeqRange, _Mapping]]] = ..., samples: _Optional[int] = ..., rejected: _Optional[int] = ..., dropped: _Optional[int] = ..., last_step: _Optional[int] = ..., last_received_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., ended: bool = ...) -> None: ...

class RunOpened(_message.Message):
    __slots__ = ("descriptor", "received_at", "progress")
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    descriptor: _run_pb2.RunDescriptor
    received_at: _timestamp_pb2.Timestamp
    progress: WriterProgress
    def __init__(self, descriptor: _Optional[_Union[_run_pb2.RunDescriptor, _Mapping]] = ..., received_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., progress: _Optional[_Union[WriterProgress, _Mapping]] = ...) -> None: ...

class StoredItem(_message.Message):
    __slots__ = ("key", "rank", "incarnation", "seq", "received_at", "item", "newly_dropped")
    KEY_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    NEWLY_DROPPED_FIELD_NUMBER: _ClassVar[int]
    key: _run_pb2.RunKey
    rank: int
    incarnation: int
    seq: int
    received_at: _timestamp_pb2.Timestamp
    item: bytes
    newly_dropped: int
    def __init__(self, key: _Optional[_Union[_run_pb2.RunKey, _Mapping]] = ..., rank: _Optional[int] = ..., incarnation: _Optional[int] = ..., seq: _Optional[int] = ..., received_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., item: _Optional[bytes] = ..., newly_dropped: _Optional[int] = ...) -> None: ...

class ItemsRejected(_message.Message):
    __slots__ = ("key", "rank", "incarnation", "seqs", "received_at")
    KEY_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_AT_FIELD_NUMBER: _ClassVar[int]
    key: _run_pb2.RunKey
    rank: int
    incarnation: int
    seqs: _containers.RepeatedScalarFieldContainer[int]
    received_at: _timestamp_pb2.Timestamp
    def __init__(self, key: _Optional[_Union[_run_pb2.RunKey, _Mapping]] = ..., rank: _Optional[int] = ..., incarnation: _Optional[int] = ..., seqs: _Optional[_Iterable[int]] = ..., received_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("made_at", "name", "value", "reason", "key")
    MADE_AT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    made_at: _timestamp_pb2.Timestamp
    name: str
    value: int
    reason: str
    key: _run_pb2.RunKey
    def __init__(self, made_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., name: _Optional[str] = ..., value: _Optional[int] = ..., reason: _Optional[str] = ..., key: _Optional[_Union[_run_pb2.RunKey, _Mapping]] = ...) -> None: ...

class Forecast(_message.Message):
    __slots__ = ("key", "made_at", "step", "metric", "value", "lower", "upper", "abstained", "reason")
    KEY_FIELD_NUMBER: _ClassVar[int]
    MADE_AT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    ABSTAINED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    key: _run_pb2.RunKey
    made_at: _timestamp_pb2.Timestamp
    step: int
    metric: str
    value: float
    lower: float
    upper: float
    abstained: bool
    reason: str
    def __init__(self, key: _Optional[_Union[_run_pb2.RunKey, _Mapping]] = ..., made_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., step: _Optional[int] = ..., metric: _Optional[str] = ..., value: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., abstained: bool = ..., reason: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("at", "name", "detail", "key")
    AT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    name: str
    detail: str
    key: _run_pb2.RunKey
    def __init__(self, at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., name: _Optional[str] = ..., detail: _Optional[str] = ..., key: _Optional[_Union[_run_pb2.RunKey, _Mapping]] = ...) -> None: ...
