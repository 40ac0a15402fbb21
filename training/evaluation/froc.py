"""Free-response ROC (FROC): sensitivity at stated numbers of false positives per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.evaluation.bootstrap import Counts
from training.evaluation.matching import IOU, MatchResult
from training.evaluation.metrics import iter_row_slices

RATES: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per image at which the sensitivity is reported."""

_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class FrocCurve:
    """Sensitivity and false positives per image as the threshold falls; f64 (n,) each."""

    thresholds: NDArray[np.float64]
    false_positives_per_image: NDArray[np.float64]
    sensitivity: NDArray[np.float64]


def pooled_sensitivity(
    matched: MatchResult, counts: Counts, rates: Sequence[float] = RATES, iou: float = IOU
) -> NDArray[np.float64]:
    """Return the sensitivity over all classes with one common threshold.

    The false positives of each class are counted per image in which the class is fully labelled,
    then summed over the classes. A detector that never reaches a rate keeps its last sensitivity.

    Args:
        matched: matched findings.
        counts: the sets, f64 (R, images).
        rates: false positives per image.
        iou: overlap from which a finding matches a box.

    Returns:
        f64 (R, rates); NaN where a set has no box.
    """
    return _sensitivity_at_rates(matched, counts, rates, iou)


def per_class_sensitivity(
    matched: MatchResult, counts: Counts, rates: Sequence[float] = RATES, iou: float = IOU
) -> NDArray[np.float64]:
    """Return the sensitivity of each class with its own threshold, f64 (R, C, rates)."""
    return np.stack(
        [_sensitivity_at_rates(matched, counts, rates, iou, index=k) for k in range(len(CATALOG))],
        axis=1,
    )


def froc_curve(matched: MatchResult, index: int | None = None, iou: float = IOU) -> FrocCurve:
    """Return the whole curve on the original set, of one class or of all classes."""
    own, boxes = _select_class(matched, index)
    true, false = _cumulative_counts(matched, np.ones((1, len(matched.boxes))), own, iou)
    return FrocCurve(
        thresholds=matched.scores[own][_last_of_ties(matched.scores[own])],
        false_positives_per_image=false[0],
        sensitivity=true[0] / max(1, int(boxes.sum())),
    )


def _select_class(
    matched: MatchResult, index: int | None
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return mask of the findings (N,) and boxes per image (images,) of a class, or of all."""
    if index is None:
        return np.ones(len(matched.scores), bool), matched.boxes.sum(axis=1)
    return matched.classes == index, matched.boxes[:, index]


def _sensitivity_at_rates(
    matched: MatchResult,
    counts: Counts,
    rates: Sequence[float],
    iou: float,
    *,
    index: int | None = None,
) -> NDArray[np.float64]:
    own, of_image = _select_class(matched, index)
    boxes = counts @ of_image
    found = np.full((len(counts), len(rates)), np.nan)
    for rows in iter_row_slices(len(counts), int(own.sum())):
        true, false = _cumulative_counts(matched, counts[rows], own, iou)
        reached = np.hstack((np.zeros((len(true), 1)), true))
        for k, rate in enumerate(rates):
            within = (false <= rate + _ROUNDING).sum(axis=1)
            found[rows, k] = np.take_along_axis(reached, within[:, None], axis=1)[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        share: NDArray[np.float64] = np.where(boxes[:, None] > 0, found / boxes[:, None], np.nan)
    return share


def _cumulative_counts(
    matched: MatchResult,
    counts: Counts,
    own: NDArray[np.bool_],
    iou: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return true positives and false positives per image by threshold, f64 (R, thresholds) each.

    Findings of equal score share one threshold.
    """
    row, last = matched.row_of(iou), _last_of_ties(matched.scores[own])
    weights = counts[:, matched.image[own]]
    true = np.cumsum(weights * matched.true_positives[row][own], axis=1)
    images = np.maximum(counts @ matched.fully_labelled, 1)[:, matched.classes[own]]
    false = np.cumsum(weights * matched.false_positives[row][own] / images, axis=1)
    return true[:, last], false[:, last]


def _last_of_ties(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
