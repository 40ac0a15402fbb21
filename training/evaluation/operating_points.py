"""Operating points: where a class's threshold lies, and what it then finds and wrongly marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import BY_SLUG, CATALOG
from training.data.dataset import LabelledImage
from training.evaluation.bootstrap import Counts, MetricFunction
from training.evaluation.matching import IOU, Found, MatchResult, match

USUAL: Final = 0.05
"""False marks per class and image that are put up with where nothing else is stated."""
_STEPS: Final = 10_000
"""Thresholds are multiples of one over this: what a manifest shows is what was measured."""


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """What operating points are chosen for; none of them lies under `floor`.

    A rate of false positives per class and image, or the share of each class's boxes to find; where
    neither is stated, the usual rate.

    Raises:
        ValueError: both are stated.
    """

    false_positives: float | None = None
    sensitivity: float | None = None
    floor: float = 0.1

    def __post_init__(self) -> None:
        if self.false_positives is not None and self.sensitivity is not None:
            raise ValueError("state a rate of false positives or a sensitivity, not both")

    def choose(self, entries: Sequence[LabelledImage], found: Found) -> dict[str, float]:
        """A threshold for every class.

        Without a box nothing tells how much of a class is found: for a sensitivity, such a class
        takes the threshold of the usual rate.
        """
        matched = match(entries, found, (IOU,))
        rated = choose_from(matched, false_positives=self._rate, floor=self.floor)
        if self.sensitivity is None:
            return rated
        return rated | choose_from(matched, sensitivity=self.sensitivity, floor=self.floor)

    def __str__(self) -> str:
        if self.sensitivity is None:
            return f"at most {self._rate:g} false marks per class and image"
        return (
            f"a sensitivity of {self.sensitivity:g} per class, as far as thresholds from "
            f"{self.floor:g} on reach it (without a box to find: {USUAL:g} false marks per image)"
        )

    @property
    def _rate(self) -> float:
        return USUAL if self.false_positives is None else self.false_positives


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdCounts:
    """What thresholds do, per image and class; f64 (images, C) each.

    `found`: boxes that a finding above the threshold met. `false`: findings above it that met
    none, where that is known to be wrong. `boxes`: all boxes. `known`: 1 where the class's absence
    is certain, so that false findings of it can be counted at all.
    """

    found: NDArray[np.float64]
    false: NDArray[np.float64]
    boxes: NDArray[np.float64]
    known: NDArray[np.float64]

    def sensitivity(self, counts: Counts) -> NDArray[np.float64]:
        """Share of the boxes found, f64 (R, C); NaN where a set has no box of the class."""
        return _share(counts @ self.found, counts @ self.boxes)

    def false_positives(self, counts: Counts) -> NDArray[np.float64]:
        """False findings per image where they can be told, f64 (R, C); NaN where nowhere."""
        return _share(counts @ self.false, counts @ self.known)

    def sensitivity_of(self, slug: str) -> MetricFunction:
        """The sensitivity of one class, to be compared between detectors."""
        index = BY_SLUG[slug].index
        return lambda counts: self.sensitivity(counts)[:, index]


def at_points(
    matched: MatchResult, points: Mapping[str, float], iou: float = IOU
) -> ThresholdCounts:
    """Count what findings at or above their class's threshold do.

    Args:
        matched: detections and boxes.
        points: a threshold for each slug of the catalogue.
        iou: how far a finding must overlap a box to have found it.
    """
    limits = np.array([points[finding.slug] for finding in CATALOG], np.float32)
    over = matched.scores.astype(np.float32) >= limits[matched.classes]  # As the agent compares.
    row = matched.at(iou)

    def per_image(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        table = np.zeros(matched.boxes.shape)
        np.add.at(table, (matched.image[chosen], matched.classes[chosen]), 1)
        return table

    return ThresholdCounts(
        found=per_image(matched.hits[row] & over),
        false=per_image(matched.false[row] & over),
        boxes=matched.boxes.astype(float),
        known=matched.known.astype(float),
    )


def sensitivity(
    entries: Sequence[LabelledImage], found: Found, points: Mapping[str, float], iou: float = IOU
) -> dict[str, float]:
    """Share of each class's boxes found at its threshold; classes without a box are left out."""
    matched = match(entries, found, (iou,))
    shares = at_points(matched, points, iou).sensitivity(np.ones((1, len(entries))))[0]
    return {
        finding.slug: float(share)
        for finding, share in zip(CATALOG, shares, strict=True)
        if not np.isnan(share)
    }


def choose(
    entries: Sequence[LabelledImage],
    found: Found,
    *,
    false_positives: float | None = None,
    sensitivity: float | None = None,
    floor: float,
    iou: float = IOU,
) -> dict[str, float]:
    """A threshold per class for a stated rate of false positives or a stated sensitivity.

    Just one of the two is stated:

    - `false_positives`: the lowest threshold, not under `floor`, with at most that many false
      findings of the class per image in which they can be told.
    - `sensitivity`: the highest threshold, not under `floor`, that finds at least this share of the
      class's boxes; `floor` where even that finds fewer. Classes without a box are left out.

    Raises:
        ValueError: both or neither are stated.
    """
    return choose_from(
        match(entries, found, (iou,)),
        false_positives=false_positives,
        sensitivity=sensitivity,
        floor=floor,
        iou=iou,
    )


def choose_from(
    matched: MatchResult,
    *,
    false_positives: float | None = None,
    sensitivity: float | None = None,
    floor: float,
    iou: float = IOU,
) -> dict[str, float]:
    """`choose`, for what is matched already."""
    if (false_positives is None) == (sensitivity is None):
        raise ValueError("state a rate of false positives or a sensitivity, not both")
    hits, false = matched.hits[matched.at(iou)], matched.false[matched.at(iou)]
    points = {}
    for finding in CATALOG:
        own = matched.classes == finding.index
        if false_positives is not None:
            known = int(matched.known[:, finding.index].sum())
            points[finding.slug] = _above(
                matched.scores[own & false], int(false_positives * known + 1e-9), floor
            )
        elif (boxes := int(matched.boxes[:, finding.index].sum())) and sensitivity is not None:
            needed = int(np.ceil(sensitivity * boxes - 1e-9))
            points[finding.slug] = _reaching(matched.scores[own & hits], needed, floor)
    return points


def _above(false_scores: NDArray[np.float64], allowed: int, floor: float) -> float:
    """The lowest threshold over which at most `allowed` of these scores lie (they fall)."""
    if len(false_scores) <= allowed:
        return floor
    score = np.float32(false_scores[allowed])
    step = int(score * _STEPS)
    while np.float32(step / _STEPS) <= score:
        step += 1
    return min(max(step / _STEPS, floor), 1.0)


def _reaching(hit_scores: NDArray[np.float64], needed: int, floor: float) -> float:
    """The highest threshold at or over which `needed` of these scores lie (they fall)."""
    if needed < 1:
        return 1.0
    if len(hit_scores) < needed:
        return floor
    score = np.float32(hit_scores[needed - 1])
    step = int(score * _STEPS) + 1
    while np.float32(step / _STEPS) > score:
        step -= 1
    return max(step / _STEPS, floor)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = np.where(whole > 0, part / whole, np.nan)
    return share
