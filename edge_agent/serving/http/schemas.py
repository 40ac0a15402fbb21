"""The JSON of the HTTP API: a request's options, and the responses."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edge_agent.core.findings import Box
from edge_agent.core.radiograph import ImageFacts
from edge_agent.serving.http.errors import ErrorDetail, invalid_options_error
from hilum.catalog import Concept

_Milliseconds = Annotated[float, AfterValidator(lambda spent_ms: round(spent_ms, 3))]


class Options(BaseModel):
    """The options of a request beside its image, in the query or as form fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    threshold: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Score threshold for all findings, in place of each finding's own operating point."""
    priority: Literal["routine", "stat"] = "routine"
    """`stat` requests are processed before `routine` ones."""
    timeout_s: Annotated[float, Field(gt=0, le=600)] | None = None
    """How long the caller waits. Work that has not started by then is not started."""
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Chosen by the caller and returned unchanged; made by the agent if absent."""
    model: Annotated[str, Field(max_length=128)] = ""
    """Name of the requested model; empty means the agent's one model."""

    @classmethod
    def parse(cls, values: dict[str, str]) -> Self:
        """Parse options from their text.

        Raises:
            InvalidRequest: an option is unknown or out of its range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise invalid_options_error(error.errors()) from None


class _Response(BaseModel):
    model_config = ConfigDict(
        frozen=True, use_attribute_docstrings=True, populate_by_name=True, from_attributes=True
    )


class Prediction(_Response):
    """One finding."""

    slug: Annotated[str, Field(alias="class")]
    """The catalogue's stable identifier, such as `pneumothorax`."""
    confidence: float
    """The model's score, 0-1. Not a probability."""
    bbox: tuple[float, float, float, float]
    """x_min, y_min, x_max, y_max as fractions of the image's width and height."""
    name: str
    index: int
    concept: Concept
    box: Box


class ImageWarning(_Response):
    """A reason for caution with an image that was accepted; `code` is stable."""

    code: str
    """See `hilum.codes.WarningCode`."""
    message: str


class Timings(_Response):
    """Milliseconds per stage."""

    decode_ms: _Milliseconds
    queue_ms: _Milliseconds
    infer_ms: _Milliseconds
    postprocess_ms: _Milliseconds
    total_ms: _Milliseconds


class PredictResponse(_Response):
    """The findings on one study image."""

    request_id: str
    predictions: list[Prediction]
    """By falling confidence. Empty: the image was processed, and no score reached its threshold."""
    inference_time: float
    """Seconds that the model took."""
    image: ImageFacts
    warnings: list[ImageWarning]
    bundle_digest: str
    """SHA-256 of the manifest of the model that answered."""
    engine: str
    """Engine variant that answered, such as `openvino-int8`."""
    timings: Timings


class BatchItem(_Response):
    """One file of a batch: either `result` or `error`."""

    index: int
    """Position among the files sent, from 0."""
    status: int
    """The HTTP status that /predict would have had."""
    result: PredictResponse | None = None
    error: ErrorDetail | None = None


class BatchResponse(_Response):
    """One item per file, in the order sent."""

    results: list[BatchItem]


class ModelFinding(_Response):
    """One kind of finding that the model detects."""

    index: int
    slug: str
    name: str
    concept: Concept
    operating_point: float
    """The score threshold that applies unless the caller gives another."""


class ModelInfo(_Response):
    """The model in use and its engine."""

    name: str
    version: str
    bundle_digest: str
    engine: str
    engine_reason: str
    compute_device: str
    input_height: int
    input_width: int
    score_floor: float
    """The lowest score that the model reports, whatever the threshold."""
    findings: list[ModelFinding]
    intended_use: str


class Status(_Response):
    """The response of /healthz and /readyz when all is well."""

    status: str
