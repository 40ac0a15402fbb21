"""Average precision as COCO defines it (101 recalls, interpolated), for many sets at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation.bootstrap import Counts, MetricFunction
from training.evaluation.matching import Found, MatchResult, match

_RECALLS: Final = np.linspace(0.0, 1.0, 101)
_TINY: Final = np.spacing(1)
_CELLS: Final = 4_000_000
"""Sets times detections that are worked on at once; bounds the memory."""


def mean_average_precision(entries: Sequence[LabelledImage], found: Found, iou: float) -> float:
    """Average precision, averaged over the classes that have a box.

    Raises:
        TrainingError: no image, or not one labelled box.
    """
    matched = match(entries, found, (iou,))
    if not len(matched.box_image):
        raise TrainingError("no image has a labelled box: there is no precision to average")
    return float(mean_precision(matched, (iou,))(np.ones((1, len(entries))))[0])


def mean_precision(matched: MatchResult, ious: Sequence[float]) -> MetricFunction:
    """Mean average precision, of what is matched already."""

    def figure(counts: Counts) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = over_classes(average_precision(matched, counts, ious)).mean(0)
        return mean

    return figure


def average_precision(
    matched: MatchResult, counts: Counts, ious: Sequence[float]
) -> NDArray[np.float64]:
    """Average precision per overlap and class, f64 (T, R, C); NaN where a set has no box of it.

    COCO's own, on every set: the library's order of equal scores, its 101 recalls, its
    interpolation.
    """
    boxes = counts @ matched.boxes
    result = np.full((len(ious), *boxes.shape), np.nan)
    for k in range(len(CATALOG)):
        own = np.flatnonzero(matched.classes == k)
        hits = [matched.hits[matched.at(iou)][own] for iou in ious]
        known = matched.known[matched.image[own], k]
        for rows in chunks(len(counts), len(own)):
            weights = counts[rows][:, matched.image[own]]
            judged = np.cumsum(weights * known, axis=1)
            for t, hit in enumerate(hits):
                true = np.cumsum(weights[:, hit], axis=1)
                # Where the class may be hidden, only what met a box is judged.
                marked = judged[:, hit] + np.cumsum(weights[:, hit] * ~known[hit], axis=1)
                result[t, rows, k] = _area(true, marked, boxes[rows, k])
    return result


def _area(
    true: NDArray[np.float64], marked: NDArray[np.float64], boxes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area under the interpolated curve, f64 (R,).

    Precision matters only where recall rises, so at hits. Every one of the 101 recalls takes the
    best precision at or beyond the first hit that reaches it.

    Args:
        true: f64 (R, hits), boxes found down to each hit's score.
        marked: f64 (R, hits), findings judged down to there, right and wrong.
        boxes: f64 (R,), how many there are to find.
    """
    precision = true / (marked + _TINY)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = true / boxes[:, None]
    reached = np.searchsorted(_RECALLS, recall, side="right")
    newly = np.diff(reached, axis=1, prepend=0)
    return np.where(boxes > 0, (best * newly).sum(axis=1) / len(_RECALLS), np.nan)


def over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis, of what can be told; NaN where nothing can."""
    told = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(told, values, 0).sum(axis=-1) / told.sum(axis=-1)
    return mean


def chunks(rows: int, columns: int) -> Iterator[slice]:
    """Rows in parts of at most a bounded number of cells."""
    step = max(1, _CELLS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, start + step)
