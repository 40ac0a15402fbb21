"""Converts the contract's messages to values. An incomplete message is an error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final, cast

from hilum.catalog import BY_SLUG, CatalogFinding
from hilum.client.errors import DetectError
from hilum.client.results import (
    Box,
    Finding,
    ImageFacts,
    ImageWarning,
    Model,
    ModelFinding,
    Result,
    Spacing,
    Timings,
)
from hilum.codes import ClientErrorCode
from hilum.v1 import detection_pb2 as pb

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def to_result(message: pb.DetectResponse, request_id: str) -> Result:
    """Convert the answer to the request `request_id`.

    Raises:
        DetectError: the message answers another request, or is not of the contract's form
            (`wrong_answer`).
    """
    if message.request_id != request_id:
        raise wrong_answer_error("The answer carries another request's id.")
    image = _to_image_facts(message.image)
    # In the generated stub mypy confuses the message Warning with the built-in of that name.
    warnings = cast("Iterable[pb.Warning]", message.warnings)
    _check_origin(message.bundle_digest, message.engine)
    return Result(
        request_id=request_id,
        findings=tuple(_to_finding(finding) for finding in message.findings),
        image=image,
        warnings=tuple(ImageWarning(w.code, w.message) for w in warnings),
        bundle_digest=message.bundle_digest,
        engine=message.engine,
        timings=Timings(
            decode_ms=message.timings.decode_ms,
            queue_ms=message.timings.queue_ms,
            infer_ms=message.timings.infer_ms,
            postprocess_ms=message.timings.postprocess_ms,
            total_ms=message.timings.total_ms,
        ),
    )


def to_model(message: pb.GetModelResponse) -> Model:
    """Convert the description of the model.

    Raises:
        DetectError: the message is not of the contract's form (`wrong_answer`).
    """
    _check_origin(message.bundle_digest, message.engine)
    return Model(
        name=message.name,
        version=message.version,
        bundle_digest=message.bundle_digest,
        engine=message.engine,
        engine_reason=message.engine_reason,
        compute_device=message.compute_device,
        input_height=message.input_height,
        input_width=message.input_width,
        findings=tuple(
            ModelFinding(_find_entry(finding.index, finding.slug), finding.operating_point)
            for finding in message.findings
        ),
        intended_use=message.intended_use,
    )


def wrong_answer_error(message: str) -> DetectError:
    """Return the error of an answer that must not be used."""
    return DetectError(
        ClientErrorCode.WRONG_ANSWER,
        message,
        "Do not use it. Check that the agent's and the client's versions are compatible.",
    )


def _check_origin(bundle_digest: str, engine: str) -> None:
    # An empty message parses as "no findings". It names no model, so no model has made it.
    if not _DIGEST.fullmatch(bundle_digest) or not engine:
        raise wrong_answer_error(
            "The answer does not name the bundle and the engine that computed it."
        )


def _to_image_facts(facts: pb.ImageFacts) -> ImageFacts:
    if not facts.rows or not facts.columns:
        raise wrong_answer_error("The answer does not state the image's size.")
    return ImageFacts(
        rows=facts.rows,
        columns=facts.columns,
        format=facts.format,
        transfer_syntax=facts.transfer_syntax,
        photometric=facts.photometric,
        bits_stored=facts.bits_stored,
        view=facts.view,
        laterality=facts.laterality,
        body_part=facts.body_part,
        manufacturer=facts.manufacturer,
        spacing=Spacing(facts.spacing.row_mm, facts.spacing.column_mm)
        if facts.HasField("spacing")
        else None,
    )


def _to_finding(message: pb.Finding) -> Finding:
    box = Box(message.box.x_min, message.box.y_min, message.box.x_max, message.box.y_max)
    corners = (box.x_min, box.y_min, box.x_max, box.y_max)
    if (
        not all(map(math.isfinite, corners))
        or box.x_min > box.x_max
        or box.y_min > box.y_max
        or not 0 <= message.score <= 1
    ):
        raise wrong_answer_error("The answer has a finding without a valid box or score.")
    return Finding(_find_entry(message.index, message.slug), message.score, box)


def _find_entry(index: int, slug: str) -> CatalogFinding:
    entry = BY_SLUG.get(slug)
    if entry is None or entry.index != index:
        raise wrong_answer_error(
            f"The answer names a finding ({index}, {slug!r}) that is not in the catalogue."
        )
    return entry
