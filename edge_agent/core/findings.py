"""Raw outputs to findings: threshold, class-wise non-maximum suppression, original pixels.

Agrees with ultralytics' `non_max_suppression` (8.4) on the same outputs; what is ours is one
threshold per class, the letterbox taken back, and an error where a value is not a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_agent.core.geometry import Letterbox
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


def decode_findings(
    outputs: NDArray[np.float32], letterbox: Letterbox, head: HeadSpec, thresholds: ArrayLike
) -> tuple[Finding, ...]:
    """Turn one image's raw outputs into findings, highest score first.

    Args:
        outputs: f32 of shape (4 + classes, anchors): box centre x, centre y, width and height in
            input pixels, then one score per class, after the sigmoid.
        letterbox: where the original image lies in the model's input.
        head: the manifest's rules; no score below its floor ever counts.
        thresholds: shape (classes,); a score at or above its class's threshold counts.

    Returns:
        At most `head.max_findings` findings. Boxes are clipped to the image; one that lies wholly
        in the padding marks nothing in the image and is no finding.

    Raises:
        OutputsInvalid: a wrong shape, a value that is not finite, or a score above 1.
    """
    limits = np.maximum(thresholds, head.score_floor).astype(np.float32)
    _check(outputs, len(limits))
    classes, anchors = _candidates(outputs[BOX_ROWS:], limits, head.multi_label)
    scores = outputs[BOX_ROWS + classes, anchors]
    boxes = _corners(outputs[:BOX_ROWS, anchors])
    clipped = _to_original(boxes, letterbox)
    in_image = np.flatnonzero((clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1]))
    kept = non_max_suppression(
        boxes[in_image],
        scores[in_image],
        classes[in_image],
        iou_threshold=head.iou_threshold,
        limit=head.max_findings,
    )
    return tuple(
        Finding(int(classes[k]), float(scores[k]), Box(*clipped[k].tolist()))
        for k in in_image[kept]
    )


def non_max_suppression(
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
    if outputs[BOX_ROWS:].max(initial=0) > 1:
        raise OutputsInvalid(f"a score of {outputs[BOX_ROWS:].max():.4g} is above 1")


def _candidates(
    scores: NDArray[np.float32], thresholds: NDArray[np.float32], multi_label: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Class and anchor of every score that counts."""
    if multi_label:
        # In one dimension: five times as quick as `nonzero` in two.
        return np.divmod(np.flatnonzero(scores >= thresholds[:, None]), scores.shape[1])
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
