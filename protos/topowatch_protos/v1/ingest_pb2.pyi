from google.protobuf import duration_pb2 as _duration_pb2
from topowatch_protos.v1 import run_pb2 as _run_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AckStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACK_STATUS_UNSPECIFIED: _ClassVar[AckStatus]
    ACK_STATUS_STORED: _ClassVar[AckStatus]
    ACK_STATUS_UNKNOWN_RUN: _ClassVar[AckStatus]
    ACK_STATUS_WRITER_CONFLICT: _ClassVar[AckStatus]
    ACK_STATUS_FENCED: _ClassVar[AckStatus]
    ACK_STATUS_RESOURCE_EXHAUSTED: _ClassVar[AckStatus]
    ACK_STATUS_UNAVAILABLE: _ClassVar[AckStatus]
    ACK_STATUS_INVALID: _ClassVar[AckStatus]

class RejectionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REJECTION_REASON_UNSPECIFIED: _ClassVar[RejectionReason]
    REJECTION_REASON_UNDECODABLE: _ClassVar[RejectionReason]
    REJECTION_REASON_NEWER_SCHEMA: _ClassVar[RejectionReason]
    REJECTION_REASON_SKETCH_DIMENSION: _ClassVar[RejectionReason]
    REJECTION_REASON_NOT_FINITE: _ClassVar[RejectionReason]
    REJECTION_REASON_NEGATIVE_STEP: _ClassVar[RejectionReason]
    REJECTION_REASON_TOO_LARGE: _ClassVar[RejectionReason]
    REJECTION_REASON_MALFORMED: _ClassVar[RejectionReason]
ACK_STATUS_UNSPECIFIED: AckStatus
ACK_STATUS_STORED: AckStatus
ACK_STATUS_UNKNOWN_RUN: AckStatus
ACK_STATUS_WRITER_CONFLICT: AckStatus
ACK_STATUS_FENCED: AckStatus
ACK_STATUS_RESOURCE_EXHAUSTED: AckStatus
ACK_STATUS_UNAVAILABLE: AckStatus
ACK_STATUS_INVALID: AckStatus
REJECTION_REASON_UNSPECIFIED: RejectionReason
REJECTION_REASON_UNDECODABLE: RejectionReason
REJECTION_REASON_NEWER_SCHEMA: RejectionReason
REJECTION_REASON_SKETCH_DIMENSION: RejectionReason
REJECTION_REASON_NOT_FINITE: RejectionReason
REJECTION_REASON_NEGATIVE_STEP: RejectionReason
REJECTION_REASON_TOO_LARGE: RejectionReason
REJECTION_REASON_MALFORMED: RejectionReason

class Envelope(_message.Message):
    __slots__ = ("seq", "item")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    seq: int
    item: bytes
    def __init__(self, seq: _Optional[int] = ..., item: _Optional[bytes] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("id", "key", "rank", "incarnation", "writer_uuid", "descriptor", "items")
    ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    WRITER_UUID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    id: int
    key: _run_pb2.RunKey
    rank: int
    incarnation: int
    writer_uuid: str
    descriptor: _run_pb2.RunDescriptor
    items: _containers.RepeatedCompositeFieldContainer[Envelope]
    def __init__(self, id: _Optional[int] = ..., key: _Optional[_Union[_run_pb2.RunKey, _Mapping]] = ..., rank: _Optional[int] = ..., incarnation: _Optional[int] = ..., writer_uuid: _Optional[str] = ..., descriptor: _Optional[_Union[_run_pb2.RunDescriptor, _Mapping]] = ..., items: _Optional[_Iterable[_Union[Envelope, _Mapping]]] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("seq", "reason", "detail")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    seq: int
    reason: RejectionReason
    detail: str
    def __init__(self, seq: _Optional[int] = ..., reason: _Optional[_Union[RejectionReason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class SliceRequest(_message.Message):
    __slots__ = ("id", "side")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    id: str
    side: int
    def __init__(self, id: _Optional[str] = ..., side: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("batch_id", "status", "rejections", "duplicates", "retry_after", "detail", "slice_requests")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SLICE_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    status: AckStatus
    rejections: _containers.RepeatedCompositeFieldContainer[Rejection]
    duplicates: int
    retry_after: _duration_pb2.Duration
    detail: str
    slice_requests: _containers.RepeatedCompositeFieldContainer[SliceRequest]
    def __init__(self, batch_id: _Optional[int] = ..., status: _Optional[_Union[AckStatus, str]] = ..., rejections: _Optional[_Iterable[_Union[Rejection, _Mapping]]] = ..., duplicates: _Optional[int] = ..., retry_after: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., detail: _Optional[str] = ..., slice_requests: _Optional[_Iterable[_Union[SliceRequest, _Mapping]]] = ...) -> None: ...

class StreamBatchesRequest(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: Batch
    def __init__(self, batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

class StreamBatchesResponse(_message.Message):
    __slots__ = ("ack",)
    ACK_FIELD_NUMBER: _ClassVar[int]
    ack: Ack
    def __init__(self, ack: _Optional[_Union[Ack, _Mapping]] = ...) -> None: ...

class PushBatchRequest(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: Batch
    def __init__(self, batch: _Optional[_Union[Batch, _Mapping]] = ...) -> None: ...

class PushBatchResponse(_message.Message):
    __slots__ = ("ack",)
    ACK_FIELD_NUMBER: _ClassVar[int]
    ack: Ack
    def __init__(self, ack: _Optional[_Union[Ack, _Mapping]] = ...) -> None: ...
