from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OutputKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_KIND_UNSPECIFIED: _ClassVar[OutputKind]
    OUTPUT_KIND_LOGITS: _ClassVar[OutputKind]
    OUTPUT_KIND_PROBS: _ClassVar[OutputKind]
    OUTPUT_KIND_VALUES: _ClassVar[OutputKind]
OUTPUT_KIND_UNSPECIFIED: OutputKind
OUTPUT_KIND_LOGITS: OutputKind
OUTPUT_KIND_PROBS: OutputKind
OUTPUT_KIND_VALUES: OutputKind

class RunKey(_message.Message):
    __slots__ = ("tenant", "group", "run")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    group: str
    run: str
    def __init__(self, tenant: _Optional[str] = ..., group: _Optional[str] = ..., run: _Optional[str] = ...) -> None: ...

class SketchSpec(_message.Message):
    __slots__ = ("dimension", "seed")
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    dimension: int
    seed: int
    def __init__(self, dimension: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class ProbeSpec(_message.Message):
    __slots__ = ("positions", "outputs", "kind", "digest")
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    positions: int
    outputs: int
    kind: OutputKind
    digest: bytes
    def __init__(self, positions: _Optional[int] = ..., outputs: _Optional[int] = ..., kind: _Optional[_Union[OutputKind, str]] = ..., digest: _Optional[bytes] = ...) -> None: ...

class RunDescriptor(_message.Message):
    __slots__ = ("key", "rank", "world_size", "contributing_ranks", "incarnation", "start_step", "first_seq", "writer_uuid", "labels", "started_at", "sketch", "probe", "parameter_count", "client_version")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTING_RANKS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    START_STEP_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    WRITER_UUID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    SKETCH_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    key: RunKey
    rank: int
    world_size: int
    contributing_ranks: int
    incarnation: int
    start_step: int
    first_seq: int
    writer_uuid: str
    labels: _containers.ScalarMap[str, str]
    started_at: _timestamp_pb2.Timestamp
    sketch: SketchSpec
    probe: ProbeSpec
    parameter_count: int
    client_version: str
    def __init__(self, key: _Optional[_Union[RunKey, _Mapping]] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., contributing_ranks: _Optional[int] = ..., incarnation: _Optional[int] = ..., start_step: _Optional[int] = ..., first_seq: _Optional[int] = ..., writer_uuid: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., started_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., sketch: _Optional[_Union[SketchSpec, _Mapping]] = ..., probe: _Optional[_Union[ProbeSpec, _Mapping]] = ..., parameter_count: _Optional[int] = ..., client_version: _Optional[str] = ...) -> None: ...
