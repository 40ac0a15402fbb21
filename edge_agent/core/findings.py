"""Raw outputs to findings: thresholds, class-wise non-maximum suppression, original pixels.

Agrees with ultralytics' `non_max_suppression` (8.4) on the same outputs. In addition, there is one
threshold per class, the letterbox is undone, and a value that is not a number is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_agent.core.geometry import Letterbox
from hilum.catalog import CATALOG
from hilum.manifest import HeadSpec

BOX_ROWS = 4
"""Rows of the outputs before the first class: centre x, centre y, width, height."""
ALL_INDEXES = tuple(range(len(CATALOG)))
"""The catalogue's indexes of a model that has every finding."""
_MAX_TABLE = 256
"""The most boxes whose overlaps are computed at once."""
MAX_CANDIDATES = 300
"""The most findings from the score floor. It bounds the time for outputs without any sense."""


class OutputsInvalid(ValueError):
    """Raw outputs that no valid model gives: a wrong shape, not finite, a score above 1."""


@dataclass(frozen=True, slots=True)
class Box:
    """Two corners in pixels; x to the right, y down, from the image's top left corner."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A detected abnormality: catalogue index, score from 0 to 1, box in original pixels."""

    index: int
    score: float
    box: Box


def decode_findings(
    outputs: NDArray[np.float32],
    letterbox: Letterbox,
    head: HeadSpec,
    thresholds: ArrayLike,
    catalogue_indexes: Sequence[int] = ALL_INDEXES,
) -> tuple[Finding, ...]:
    """Decode one image's raw outputs into findings, highest score first.

    Args:
        outputs: f32 of shape (4 + classes, anchors): box centre x, centre y, width and height in
            input pixels, then one score per class, after the sigmoid.
        letterbox: position and size of the original image in the model's input.
        head: the manifest's rules; scores below its floor never count.
        thresholds: shape (classes,); a score at or above its class's threshold counts.
        catalogue_indexes: the catalogue's index of each class, in the order of the outputs' rows;
            by default the model has every finding of the catalogue.

    Returns:
        At most `head.max_findings` findings. Boxes are clipped to the image; a box that is wholly
        in the padding is dropped.

    Raises:
        OutputsInvalid: a wrong shape, a value that is not finite, or a score above 1.
        ValueError: there are not as many thresholds as catalogue indexes.
    """
    return _decode(outputs, letterbox, head, thresholds, catalogue_indexes, most=head.max_findings)


def decode_candidates(
    outputs: NDArray[np.float32],
    letterbox: Letterbox,
    head: HeadSpec,
    catalogue_indexes: Sequence[int] = ALL_INDEXES,
) -> tuple[Finding, ...]:
    """Decode one image's raw outputs into all findings from the head's score floor.

    Args:
        outputs, letterbox, head, catalogue_indexes: as for `decode_findings`.

    Returns:
        At most `MAX_CANDIDATES` findings, highest score first.

    Raises:
        OutputsInvalid: as `decode_findings`.
    """
    floors = np.full(len(catalogue_indexes), head.score_floor)
    return _decode(outputs, letterbox, head, floors, catalogue_indexes, most=MAX_CANDIDATES)


def select_findings(
    candidates: Sequence[Finding],
    head: HeadSpec,
    thresholds: Sequence[float],
    catalogue_indexes: Sequence[int] = ALL_INDEXES,
) -> tuple[Finding, ...] | None:
    """Select the findings that reach their class's threshold.

    Suppression within a class is greedy by falling score, so a finding never depends on those
    below it: the selection equals `decode_findings` with these thresholds.

    Args:
        candidates: what `decode_candidates` returned.
        head, thresholds, catalogue_indexes: as for `decode_findings`.

    Returns:
        The findings, or None if the candidates were cut at `MAX_CANDIDATES`. Findings may then be
        missing, and `decode_findings` has to be used.
    """
    if len(candidates) >= MAX_CANDIDATES:
        return None
    # The outputs are f32, so the thresholds are compared as f32, too.
    limits = np.maximum(thresholds, head.score_floor).astype(np.float32)
    limit_of = dict(zip(catalogue_indexes, limits.tolist(), strict=True))
    selected = (found for found in candidates if found.score >= limit_of[found.index])
    return tuple(islice(selected, head.max_findings))


def _decode(
    outputs: NDArray[np.float32],
    letterbox: Letterbox,
    head: HeadSpec,
    thresholds: ArrayLike,
    catalogue_indexes: Sequence[int],
    *,
    most: int,
) -> tuple[Finding, ...]:
    limits = np.maximum(thresholds, head.score_floor).astype(np.float32)
    if len(limits) != len(catalogue_indexes):
        raise ValueError(f"{len(limits)} thresholds for {len(catalogue_indexes)} classes")
    _check_outputs(outputs, len(limits))
    classes, anchors = _find_candidates(outputs[BOX_ROWS:], limits, head.multi_label)
    scores = outputs[BOX_ROWS + classes, anchors]
    boxes = _to_corners(outputs[:BOX_ROWS, anchors])
    clipped = _to_original(boxes, letterbox)
    in_image = np.flatnonzero((clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1]))
    kept = non_max_suppression(
        boxes[in_image],
        scores[in_image],
        classes[in_image],
        iou_threshold=head.iou_threshold,
        limit=most,
    )
    return tuple(
        Finding(catalogue_indexes[classes[k]], float(scores[k]), Box(*clipped[k].tolist()))
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
    """Drop boxes that overlap a better one of their class (greedy non-maximum suppression).

    Equal scores are ordered by class and corners, so the result does not depend on the order of
    the boxes.

    Args:
        boxes: f64 of shape (K, 4), corners.
        scores: f32 of shape (K,).
        classes: integers of shape (K,).
        iou_threshold: largest intersection over union that two boxes of a class may have.
        limit: largest number of boxes to keep.

    Returns:
        Indexes of the boxes that are kept, best first.
    """
    waiting = np.lexsort((*boxes.T[::-1], classes, -scores))
    boxes, classes = boxes[waiting], classes[waiting]
    kept: list[int] = []
    # A whole table of overlaps takes a quarter of the time of a row for each kept box.
    if len(waiting) <= _MAX_TABLE:
        repeats = _find_repeats(boxes[:, None], classes[:, None], boxes, classes, iou_threshold)
        is_left = np.ones(len(waiting), bool)
        for k in range(len(waiting)):
            if is_left[k] and len(kept) < limit:
                kept.append(k)
                is_left &= ~repeats[k]
        return waiting[kept]
    left = np.arange(len(waiting))
    while left.size and len(kept) < limit:
        best, left = left[0], left[1:]
        kept.append(int(best))
        repeats = _find_repeats(
            boxes[best], classes[best], boxes[left], classes[left], iou_threshold
        )
        left = left[~repeats]
    return waiting[kept]


def _find_repeats(
    best: NDArray[np.float64],
    best_class: NDArray[np.intp] | np.intp,
    boxes: NDArray[np.float64],
    classes: NDArray[np.intp],
    iou_threshold: float,
) -> NDArray[np.bool_]:
    """Return which boxes (K, 4) overlap `best` too much and are of its class; broadcasts."""
    sides = np.minimum(best[..., 2:], boxes[:, 2:]) - np.maximum(best[..., :2], boxes[:, :2])
    sides = sides.clip(min=0)
    shared = sides[..., 0] * sides[..., 1]
    union = _areas(best) + _areas(boxes) - shared
    repeats: NDArray[np.bool_] = (classes == best_class) & (shared > iou_threshold * union)
    return repeats


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return areas


def iou(a: Box, b: Box) -> float:
    """Return the intersection over union of two boxes; 0 where both are empty."""
    width = min(a.x_max, b.x_max) - max(a.x_min, b.x_min)
    height = min(a.y_max, b.y_max) - max(a.y_min, b.y_min)
    shared = max(0.0, width) * max(0.0, height)
    union = _compute_area(a) + _compute_area(b) - shared
    return shared / union if union > 0 else 0.0


def _compute_area(box: Box) -> float:
    return (box.x_max - box.x_min) * (box.y_max - box.y_min)


def _check_outputs(outputs: NDArray[np.float32], classes: int) -> None:
    if outputs.shape != (BOX_ROWS + classes, *outputs.shape[-1:]):
        raise OutputsInvalid(
            f"outputs of shape {outputs.shape}, expected ({BOX_ROWS + classes}, anchors)"
        )
    if not np.isfinite(outputs).all():
        bad = int(np.count_nonzero(~np.isfinite(outputs)))
        raise OutputsInvalid(f"{bad} of {outputs.size} output values are not finite")
    if outputs[BOX_ROWS:].max(initial=0) > 1:
        raise OutputsInvalid(f"a score of {outputs[BOX_ROWS:].max():.4g} is above 1")


def _find_candidates(
    scores: NDArray[np.float32], thresholds: NDArray[np.float32], multi_label: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return class and anchor of every score at or above its threshold."""
    if multi_label:
        # `flatnonzero` and `divmod` take a fifth of the time of `nonzero` in two dimensions.
        return np.divmod(np.flatnonzero(scores >= thresholds[:, None]), scores.shape[1])
    best = scores.argmax(axis=0)
    anchors = np.flatnonzero(scores.max(axis=0) >= thresholds[best])
    return best[anchors], anchors


def _to_corners(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Convert (4, K) centre x, centre y, width, height to (K, 4) corners, in input pixels."""
    centre = boxes[:2].T.astype(np.float64)
    half = boxes[2:].T.astype(np.float64) / 2
    return np.hstack((centre - half, centre + half))


def _to_original(boxes: NDArray[np.float64], letterbox: Letterbox) -> NDArray[np.float64]:
    """Convert (K, 4) corners from input to original pixels, clipped to the image."""
    offset = np.tile((letterbox.left, letterbox.top), 2)
    scale = np.tile((letterbox.scale_x, letterbox.scale_y), 2)
    limits = np.tile((letterbox.columns, letterbox.rows), 2)
    original: NDArray[np.float64] = ((boxes - offset) / scale).clip(0, limits)
    return original
