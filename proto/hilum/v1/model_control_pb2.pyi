from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ServedModelStatus]
    def __init__(self, models: _Optional[_Iterable[_Union[ServedModelStatus, _Mapping]]] = ...) -> None: ...

class ServedModelStatus(_message.Message):
    __slots__ = ("name", "version", "bundle_digest", "engine", "engine_reason", "previous_digest", "shadow_name", "shadow_version", "shadow_digest", "shadow_agreement", "change_step")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_REASON_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHADOW_NAME_FIELD_NUMBER: _ClassVar[int]
    SHADOW_VERSION_FIELD_NUMBER: _ClassVar[int]
    SHADOW_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHADOW_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    CHANGE_STEP_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    bundle_digest: str
    engine: str
    engine_reason: str
    previous_digest: str
    shadow_name: str
    shadow_version: str
    shadow_digest: str
    shadow_agreement: ShadowAgreement
    change_step: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., bundle_digest: _Optional[str] = ..., engine: _Optional[str] = ..., engine_reason: _Optional[str] = ..., previous_digest: _Optional[str] = ..., shadow_name: _Optional[str] = ..., shadow_version: _Optional[str] = ..., shadow_digest: _Optional[str] = ..., shadow_agreement: _Optional[_Union[ShadowAgreement, _Mapping]] = ..., change_step: _Optional[str] = ...) -> None: ...

class ShadowAgreement(_message.Message):
    __slots__ = ("images", "skipped", "failed", "findings")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    images: int
    skipped: int
    failed: int
    findings: _containers.RepeatedCompositeFieldContainer[FindingAgreement]
    def __init__(self, images: _Optional[int] = ..., skipped: _Optional[int] = ..., failed: _Optional[int] = ..., findings: _Optional[_Iterable[_Union[FindingAgreement, _Mapping]]] = ...) -> None: ...

class FindingAgreement(_message.Message):
    __slots__ = ("slug", "matched", "active_only", "shadow_only", "mean_score_difference")
    SLUG_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_ONLY_FIELD_NUMBER: _ClassVar[int]
    MEAN_SCORE_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    slug: str
    matched: int
    active_only: int
    shadow_only: int
    mean_score_difference: float
    def __init__(self, slug: _Optional[str] = ..., matched: _Optional[int] = ..., active_only: _Optional[int] = ..., shadow_only: _Optional[int] = ..., mean_score_difference: _Optional[float] = ...) -> None: ...

class ActivateModelRequest(_message.Message):
    __slots__ = ("bundle", "model")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    model: str
    def __init__(self, bundle: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class RevertModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class SetShadowRequest(_message.Message):
    __slots__ = ("bundle", "model")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    model: str
    def __init__(self, bundle: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class ModelChangeProgress(_message.Message):
    __slots__ = ("step", "reason", "is_final")
    STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    IS_FINAL_FIELD_NUMBER: _ClassVar[int]
    step: str
    reason: str
    is_final: bool
    def __init__(self, step: _Optional[str] = ..., reason: _Optional[str] = ..., is_final: _Optional[bool] = ...) -> None: ...
