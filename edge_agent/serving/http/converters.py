"""Converts the agent's own types to the responses of the HTTP API."""

from __future__ import annotations

from typing import Final

from edge_agent.core.findings import Finding
from edge_agent.core.radiograph import ImageFacts
from edge_agent.engines.model import LoadedModel
from edge_agent.serving.http.schemas import (
    ImageWarning,
    ModelFinding,
    ModelInfo,
    Prediction,
    PredictResponse,
    Timings,
)
from edge_agent.serving.types import DetectionResult
from hilum.catalog import BY_SLUG, CATALOG

_DIGITS: Final = 6


def to_predict_response(result: DetectionResult) -> PredictResponse:
    """Convert a detection result."""
    return PredictResponse(
        request_id=result.request_id,
        predictions=[_to_prediction(finding, result.image) for finding in result.findings],
        inference_time=round(result.timings.infer_ms / 1e3, _DIGITS),
        image=result.image,
        warnings=[ImageWarning.model_validate(warning) for warning in result.warnings],
        bundle_digest=result.bundle_digest,
        engine=result.engine,
        timings=Timings.model_validate(result.timings),
    )


def to_model_info(model: LoadedModel) -> ModelInfo:
    """Convert the facts about a model: name, digest, engine and operating points."""
    manifest = model.manifest
    return ModelInfo(
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
            ModelFinding(
                index=entry.index,
                slug=entry.slug,
                name=entry.name,
                concept=entry.concept,
                operating_point=model.variant.operating_points[entry.slug],
            )
            for entry in (BY_SLUG[slug] for slug in manifest.findings)
        ],
        intended_use=manifest.intended_use,
    )


def _to_prediction(finding: Finding, image: ImageFacts) -> Prediction:
    entry, box = CATALOG[finding.index], finding.box
    return Prediction(
        slug=entry.slug,
        confidence=round(finding.score, _DIGITS),
        bbox=(
            _fraction(box.x_min, image.columns),
            _fraction(box.y_min, image.rows),
            _fraction(box.x_max, image.columns),
            _fraction(box.y_max, image.rows),
        ),
        name=entry.name,
        index=entry.index,
        concept=entry.concept,
        box=box,
    )


def _fraction(pixel: float, pixels: int) -> float:
    return round(min(1.0, max(0.0, pixel / pixels)), _DIGITS)
