"""What was missed and what was wrongly marked, drawn into the report."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.letterbox import resize
from hilum.catalog import BY_SLUG, CATALOG
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation.matching import MatchResult
from training.evaluation.report.worst_errors import Corners, Miss, corners_of
from training.evaluation.results import Evaluation

_SIDE: Final = 440
"""Longer side of a drawn picture, in pixels."""


def drawn(
    of: Evaluation, entries: Sequence[LabelledImage], matched: MatchResult, misses: Sequence[Miss]
) -> str:
    """The section of the report that draws what was missed and what was wrongly marked."""
    parts = []
    for kind, title in (("missed", "Worst misses"), ("false", "Surest false marks")):
        shown = [miss for miss in misses if miss.kind == kind]
        pictures = "".join(_drawn(miss, entries[miss.image], of, matched) for miss in shown)
        parts.append(f"<h2>{title}</h2>")
        parts.append(f"<div class='row'>{pictures}</div>" if pictures else "<p>There is none.</p>")
    return (
        "".join(parts) + "<p class='note'><span class='label'>Solid</span>: boxes of the readers. "
        "<span class='mark'>Dashed</span>: findings at or above their operating point. Thick: the "
        "box or mark that the picture is shown for.</p>"
    )


def _drawn(miss: Miss, entry: LabelledImage, of: Evaluation, matched: MatchResult) -> str:
    pixels = entry.read_pixels()
    height, width = pixels.shape
    rects = [
        _rect(
            (label.x_min, label.y_min, label.x_max, label.y_max),
            "label",
            width,
            CATALOG[label.index].name,
        )
        for label in entry.labels
    ]
    rects += [_rect(box, "mark", width, said) for box, said in _marks(miss.image, of, matched)]
    if miss.kind == "false":
        said = f"scored {miss.score:.2f}, counts from {miss.threshold:.2f}"
    elif miss.score is None:
        said = "nothing met it at any score"
    else:
        said = f"met by {miss.score:.2f}, counts from {miss.threshold:.2f}"
    name = BY_SLUG[miss.slug].name
    style = "label thick" if miss.kind == "missed" else "mark thick"
    rects.append(_rect(miss.box, style, width, f"{name}: {said}"))
    return (
        f'<figure class="picture"><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(f"{name}: {said}", quote=True)}">'
        f'<image href="{_jpeg(pixels)}" width="{width}" height="{height}"/>{"".join(rects)}</svg>'
        f"<figcaption><b>{name}</b> {said}<br><small>{escape(entry.image_id)}</small></figcaption>"
        "</figure>"
    )


def _marks(image: int, of: Evaluation, matched: MatchResult) -> Iterator[tuple[Corners, str]]:
    """Findings at or above their operating point, and what they say."""
    for k in np.flatnonzero(matched.image == image):
        finding = CATALOG[matched.classes[k]]
        if matched.scores[k] >= of.points[finding.slug]:
            yield corners_of(matched.corners[k]), f"{finding.name} {matched.scores[k]:.2f}"


def _rect(box: Corners, style: str, width: int, said: str) -> str:
    """A box with its words, which browsers show beside the pointer."""
    x_min, y_min, x_max, y_max = box
    stroke = width / 220 * (2.2 if "thick" in style else 1)
    return (
        f'<rect class="{style}" x="{x_min:.1f}" y="{y_min:.1f}" width="{x_max - x_min:.1f}" '
        f'height="{y_max - y_min:.1f}" stroke-width="{stroke:.1f}">'
        f"<title>{escape(said)}</title></rect>"
    )


def _jpeg(pixels: NDArray[np.uint8]) -> str:
    scale = min(1.0, _SIDE / max(pixels.shape))
    height, width = (max(1, round(side * scale)) for side in pixels.shape)
    small = resize(pixels, height, width)
    done, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 82])
    if not done:
        raise TrainingError(f"a picture of shape {pixels.shape} cannot be drawn")
    return "data:image/jpeg;base64," + base64.b64encode(bytes(encoded)).decode()
