"""Raw outputs to findings: threshold, class-wise non-maximum suppression, original pixels.

Agrees with ultralytics' `non_max_suppression` (8.4) on the same outputs; what is ours is one
threshold per class, the letterbox taken back, and an error where a value is not a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edge_agent.core.geometry import Letterbox
from hilum.catalog import CATALOG
from hilum.manifest import HeadSpec

BOX_ROWS = 4
"""Rows of the outputs before the first class: centre x, centre y, width, height."""


class OutputsInvalid(ValueError):
    """Raw outputs that no sound model gives: wrong shape, not finite, a score above 1."""


@dataclass(frozen=True, slots=True)
class Box:
    """Corners in pixels; x to the right, y down, origin at the top left pixel's outer corner."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One detected abnormality: catalogue index, score 0-1, box in original pixels."""

    index: int
    score: float
    box: Box


@dataclass(frozen=True, slots=True)
class Decoding:
    """How outputs become findings: the head's rules and one operating point per class.

    `thresholds[i]` belongs to output class `i`; a score at or above it counts, and so does none
    below `score_floor`.
    """

    thresholds: tuple[float, ...]
    iou_threshold: float = 0.5
    max_findings: int = 100
    multi_label: bool = True
    score_floor: float = 0.0

    @classmethod
    def of(cls, head: HeadSpec, operating_points: Mapping[str, float]) -> Self:
        """The rules of a manifest's head with one variant's operating points (by finding slug)."""
        return cls(
            thresholds=tuple(operating_points[finding.slug] for finding in CATALOG),
            iou_threshold=head.iou_threshold,
            max_findings=head.max_findings,
            multi_label=head.multi_label,
            score_floor=head.score_floor,
        )

    def at(self, threshold: float) -> Self:
        """The same rules with one threshold for all classes; the floor still holds."""
        return replace(self, thresholds=(threshold,) * len(self.thresholds))


def find(
    outputs: NDArray[np.float32], letterbox: Letterbox, decoding: Decoding
) -> tuple[Finding, ...]:
    """Turn one image's raw outputs into findings, highest score first.

    Args:
        outputs: f32 of shape (4 + classes, anchors): box centre x, centre y, width and height in
            input pixels, then one score per class, after the sigmoid.
        letterbox: where the original image lies in the model's input.
        decoding: thresholds and rules; as many thresholds as the outputs have classes.

    Returns:
        At most `max_findings` findings. Boxes are clipped to the image; one that lies wholly in
        the padding marks nothing in the image and is no finding.

    Raises:
        OutputsInvalid: a wrong shape, a value that is not finite, or a score above 1.
    """
    _check(outputs, len(decoding.thresholds))
    classes, anchors = _candidates(outputs[BOX_ROWS:], decoding)
    scores = outputs[BOX_ROWS + classes, anchors]
    boxes = _corners(outputs[:BOX_ROWS, anchors])
    clipped = _to_original(boxes, letterbox)
    in_image = np.flatnonzero((clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1]))
    kept = suppress(
        boxes[in_image],
        scores[in_image],
        classes[in_image],
        iou_threshold=decoding.iou_threshold,
        limit=decoding.max_findings,
    )
    return tuple(
        Finding(int(classes[k]), float(scores[k]), Box(*clipped[k].tolist()))
        for k in in_image[kept]
    )


def suppress(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float32],
    classes: NDArray[np.intp],
    *,
    iou_threshold: float,
    limit: int,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression within each class.

    Equal scores are ordered by class and corners, so the result does not depend on the order in
    which boxes come.

    Args:
        boxes: f64 of shape (K, 4), corners.
        scores: f32 of shape (K,).
        classes: integers of shape (K,).
        iou_threshold: a box that overlaps a better one of its class by more than this is dropped.
        limit: stop after this many.

    Returns:
        Indexes of the boxes that stay, best first.
    """
    waiting = np.lexsort((*boxes.T[::-1], classes, -scores))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while waiting.size and len(kept) < limit:
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        sides = np.minimum(boxes[best, 2:], boxes[waiting, 2:])
        sides -= np.maximum(boxes[best, :2], boxes[waiting, :2])
        shared = np.prod(sides.clip(min=0), axis=1)
        union = areas[best] + areas[waiting] - shared
        repeats = (classes[waiting] == classes[best]) & (shared > iou_threshold * union)
        waiting = waiting[~repeats]
    return np.array(kept, dtype=np.intp)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    width = min(a.x_max, b.x_max) - max(a.x_min, b.x_min)
    height = min(a.y_max, b.y_max) - max(a.y_min, b.y_min)
    shared = max(0.0, width) * max(0.0, height)
    union = _area(a) + _area(b) - shared
    return shared / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return (box.x_max - box.x_min) * (box.y_max - box.y_min)


def _check(outputs: NDArray[np.float32], classes: int) -> None:
    if outputs.shape != (BOX_ROWS + classes, *outputs.shape[-1:]):
        raise OutputsInvalid(
            f"outputs of shape {outputs.shape}, expected ({BOX_ROWS + classes}, anchors)"
        )
    if not np.isfinite(outputs).all():
        bad = int(np.count_nonzero(~np.isfinite(outputs)))
        raise OutputsInvalid(f"{bad} of {outputs.size} output values are not finite")


def _candidates(
    scores: NDArray[np.float32], decoding: Decoding
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Class and anchor of every score that counts."""
    if scores.size and scores.max() > 1:
        raise OutputsInvalid(f"a score of {scores.max():.4g} is above 1")
    thresholds = np.maximum(decoding.thresholds, decoding.score_floor).astype(np.float32)
    if decoding.multi_label:
        classes, anchors = np.nonzero(scores >= thresholds[:, None])
        return classes, anchors
    best = scores.argmax(axis=0)
    anchors = np.flatnonzero(scores.max(axis=0) >= thresholds[best])
    return best[anchors], anchors


def _corners(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """(4, K) centre x, centre y, width, height to (K, 4) corners, still input pixels."""
    centre = boxes[:2].T.astype(np.float64)
    half = boxes[2:].T.astype(np.float64) / 2
    return np.hstack((centre - half, centre + half))


def _to_original(boxes: NDArray[np.float64], letterbox: Letterbox) -> NDArray[np.float64]:
    """(K, 4) corners in input pixels to original pixels, clipped to the image."""
    offset = np.tile((letterbox.left, letterbox.top), 2)
    scale = np.tile((letterbox.scale_x, letterbox.scale_y), 2)
    limits = np.tile((letterbox.columns, letterbox.rows), 2)
    original: NDArray[np.float64] = ((boxes - offset) / scale).clip(0, limits)
    return original
