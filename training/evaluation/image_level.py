"""Image by image: does it show the class at all? The surest finding is the image's score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.evaluation.bootstrap import Counts
from training.evaluation.matching import MatchResult


@dataclass(frozen=True, slots=True, eq=False)
class ImageLevel:
    """Per image and class, with any class at all as the last column.

    Attributes:
        scores: f64 (images, C + 1), of the surest finding; 0 without one.
        present: bool (images, C + 1), has a labelled box.
        told: bool (images, C + 1), whether presence is certain: it has a box, or nothing is hidden.
    """

    scores: NDArray[np.float64]
    present: NDArray[np.bool_]
    told: NDArray[np.bool_]


ANY = len(CATALOG)
"""The column for any class at all."""


def image_level(matched: MatchResult) -> ImageLevel:
    """What is found and what is there, image by image."""
    scores = np.zeros(matched.boxes.shape)
    np.maximum.at(scores, (matched.image, matched.classes), matched.scores)
    present = matched.boxes > 0
    told = present | matched.known
    some = present.any(axis=1)
    sure = some | matched.known.all(axis=1)
    return ImageLevel(
        scores=np.column_stack((scores, scores.max(axis=1))),
        present=np.column_stack((present, some)),
        told=np.column_stack((told, sure)),
    )


def auroc(images: ImageLevel, counts: Counts) -> NDArray[np.float64]:
    """Area under the ROC curve, f64 (R, C + 1).

    The chance that an image with the class scores higher than one without; equal scores count
    half. NaN where a set lacks images of either kind.
    """
    return np.stack([_area(images, counts, k) for k in range(images.scores.shape[1])], axis=1)


def roc(images: ImageLevel, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates on the set itself, f64 (n,) each, both from 0 to 1."""
    told = images.told[:, index]
    scores, present = images.scores[told, index], images.present[told, index]
    levels = np.unique(scores)[::-1]
    over = scores[None] >= levels[:, None]
    with np.errstate(invalid="ignore"):
        false, true = (
            np.append(0, (over & kind).sum(axis=1) / kind.sum()) for kind in (~present, present)
        )
    return false, true


def _area(images: ImageLevel, counts: Counts, index: int) -> NDArray[np.float64]:
    told = np.flatnonzero(images.told[:, index])
    if not told.size:
        return np.full(len(counts), np.nan)
    order = told[np.argsort(images.scores[told, index], kind="stable")]
    scores, present = images.scores[order, index], images.present[order, index]
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
