"""Image-level classification: an image's score for a class is that of its highest finding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.evaluation.bootstrap import Counts
from training.evaluation.matching import MatchResult


@dataclass(frozen=True, slots=True, eq=False)
class ImageLevel:
    """Scores and labels per image and class; the last column is any class at all.

    Attributes:
        scores: f64 (images, C + 1), the highest score of a finding; 0 without one.
        is_present: bool (images, C + 1), the image has a labelled box.
        is_certain: bool (images, C + 1), the image has a box, or is fully labelled for the class.
    """

    scores: NDArray[np.float64]
    is_present: NDArray[np.bool_]
    is_certain: NDArray[np.bool_]


ANY_FINDING = len(CATALOG)
"""The column of any class at all."""


def score_images(matched: MatchResult) -> ImageLevel:
    """Return scores and labels per image."""
    scores = np.zeros(matched.boxes.shape)
    np.maximum.at(scores, (matched.image, matched.classes), matched.scores)
    present = matched.boxes > 0
    certain = present | matched.fully_labelled
    some = present.any(axis=1)
    certain_any = some | matched.fully_labelled.all(axis=1)
    return ImageLevel(
        scores=np.column_stack((scores, scores.max(axis=1))),
        is_present=np.column_stack((present, some)),
        is_certain=np.column_stack((certain, certain_any)),
    )


def compute_auroc(images: ImageLevel, counts: Counts) -> NDArray[np.float64]:
    """Return the area under the ROC curve, f64 (R, C + 1).

    It is the probability that an image with the class has a higher score than one without; equal
    scores count half. NaN where a set lacks images of either kind.
    """
    return np.stack([_area(images, counts, k) for k in range(images.scores.shape[1])], axis=1)


def roc_curve(images: ImageLevel, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positive rates on the original set, f64 (n,) each, from 0 to 1."""
    certain = images.is_certain[:, index]
    scores, present = images.scores[certain, index], images.is_present[certain, index]
    levels = np.unique(scores)[::-1]
    over = scores[None] >= levels[:, None]
    with np.errstate(invalid="ignore"):
        false, true = (
            np.append(0, (over & kind).sum(axis=1) / kind.sum()) for kind in (~present, present)
        )
    return false, true


def _area(images: ImageLevel, counts: Counts, index: int) -> NDArray[np.float64]:
    certain = np.flatnonzero(images.is_certain[:, index])
    if not certain.size:
        return np.full(len(counts), np.nan)
    order = certain[np.argsort(images.scores[certain, index], kind="stable")]
    scores, present = images.scores[order, index], images.is_present[order, index]
    weights = counts[:, order]
    without = np.hstack((np.zeros((len(counts), 1)), np.cumsum(weights * ~present, axis=1)))
    first = np.searchsorted(scores, scores, side="left")
    after = np.searchsorted(scores, scores, side="right")
    below = (without[:, first] + without[:, after]) / 2
    positives, negatives = (weights * present).sum(axis=1), without[:, -1]
    pairs = positives * negatives
    with np.errstate(invalid="ignore"):
        area: NDArray[np.float64] = np.where(
            pairs > 0, (weights * present * below).sum(axis=1) / pairs, np.nan
        )
    return area
