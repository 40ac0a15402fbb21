"""Operating points: the choice of a score threshold per class, and its sensitivity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import BY_SLUG, CATALOG
from training.data.dataset import LabelledImage
from training.evaluation.bootstrap import Counts, MetricFunction
from training.evaluation.matching import IOU, FindingsPerImage, MatchResult, match_findings

DEFAULT_FALSE_POSITIVES: Final = 0.05
"""Allowed false positives per class and image, unless another rate is stated."""
_STEPS: Final = 10_000
"""Thresholds are multiples of 1 / 10,000, so the manifest shows the measured threshold exactly."""


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """A target for operating points: false positives per class and image, or a sensitivity.

    Without a target the default rate holds. No operating point is below `floor`.

    Raises:
        ValueError: both are stated.
    """

    false_positives: float | None = None
    sensitivity: float | None = None
    floor: float = 0.1

    def __post_init__(self) -> None:
        if self.false_positives is not None and self.sensitivity is not None:
            raise ValueError("state a rate of false positives or a sensitivity, not both")

    def choose(self, entries: Sequence[LabelledImage], found: FindingsPerImage) -> dict[str, float]:
        """Return a threshold for every class.

        For a class without a box sensitivity is undefined: where a sensitivity is the target, such
        a class gets the threshold of the default rate.
        """
        matched = match_findings(entries, found, (IOU,))
        rated = choose_matched_thresholds(matched, false_positives=self._rate, floor=self.floor)
        if self.sensitivity is None:
            return rated
        return rated | choose_matched_thresholds(
            matched, sensitivity=self.sensitivity, floor=self.floor
        )

    def __str__(self) -> str:
        if self.sensitivity is None:
            return f"at most {self._rate:g} false positives per class and image"
        return (
            f"a sensitivity of {self.sensitivity:g} per class, as far as thresholds from "
            f"{self.floor:g} on reach it (classes without a box: at most "
            f"{DEFAULT_FALSE_POSITIVES:g} false positives per image)"
        )

    @property
    def _rate(self) -> float:
        return DEFAULT_FALSE_POSITIVES if self.false_positives is None else self.false_positives


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdCounts:
    """Counts at given thresholds per image and class; f64 (images, C) each.

    Attributes:
        true_positives: boxes that a finding at or above the threshold matches.
        false_positives: findings at or above the threshold that match no box, in images that are
            fully labelled for the class.
        boxes: labelled boxes.
        fully_labelled: 1 where the class has no unlabelled occurrence, so that false positives
            can be counted; else 0.
    """

    true_positives: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    boxes: NDArray[np.float64]
    fully_labelled: NDArray[np.float64]

    def sensitivity(self, counts: Counts) -> NDArray[np.float64]:
        """Return the sensitivity, f64 (R, C); NaN where a set has no box of the class."""
        return _ratio(counts @ self.true_positives, counts @ self.boxes)

    def false_positives_per_image(self, counts: Counts) -> NDArray[np.float64]:
        """Return false positives per fully labelled image, f64 (R, C); NaN without such images."""
        return _ratio(counts @ self.false_positives, counts @ self.fully_labelled)

    def sensitivity_of(self, slug: str) -> MetricFunction:
        """Return the sensitivity of one class as a function of the set."""
        index = BY_SLUG[slug].index
        return lambda counts: self.sensitivity(counts)[:, index]


def apply_thresholds(
    matched: MatchResult, points: Mapping[str, float], iou: float = IOU
) -> ThresholdCounts:
    """Count true and false positives among the findings at or above their class's threshold.

    Args:
        matched: matched findings.
        points: a threshold for each slug of the catalogue.
        iou: overlap from which a finding matches a box.
    """
    limits = np.array([points[finding.slug] for finding in CATALOG], np.float32)
    over = matched.scores.astype(np.float32) >= limits[matched.classes]  # As the agent compares.
    row = matched.row_of(iou)

    def per_image(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        table = np.zeros(matched.boxes.shape)
        np.add.at(table, (matched.image[chosen], matched.classes[chosen]), 1)
        return table

    return ThresholdCounts(
        true_positives=per_image(matched.true_positives[row] & over),
        false_positives=per_image(matched.false_positives[row] & over),
        boxes=matched.boxes.astype(float),
        fully_labelled=matched.fully_labelled.astype(float),
    )


def sensitivity(
    entries: Sequence[LabelledImage],
    found: FindingsPerImage,
    points: Mapping[str, float],
    iou: float = IOU,
) -> dict[str, float]:
    """Return the sensitivity at its threshold of each class that has a box, by slug."""
    matched = match_findings(entries, found, (iou,))
    shares = apply_thresholds(matched, points, iou).sensitivity(np.ones((1, len(entries))))[0]
    return {
        finding.slug: float(share)
        for finding, share in zip(CATALOG, shares, strict=True)
        if not np.isnan(share)
    }


def choose_thresholds(
    entries: Sequence[LabelledImage],
    found: FindingsPerImage,
    *,
    false_positives: float | None = None,
    sensitivity: float | None = None,
    floor: float,
    iou: float = IOU,
) -> dict[str, float]:
    """Choose a threshold per class for a rate of false positives or for a sensitivity.

    Args:
        entries: the labelled images.
        found: the findings on each image.
        false_positives: take the lowest threshold with at most this many false positives of the
            class per fully labelled image.
        sensitivity: take the highest threshold that reaches this sensitivity, or `floor` where
            none does. Classes without a box are left out.
        floor: lower bound of the thresholds.
        iou: overlap from which a finding matches a box.

    Returns:
        Thresholds by slug.

    Raises:
        ValueError: both or neither are stated.
    """
    return choose_matched_thresholds(
        match_findings(entries, found, (iou,)),
        false_positives=false_positives,
        sensitivity=sensitivity,
        floor=floor,
        iou=iou,
    )


def choose_matched_thresholds(
    matched: MatchResult,
    *,
    false_positives: float | None = None,
    sensitivity: float | None = None,
    floor: float,
    iou: float = IOU,
) -> dict[str, float]:
    """Choose thresholds as `choose_thresholds` does, for matched findings."""
    if (false_positives is None) == (sensitivity is None):
        raise ValueError("state a rate of false positives or a sensitivity, not both")
    hits, false = (
        matched.true_positives[matched.row_of(iou)],
        matched.false_positives[matched.row_of(iou)],
    )
    points = {}
    for finding in CATALOG:
        own = matched.classes == finding.index
        if false_positives is not None:
            known = int(matched.fully_labelled[:, finding.index].sum())
            points[finding.slug] = _threshold_allowing(
                matched.scores[own & false], int(false_positives * known + 1e-9), floor
            )
        elif (boxes := int(matched.boxes[:, finding.index].sum())) and sensitivity is not None:
            needed = int(np.ceil(sensitivity * boxes - 1e-9))
            points[finding.slug] = _threshold_reaching(matched.scores[own & hits], needed, floor)
    return points


def _threshold_allowing(false_scores: NDArray[np.float64], allowed: int, floor: float) -> float:
    """Return the lowest threshold that at most `allowed` of these falling scores exceed."""
    if len(false_scores) <= allowed:
        return floor
    score = np.float32(false_scores[allowed])
    step = int(score * _STEPS)
    while np.float32(step / _STEPS) <= score:
        step += 1
    return min(max(step / _STEPS, floor), 1.0)


def _threshold_reaching(hit_scores: NDArray[np.float64], needed: int, floor: float) -> float:
    """Return the highest threshold that `needed` of these falling scores reach."""
    if needed < 1:
        return 1.0
    if len(hit_scores) < needed:
        return floor
    score = np.float32(hit_scores[needed - 1])
    step = int(score * _STEPS) + 1
    while np.float32(step / _STEPS) > score:
        step -= 1
    return max(step / _STEPS, floor)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = np.where(whole > 0, part / whole, np.nan)
    return share
