"""Prepares the images of the worst errors for the report: pixels, boxes and captions."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.letterbox import resize
from hilum.catalog import BY_SLUG, CATALOG
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation.matching import MatchResult
from training.evaluation.report.worst_errors import Corners, ErrorCase, to_corners
from training.evaluation.results import Evaluation

_SIDE: Final = 440
"""Longer side of an image in the report, in pixels."""


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """A box in pixels of the image, its style (CSS classes), and its tooltip."""

    x: float
    y: float
    width: float
    height: float
    style: str
    tooltip: str


@dataclass(frozen=True, slots=True)
class ErrorImage:
    """An image with its labelled boxes, its findings, and the error that it is shown for."""

    image_id: str
    uri: str
    width: int
    height: int
    finding: str
    outcome: str
    boxes: tuple[DrawnBox, ...]


def draw_error(
    case: ErrorCase, entry: LabelledImage, evaluation: Evaluation, matched: MatchResult
) -> ErrorImage:
    """Return the image of an error with everything that is drawn on it.

    Args:
        case: the error.
        entry: the labelled image of the error.
        evaluation: gives the operating points.
        matched: the matched findings.
    """
    pixels = entry.read_pixels()
    height, width = pixels.shape
    name, outcome = BY_SLUG[case.slug].name, _describe(case)
    labels = [
        _box(
            (label.x_min, label.y_min, label.x_max, label.y_max), "label", CATALOG[label.index].name
        )
        for label in entry.labels
    ]
    findings = [_box(*found) for found in _findings(case.image, evaluation, matched)]
    style = "label thick" if case.kind == "false_negative" else "finding thick"
    return ErrorImage(
        image_id=entry.image_id,
        uri=_jpeg_uri(pixels),
        width=width,
        height=height,
        finding=name,
        outcome=outcome,
        boxes=(*labels, *findings, _box(case.box, style, f"{name}: {outcome}")),
    )


def draw_errors(
    kind: str,
    cases: Sequence[ErrorCase],
    entries: Sequence[LabelledImage],
    evaluation: Evaluation,
    matched: MatchResult,
) -> list[ErrorImage]:
    """Return the images of the errors of one kind, in order."""
    return [
        draw_error(case, entries[case.image], evaluation, matched)
        for case in cases
        if case.kind == kind
    ]


def _describe(case: ErrorCase) -> str:
    if case.score is None:
        return "no finding matches at any score"
    if case.kind == "false_positive":
        return f"score {case.score:.2f}, threshold {case.threshold:.2f}"
    return f"matched at score {case.score:.2f}, threshold {case.threshold:.2f}"


def _findings(
    image: int, evaluation: Evaluation, matched: MatchResult
) -> Iterator[tuple[Corners, str, str]]:
    """Yield the findings of an image at or above their operating point."""
    for k in np.flatnonzero(matched.image == image):
        finding = CATALOG[matched.classes[k]]
        if matched.scores[k] >= evaluation.points[finding.slug]:
            tooltip = f"{finding.name} {matched.scores[k]:.2f}"
            yield to_corners(matched.corners[k]), "finding", tooltip


def _box(corners: Corners, style: str, tooltip: str) -> DrawnBox:
    x_min, y_min, x_max, y_max = corners
    return DrawnBox(x_min, y_min, x_max - x_min, y_max - y_min, style, tooltip)


def _jpeg_uri(pixels: NDArray[np.uint8]) -> str:
    scale = min(1.0, _SIDE / max(pixels.shape))
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    small = resize(pixels, height, width)
    done, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 82])
    if not done:
        raise TrainingError(f"an image of shape {pixels.shape} cannot be encoded as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(bytes(encoded)).decode()
