from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_ROUTINE: _ClassVar[Priority]
    PRIORITY_STAT: _ClassVar[Priority]
PRIORITY_UNSPECIFIED: Priority
PRIORITY_ROUTINE: Priority
PRIORITY_STAT: Priority

class DetectRequest(_message.Message):
    __slots__ = ("request_id", "image", "options", "model")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    image: bytes
    options: DetectOptions
    model: str
    def __init__(self, request_id: _Optional[str] = ..., image: _Optional[bytes] = ..., options: _Optional[_Union[DetectOptions, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class DetectOptions(_message.Message):
    __slots__ = ("score_threshold", "priority")
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    score_threshold: float
    priority: Priority
    def __init__(self, score_threshold: _Optional[float] = ..., priority: _Optional[_Union[Priority, str]] = ...) -> None: ...

class DetectResponse(_message.Message):
    __slots__ = ("request_id", "findings", "image", "warnings", "bundle_digest", "engine", "timings")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    image: ImageFacts
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    bundle_digest: str
    engine: str
    timings: Timings
    def __init__(self, request_id: _Optional[str] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., image: _Optional[_Union[ImageFacts, _Mapping]] = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ..., bundle_digest: _Optional[str] = ..., engine: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class DetectStreamResponse(_message.Message):
    __slots__ = ("request_id", "response", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    response: DetectResponse
    error: Error
    def __init__(self, request_id: _Optional[str] = ..., response: _Optional[_Union[DetectResponse, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("index", "slug", "name", "concept", "score", "box")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SLUG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONCEPT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    index: int
    slug: str
    name: str
    concept: Concept
    score: float
    box: Box
    def __init__(self, index: _Optional[int] = ..., slug: _Optional[str] = ..., name: _Optional[str] = ..., concept: _Optional[_Union[Concept, _Mapping]] = ..., score: _Optional[float] = ..., box: _Optional[_Union[Box, _Mapping]] = ...) -> None: ...

class Concept(_message.Message):
    __slots__ = ("value", "scheme", "meaning")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    value: str
    scheme: str
    meaning: str
    def __init__(self, value: _Optional[str] = ..., scheme: _Optional[str] = ..., meaning: _Optional[str] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x_min", "y_min", "x_max", "y_max")
    X_MIN_FIELD_NUMBER: _ClassVar[int]
    Y_MIN_FIELD_NUMBER: _ClassVar[int]
    X_MAX_FIELD_NUMBER: _ClassVar[int]
    Y_MAX_FIELD_NUMBER: _ClassVar[int]
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    def __init__(self, x_min: _Optional[float] = ..., y_min: _Optional[float] = ..., x_max: _Optional[float] = ..., y_max: _Optional[float] = ...) -> None: ...

class ImageFacts(_message.Message):
    __slots__ = ("rows", "columns", "format", "transfer_syntax", "photometric", "bits_stored", "view", "laterality", "body_part", "manufacturer", "spacing")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_SYNTAX_FIELD_NUMBER: _ClassVar[int]
    PHOTOMETRIC_FIELD_NUMBER: _ClassVar[int]
    BITS_STORED_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    LATERALITY_FIELD_NUMBER: _ClassVar[int]
    BODY_PART_FIELD_NUMBER: _ClassVar[int]
    MANUFACTURER_FIELD_NUMBER: _ClassVar[int]
    SPACING_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    format: str
    transfer_syntax: str
    photometric: str
    bits_stored: int
    view: str
    laterality: str
    body_part: str
    manufacturer: str
    spacing: Spacing
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., format: _Optional[str] = ..., transfer_syntax: _Optional[str] = ..., photometric: _Optional[str] = ..., bits_stored: _Optional[int] = ..., view: _Optional[str] = ..., laterality: _Optional[str] = ..., body_part: _Optional[str] = ..., manufacturer: _Optional[str] = ..., spacing: _Optional[_Union[Spacing, _Mapping]] = ...) -> None: ...

class Spacing(_message.Message):
    __slots__ = ("row_mm", "column_mm")
    ROW_MM_FIELD_NUMBER: _ClassVar[int]
    COLUMN_MM_FIELD_NUMBER: _ClassVar[int]
    row_mm: float
    column_mm: float
    def __init__(self, row_mm: _Optional[float] = ..., column_mm: _Optional[float] = ...) -> None: ...

class Warning(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "hint")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    hint: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("decode_ms", "queue_ms", "infer_ms", "postprocess_ms", "total_ms")
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    INFER_MS_FIELD_NUMBER: _ClassVar[int]
    POSTPROCESS_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    decode_ms: float
    queue_ms: float
    infer_ms: float
    postprocess_ms: float
    total_ms: float
    def __init__(self, decode_ms: _Optional[float] = ..., queue_ms: _Optional[float] = ..., infer_ms: _Optional[float] = ..., postprocess_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("name", "version", "bundle_digest", "engine", "engine_reason", "compute_device", "input_height", "input_width", "findings", "intended_use")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_REASON_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DEVICE_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    INTENDED_USE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    bundle_digest: str
    engine: str
    engine_reason: str
    compute_device: str
    input_height: int
    input_width: int
    findings: _containers.RepeatedCompositeFieldContainer[ModelFinding]
    intended_use: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., bundle_digest: _Optional[str] = ..., engine: _Optional[str] = ..., engine_reason: _Optional[str] = ..., compute_device: _Optional[str] = ..., input_height: _Optional[int] = ..., input_width: _Optional[int] = ..., findings: _Optional[_Iterable[_Union[ModelFinding, _Mapping]]] = ..., intended_use: _Optional[str] = ...) -> None: ...

class ModelFinding(_message.Message):
    __slots__ = ("index", "slug", "name", "concept", "operating_point")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SLUG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONCEPT_FIELD_NUMBER: _ClassVar[int]
    OPERATING_POINT_FIELD_NUMBER: _ClassVar[int]
    index: int
    slug: str
    name: str
    concept: Concept
    operating_point: float
    def __init__(self, index: _Optional[int] = ..., slug: _Optional[str] = ..., name: _Optional[str] = ..., concept: _Optional[_Union[Concept, _Mapping]] = ..., operating_point: _Optional[float] = ...) -> None: ...
