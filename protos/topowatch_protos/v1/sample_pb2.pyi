from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScalarSeries(_message.Message):
    __slots__ = ("name", "steps", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    steps: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., steps: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class ShardBox(_message.Message):
    __slots__ = ("parameter", "global_shape", "starts", "sizes")
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_SHAPE_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    parameter: str
    global_shape: _containers.RepeatedScalarFieldContainer[int]
    starts: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, parameter: _Optional[str] = ..., global_shape: _Optional[_Iterable[int]] = ..., starts: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ...) -> None: ...

class Sketch(_message.Message):
    __slots__ = ("values", "boxes")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    boxes: _containers.RepeatedCompositeFieldContainer[ShardBox]
    def __init__(self, values: _Optional[bytes] = ..., boxes: _Optional[_Iterable[_Union[ShardBox, _Mapping]]] = ...) -> None: ...

class LayerStatistics(_message.Message):
    __slots__ = ("name", "weight_norm", "update_norm", "gradient_norm", "activation_mean", "activation_deviation", "activation_kurtosis", "zero_fraction", "saturated_fraction", "attention_entropy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_NORM_FIELD_NUMBER: _ClassVar[int]
    UPDATE_NORM_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_MEAN_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_KURTOSIS_FIELD_NUMBER: _ClassVar[int]
    ZERO_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SATURATED_FRACTION_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight_norm: float
    update_norm: float
    gradient_norm: float
    activation_mean: float
    activation_deviation: float
    activation_kurtosis: float
    zero_fraction: float
    saturated_fraction: float
    attention_entropy: float
    def __init__(self, name: _Optional[str] = ..., weight_norm: _Optional[float] = ..., update_norm: _Optional[float] = ..., gradient_norm: _Optional[float] = ..., activation_mean: _Optional[float] = ..., activation_deviation: _Optional[float] = ..., activation_kurtosis: _Optional[float] = ..., zero_fraction: _Optional[float] = ..., saturated_fraction: _Optional[float] = ..., attention_entropy: _Optional[float] = ...) -> None: ...

class Predictions(_message.Message):
    __slots__ = ("sketch", "argmax", "confidence")
    SKETCH_FIELD_NUMBER: _ClassVar[int]
    ARGMAX_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    sketch: Sketch
    argmax: bytes
    confidence: bytes
    def __init__(self, sketch: _Optional[_Union[Sketch, _Mapping]] = ..., argmax: _Optional[bytes] = ..., confidence: _Optional[bytes] = ...) -> None: ...

class Frames(_message.Message):
    __slots__ = ("layer", "rows", "columns", "values")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    layer: str
    rows: int
    columns: int
    values: bytes
    def __init__(self, layer: _Optional[str] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class Curvature(_message.Message):
    __slots__ = ("secant", "critical_step", "learning_rate")
    SECANT_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_STEP_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    secant: float
    critical_step: float
    learning_rate: float
    def __init__(self, secant: _Optional[float] = ..., critical_step: _Optional[float] = ..., learning_rate: _Optional[float] = ...) -> None: ...

class LossSlice(_message.Message):
    __slots__ = ("rows", "columns", "extent", "values", "step", "request", "problem")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    extent: float
    values: bytes
    step: int
    request: str
    problem: str
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., extent: _Optional[float] = ..., values: _Optional[bytes] = ..., step: _Optional[int] = ..., request: _Optional[str] = ..., problem: _Optional[str] = ...) -> None: ...

class ClientStatus(_message.Message):
    __slots__ = ("overhead_ratio", "interval", "spooled_bytes", "coverage")
    OVERHEAD_RATIO_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    SPOOLED_BYTES_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    overhead_ratio: float
    interval: int
    spooled_bytes: int
    coverage: float
    def __init__(self, overhead_ratio: _Optional[float] = ..., interval: _Optional[int] = ..., spooled_bytes: _Optional[int] = ..., coverage: _Optional[float] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("step", "time", "scalars", "weights", "update", "gradient", "layers", "predictions", "probe_losses", "frames", "curvature", "loss_slice", "client")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    PROBE_LOSSES_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    CURVATURE_FIELD_NUMBER: _ClassVar[int]
    LOSS_SLICE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    step: int
    time: _timestamp_pb2.Timestamp
    scalars: _containers.RepeatedCompositeFieldContainer[ScalarSeries]
    weights: Sketch
    update: Sketch
    gradient: Sketch
    layers: _containers.RepeatedCompositeFieldContainer[LayerStatistics]
    predictions: Predictions
    probe_losses: bytes
    frames: Frames
    curvature: Curvature
    loss_slice: LossSlice
    client: ClientStatus
    def __init__(self, step: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., scalars: _Optional[_Iterable[_Union[ScalarSeries, _Mapping]]] = ..., weights: _Optional[_Union[Sketch, _Mapping]] = ..., update: _Optional[_Union[Sketch, _Mapping]] = ..., gradient: _Optional[_Union[Sketch, _Mapping]] = ..., layers: _Optional[_Iterable[_Union[LayerStatistics, _Mapping]]] = ..., predictions: _Optional[_Union[Predictions, _Mapping]] = ..., probe_losses: _Optional[bytes] = ..., frames: _Optional[_Union[Frames, _Mapping]] = ..., curvature: _Optional[_Union[Curvature, _Mapping]] = ..., loss_slice: _Optional[_Union[LossSlice, _Mapping]] = ..., client: _Optional[_Union[ClientStatus, _Mapping]] = ...) -> None: ...

class RunEnd(_message.Message):
    __slots__ = ("step", "time", "results")
    class ResultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    step: int
    time: _timestamp_pb2.Timestamp
    results: _containers.ScalarMap[str, float]
    def __init__(self, step: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., results: _Optional[_Mapping[str, float]] = ...) -> None: ...

class DroppedRange(_message.Message):
    __slots__ = ("incarnation", "first_seq", "last_seq")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    first_seq: int
    last_seq: int
    def __init__(self, incarnation: _Optional[int] = ..., first_seq: _Optional[int] = ..., last_seq: _Optional[int] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("schema", "sample", "end", "dropped")
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    schema: int
    sample: Sample
    end: RunEnd
    dropped: DroppedRange
    def __init__(self, schema: _Optional[int] = ..., sample: _Optional[_Union[Sample, _Mapping]] = ..., end: _Optional[_Union[RunEnd, _Mapping]] = ..., dropped: _Optional[_Union[DroppedRange, _Mapping]] = ...) -> None: ...
