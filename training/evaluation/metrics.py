"""Average precision as COCO defines it (101 recall levels, interpolated), for many sets at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation.bootstrap import Counts, MetricFunction
from training.evaluation.matching import FindingsPerImage, MatchResult, match_findings

_RECALLS: Final = np.linspace(0.0, 1.0, 101)
_TINY: Final = np.spacing(1)
_CELLS: Final = 4_000_000
"""Sets times findings that are computed at once; bounds the memory."""


def mean_average_precision(
    entries: Sequence[LabelledImage], found: FindingsPerImage, iou: float
) -> float:
    """Return the average precision, averaged over the classes that have a box.

    Raises:
        TrainingError: there is no image, or no labelled box.
    """
    matched = match_findings(entries, found, (iou,))
    if not len(matched.box_image):
        raise TrainingError("no image has a labelled box: there is no average precision")
    return float(mean_precision(matched, (iou,))(np.ones((1, len(entries))))[0])


def mean_precision(matched: MatchResult, ious: Sequence[float]) -> MetricFunction:
    """Return mean average precision as a function of the set, for matched findings."""

    def metric(counts: Counts) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = mean_over_classes(
            average_precision(matched, counts, ious)
        ).mean(0)
        return mean

    return metric


def average_precision(
    matched: MatchResult, counts: Counts, ious: Sequence[float]
) -> NDArray[np.float64]:
    """Return the average precision per overlap and class.

    The order of equal scores, the 101 recall levels and the interpolation are those of the COCO
    library.

    Args:
        matched: matched findings.
        counts: the sets, f64 (R, images).
        ious: the overlaps.

    Returns:
        f64 (T, R, C); NaN where a set has no box of the class.
    """
    boxes = counts @ matched.boxes
    result = np.full((len(ious), *boxes.shape), np.nan)
    for k in range(len(CATALOG)):
        own = np.flatnonzero(matched.classes == k)
        hits = [matched.true_positives[matched.row_of(iou)][own] for iou in ious]
        known = matched.fully_labelled[matched.image[own], k]
        for rows in iter_row_slices(len(counts), len(own)):
            weights = counts[rows][:, matched.image[own]]
            judged = np.cumsum(weights * known, axis=1)
            for t, hit in enumerate(hits):
                true = np.cumsum(weights[:, hit], axis=1)
                # Where the class may be unlabelled, only true positives count.
                marked = judged[:, hit] + np.cumsum(weights[:, hit] * ~known[hit], axis=1)
                result[t, rows, k] = _area(true, marked, boxes[rows, k])
    return result


def _area(
    true: NDArray[np.float64], judged: NDArray[np.float64], boxes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the area under the interpolated curve, f64 (R,).

    Precision matters only where recall rises, so at true positives (hits). Each of the 101 recall
    levels takes the best precision at or beyond the first hit that reaches it.

    Args:
        true: f64 (R, hits), true positives down to each hit's score.
        judged: f64 (R, hits), true and false positives down to each hit's score.
        boxes: f64 (R,), number of labelled boxes.
    """
    precision = true / (judged + _TINY)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = true / boxes[:, None]
    reached = np.searchsorted(_RECALLS, recall, side="right")
    newly = np.diff(reached, axis=1, prepend=0)
    return np.where(boxes > 0, (best * newly).sum(axis=1) / len(_RECALLS), np.nan)


def mean_over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis without NaN; NaN where there is nothing else."""
    is_defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(is_defined, values, 0).sum(axis=-1) / is_defined.sum(
            axis=-1
        )
    return mean


def iter_row_slices(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices of the rows, each of a bounded number of cells."""
    step = max(1, _CELLS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, start + step)
