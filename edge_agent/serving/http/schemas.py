"""The JSON of the HTTP face: what may be asked, and what is answered."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edge_agent.core.findings import Box, Finding
from edge_agent.core.radiograph import ImageFacts
from edge_agent.engines.model import LoadedModel
from edge_agent.serving.http.errors import ErrorDetail, invalid_options
from edge_agent.serving.types import DetectionResult
from hilum.catalog import BY_SLUG, CATALOG, Concept

_DIGITS: Final = 6

_Milliseconds = Annotated[float, AfterValidator(lambda spent_ms: round(spent_ms, 3))]


class Options(BaseModel):
    """What a caller may ask for beside the image: in the query or as form fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    threshold: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Score threshold for all findings, instead of each one's own operating point."""
    priority: Literal["routine", "stat"] = "routine"
    """`stat` is looked at before `routine`."""
    timeout_s: Annotated[float, Field(gt=0, le=600)] | None = None
    """How long the caller waits. Work that has not begun by then is not begun."""
    request_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Chosen by the caller and returned unchanged; made by the agent where absent."""
    model: Annotated[str, Field(max_length=128)] = ""
    """Name of the model that is asked for; empty means the agent's one model."""

    @classmethod
    def parse(cls, values: dict[str, str]) -> Self:
        """Read them from their text.

        Raises:
            InvalidRequest: an option is unknown or out of its range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise invalid_options(error.errors()) from None


class _Out(BaseModel):
    model_config = ConfigDict(
        frozen=True, use_attribute_docstrings=True, populate_by_name=True, from_attributes=True
    )


class Prediction(_Out):
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

    @classmethod
    def of(cls, finding: Finding, rows: int, columns: int) -> Self:
        """Convert a finding on an image of `rows` x `columns` pixels."""
        kind, box = CATALOG[finding.index], finding.box
        return cls(
            slug=kind.slug,
            confidence=round(finding.score, _DIGITS),
            bbox=(
                _fraction(box.x_min, columns),
                _fraction(box.y_min, rows),
                _fraction(box.x_max, columns),
                _fraction(box.y_max, rows),
            ),
            name=kind.name,
            index=kind.index,
            concept=kind.concept,
            box=box,
        )


class WarningOut(_Out):
    """Something to be wary of; `code` is a `hilum.codes.WarningCode`."""

    code: str
    message: str


class TimingsOut(_Out):
    """Milliseconds per stage."""

    decode_ms: _Milliseconds
    queue_ms: _Milliseconds
    infer_ms: _Milliseconds
    postprocess_ms: _Milliseconds
    total_ms: _Milliseconds


class PredictResponse(_Out):
    """The findings of one study image."""

    request_id: str
    predictions: list[Prediction]
    """By falling confidence. Empty means: looked, and nothing reached its threshold."""
    inference_time: float
    """Seconds that the model itself took."""
    image: ImageFacts
    warnings: list[WarningOut]
    bundle_digest: str
    """SHA-256 of the manifest of the model that answered."""
    engine: str
    """Engine variant that answered, such as `openvino-int8`."""
    timings: TimingsOut

    @classmethod
    def of(cls, answer: DetectionResult) -> Self:
        """Convert."""
        facts = answer.image
        return cls(
            request_id=answer.request_id,
            predictions=[Prediction.of(f, facts.rows, facts.columns) for f in answer.findings],
            inference_time=round(answer.timings.infer_ms / 1e3, _DIGITS),
            image=answer.image,
            warnings=[WarningOut.model_validate(warning) for warning in answer.warnings],
            bundle_digest=answer.bundle_digest,
            engine=answer.engine,
            timings=TimingsOut.model_validate(answer.timings),
        )


class BatchItem(_Out):
    """One file of a batch: either `result` or `error`."""

    index: int
    """Position among the files sent, from 0."""
    status: int
    """The HTTP status that /predict would have had."""
    result: PredictResponse | None = None
    error: ErrorDetail | None = None


class BatchResponse(_Out):
    """One item per file, in the order sent."""

    results: list[BatchItem]


class ModelFindingOut(_Out):
    """One kind of finding that the model knows."""

    index: int
    slug: str
    name: str
    concept: Concept
    operating_point: float
    """Score from which on it is reported, unless the caller says otherwise."""


class ModelInfo(_Out):
    """Which model answers, and on which engine."""

    name: str
    version: str
    bundle_digest: str
    engine: str
    engine_reason: str
    compute_device: str
    input_height: int
    input_width: int
    score_floor: float
    """The lowest score that ever leaves the model."""
    findings: list[ModelFindingOut]
    intended_use: str

    @classmethod
    def of(cls, model: LoadedModel) -> Self:
        """Convert."""
        manifest = model.manifest
        return cls(
            name=manifest.name,
            version=manifest.version,
            bundle_digest=model.digest,
            engine=model.engine.name,
            engine_reason=model.reason,
            compute_device=model.engine.compute_device,
            input_height=manifest.input.height,
            input_width=manifest.input.width,
            score_floor=manifest.head.score_floor,
            findings=[
                ModelFindingOut(
                    index=kind.index,
                    slug=kind.slug,
                    name=kind.name,
                    concept=kind.concept,
                    operating_point=model.variant.operating_points[kind.slug],
                )
                for kind in (BY_SLUG[slug] for slug in manifest.findings)
            ],
            intended_use=manifest.intended_use,
        )


class Status(_Out):
    """What /healthz and /readyz say when all is well."""

    status: str


def _fraction(pixel: float, pixels: int) -> float:
    return round(min(1.0, max(0.0, pixel / pixels)), _DIGITS)
