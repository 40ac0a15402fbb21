"""Expected calibration error over ten equal bins of the score.

Each bin compares the share of correct items with their mean score; the error is the mean of the
absolute differences, weighted by the number of items in the bin (Guo et al., 2017). An item is a
finding, correct if it matched a box, or an image, correct if it shows the class. All images
count, also those with a score of 0.
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
    """Sums per image, class and bin of items, correct items, scores; f64 (images, C, BINS) each."""

    number: NDArray[np.float64]
    correct: NDArray[np.float64]
    score: NDArray[np.float64]

    def reliability(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return number, share of correct items and mean score per bin of all classes, (BINS,)."""
        number, correct, score = (
            table.sum(axis=(0, 1)) for table in (self.number, self.correct, self.score)
        )
        return number, correct / np.maximum(number, 1), score / np.maximum(number, 1)


def bin_findings(matched: MatchResult, iou: float = IOU) -> ReliabilityBins:
    """Bin the findings that are either true or false positives."""
    row = matched.row_of(iou)
    chosen = matched.true_positives[row] | matched.false_positives[row]
    return _bin_scores(
        matched.boxes.shape,
        matched.image[chosen],
        matched.classes[chosen],
        matched.scores[chosen],
        matched.true_positives[row][chosen],
    )


def bin_images(images: ImageLevel) -> ReliabilityBins:
    """Bin the images for which the presence of the class is certain."""
    image, index = np.nonzero(images.is_certain[:, : len(CATALOG)])
    return _bin_scores(
        (len(images.is_certain), len(CATALOG)),
        image,
        index,
        images.scores[image, index],
        images.is_present[image, index],
    )


def expected_calibration_error(binned: ReliabilityBins, counts: Counts) -> NDArray[np.float64]:
    """Return the expected calibration error per class and, last, over all classes; f64 (R, C + 1).

    NaN where a set has no item to bin.
    """
    number, correct, score = (
        _sum_resamples(counts, table) for table in (binned.number, binned.correct, binned.score)
    )
    gaps = np.abs(correct - score).sum(axis=2)
    total = number.sum(axis=2)
    with np.errstate(invalid="ignore"):
        error: NDArray[np.float64] = np.where(total > 0, gaps / total, np.nan)
    return error


def _sum_resamples(counts: Counts, table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum (images, C, BINS) over each set to (R, C + 1, BINS); the last class is the sum of all."""
    images, classes, bins = table.shape
    per_class = (counts @ table.reshape(images, classes * bins)).reshape(-1, classes, bins)
    return np.concatenate((per_class, per_class.sum(axis=1, keepdims=True)), axis=1)


def _bin_scores(
    shape: tuple[int, ...],
    image: NDArray[np.intp],
    index: NDArray[np.intp],
    scores: NDArray[np.float64],
    correct: NDArray[np.bool_],
) -> ReliabilityBins:
    bins = np.minimum((scores * BINS).astype(np.intp), BINS - 1)
    tables = []
    for values in (np.ones_like(scores), correct.astype(float), scores):
        table = np.zeros((*shape, BINS))
        np.add.at(table, (image, index, bins), values)
        tables.append(table)
    return ReliabilityBins(*tables)
