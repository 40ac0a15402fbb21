"""FROC: what share of the boxes is found where so many false marks per image are put up with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.evaluation.bootstrap import Counts
from training.evaluation.matching import IOU, MatchResult
from training.evaluation.metrics import chunks

RATES: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False marks per image at which sensitivity is told."""

_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Sensitivity over false marks per image as the threshold falls; f64 (n,) each."""

    thresholds: NDArray[np.float64]
    false: NDArray[np.float64]
    sensitivity: NDArray[np.float64]


def pooled(
    matched: MatchResult, counts: Counts, rates: Sequence[float] = RATES, iou: float = IOU
) -> NDArray[np.float64]:
    """Sensitivity over all classes with one threshold for all, f64 (R, rates).

    The false marks of each class are counted per image in which they can be told, then summed over
    the classes. A detector that never marks as much keeps its last sensitivity. NaN where a set has
    no box.
    """
    return _in_parts(matched, counts, rates, iou)


def per_class(
    matched: MatchResult, counts: Counts, rates: Sequence[float] = RATES, iou: float = IOU
) -> NDArray[np.float64]:
    """The same for each class alone, f64 (R, C, rates)."""
    return np.stack(
        [_in_parts(matched, counts, rates, iou, index=k) for k in range(len(CATALOG))], axis=1
    )


def curve(matched: MatchResult, index: int | None = None, iou: float = IOU) -> Curve:
    """The whole curve on the set itself, of one class or of all together."""
    own, boxes = _of(matched, index)
    true, false = _rise(matched, np.ones((1, len(matched.boxes))), own, iou)
    return Curve(
        thresholds=matched.scores[own][_last_of_equals(matched.scores[own])],
        false=false[0],
        sensitivity=true[0] / max(1, int(boxes.sum())),
    )


def _of(matched: MatchResult, index: int | None) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which findings (N,) and how many boxes per image (images,) are of a class, or of any."""
    if index is None:
        return np.ones(len(matched.scores), bool), matched.boxes.sum(axis=1)
    return matched.classes == index, matched.boxes[:, index]


def _in_parts(
    matched: MatchResult,
    counts: Counts,
    rates: Sequence[float],
    iou: float,
    *,
    index: int | None = None,
) -> NDArray[np.float64]:
    own, of_image = _of(matched, index)
    boxes = counts @ of_image
    found = np.full((len(counts), len(rates)), np.nan)
    for rows in chunks(len(counts), int(own.sum())):
        true, false = _rise(matched, counts[rows], own, iou)
        reached = np.hstack((np.zeros((len(true), 1)), true))
        for k, rate in enumerate(rates):
            within = (false <= rate + _ROUNDING).sum(axis=1)
            found[rows, k] = np.take_along_axis(reached, within[:, None], axis=1)[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        share: NDArray[np.float64] = np.where(boxes[:, None] > 0, found / boxes[:, None], np.nan)
    return share


def _rise(
    matched: MatchResult,
    counts: Counts,
    own: NDArray[np.bool_],
    iou: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes found and false marks per image as the threshold falls, f64 (R, thresholds) each.

    Findings of equal score come together: no threshold parts them.
    """
    row, last = matched.at(iou), _last_of_equals(matched.scores[own])
    weights = counts[:, matched.image[own]]
    true = np.cumsum(weights * matched.hits[row][own], axis=1)
    images = np.maximum(counts @ matched.known, 1)[:, matched.classes[own]]
    false = np.cumsum(weights * matched.false[row][own] / images, axis=1)
    return true[:, last], false[:, last]


def _last_of_equals(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
