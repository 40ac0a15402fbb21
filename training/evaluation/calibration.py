"""Are scores what they seem? Expected calibration error over ten equal bins of the score.

For every bin, how often things scored so were right, against their mean score; the error is the
mean of the absolute differences, each bin weighted by how much lies in it (Guo et al., 2017).
Two things can be right: a finding (it met a box) and an image (it shows the class). For images all
are counted, also those that scored 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.evaluation.bootstrap import Counts
from training.evaluation.image_level import ImageLevel
from training.evaluation.matching import IOU, MatchResult

BINS: Final = 10


@dataclass(frozen=True, slots=True, eq=False)
class ReliabilityBins:
    """What lies in each bin, per image and class; f64 (images, C, BINS) each."""

    number: NDArray[np.float64]
    right: NDArray[np.float64]
    score: NDArray[np.float64]

    def reliability(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Number, share that is right and mean score per bin, all classes together, (BINS,)."""
        number, right, score = (
            table.sum(axis=(0, 1)) for table in (self.number, self.right, self.score)
        )
        return number, right / np.maximum(number, 1), score / np.maximum(number, 1)


def of_findings(matched: MatchResult, iou: float = IOU) -> ReliabilityBins:
    """Findings, where it can be told whether they are right."""
    row = matched.at(iou)
    chosen = matched.hits[row] | matched.false[row]
    return _binned(
        matched.boxes.shape,
        matched.image[chosen],
        matched.classes[chosen],
        matched.scores[chosen],
        matched.hits[row][chosen],
    )


def of_images(images: ImageLevel) -> ReliabilityBins:
    """Images, where it can be told whether they show the class."""
    image, index = np.nonzero(images.told[:, : len(CATALOG)])
    return _binned(
        (len(images.told), len(CATALOG)),
        image,
        index,
        images.scores[image, index],
        images.present[image, index],
    )


def error(binned: ReliabilityBins, counts: Counts) -> NDArray[np.float64]:
    """Expected calibration error per class and, last, of all together; f64 (R, C + 1).

    NaN where a set has nothing to judge.
    """
    number, right, score = (
        _drawn(counts, table) for table in (binned.number, binned.right, binned.score)
    )
    apart = np.abs(right - score).sum(axis=2)
    whole = number.sum(axis=2)
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = np.where(whole > 0, apart / whole, np.nan)
    return share


def _drawn(counts: Counts, table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(images, C, BINS) to (R, C + 1, BINS), the last class being all together."""
    images, classes, bins = table.shape
    per_class = (counts @ table.reshape(images, classes * bins)).reshape(-1, classes, bins)
    return np.concatenate((per_class, per_class.sum(axis=1, keepdims=True)), axis=1)


def _binned(
    shape: tuple[int, ...],
    image: NDArray[np.intp],
    index: NDArray[np.intp],
    scores: NDArray[np.float64],
    right: NDArray[np.bool_],
) -> ReliabilityBins:
    bins = np.minimum((scores * BINS).astype(np.intp), BINS - 1)
    tables = []
    for values in (np.ones_like(scores), right.astype(float), scores):
        table = np.zeros((*shape, BINS))
        np.add.at(table, (image, index, bins), values)
        tables.append(table)
    return ReliabilityBins(*tables)
