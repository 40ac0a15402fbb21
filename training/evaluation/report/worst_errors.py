"""Selects the worst errors: boxes that no finding matches, and false positives with high scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data.dataset import LabelledImage
from training.evaluation.matching import IOU, MatchResult

DEFAULT_COUNT: Final = 12

Corners = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max in pixels."""


@dataclass(frozen=True, slots=True)
class ErrorCase:
    """A false negative or a false positive at the operating points.

    `image` is the index of the image. `score` is that of the finding: of a false positive, or of
    the finding below the threshold that matches a false negative's box; None where none does.
    """

    kind: Literal["false_negative", "false_positive"]
    image: int
    slug: str
    box: Corners
    score: float | None
    threshold: float


def select_worst_errors(
    entries: Sequence[LabelledImage],
    matched: MatchResult,
    points: Mapping[str, float],
    count: int = DEFAULT_COUNT,
) -> tuple[ErrorCase, ...]:
    """Select the worst false negatives and false positives, at most one of each per image.

    False negatives are ordered by how far the score of the matching finding is below its
    threshold, boxes without any such finding first; ties by the readers' agreement, then by size.
    False positives are ordered by how far their score exceeds the threshold.

    Args:
        entries: the labelled images.
        matched: the matched findings.
        points: a threshold for each slug.
        count: the largest number of cases of each kind.

    Returns:
        The false negatives, then the false positives.
    """
    return (
        *_first_per_image(_false_negatives(entries, matched, points), count),
        *_first_per_image(_false_positives(matched, points), count),
    )


def _false_negatives(
    entries: Sequence[LabelledImage], matched: MatchResult, points: Mapping[str, float]
) -> list[ErrorCase]:
    row = matched.row_of(IOU)
    ranked = []
    for k, score in enumerate(matched.box_score[row]):
        slug = CATALOG[matched.box_class[k]].slug
        if score >= points[slug]:
            continue
        image = int(matched.box_image[k])
        label = entries[image].labels[matched.box_label[k]]
        box = (label.x_min, label.y_min, label.x_max, label.y_max)
        best = None if np.isnan(score) else float(score)
        area = (label.x_max - label.x_min) * (label.y_max - label.y_min)
        rank = ((best or 0.0) / points[slug], -label.weight, -area)
        ranked.append((rank, ErrorCase("false_negative", image, slug, box, best, points[slug])))
    return [case for _, case in sorted(ranked, key=lambda pair: pair[0])]


def _false_positives(matched: MatchResult, points: Mapping[str, float]) -> list[ErrorCase]:
    row = matched.row_of(IOU)
    limits = np.array([points[finding.slug] for finding in CATALOG])[matched.classes]
    over = np.flatnonzero(matched.false_positives[row] & (matched.scores >= limits))
    ranked = over[np.argsort(limits[over] - matched.scores[over], kind="stable")]
    return [
        ErrorCase(
            kind="false_positive",
            image=int(matched.image[k]),
            slug=CATALOG[matched.classes[k]].slug,
            box=to_corners(matched.corners[k]),
            score=float(matched.scores[k]),
            threshold=float(limits[k]),
        )
        for k in ranked
    ]


def to_corners(row: NDArray[np.float64]) -> Corners:
    """Return one row of corners, f64 (4,), as a tuple."""
    x_min, y_min, x_max, y_max = row.tolist()
    return x_min, y_min, x_max, y_max


def _first_per_image(ranked: Sequence[ErrorCase], count: int) -> Iterator[ErrorCase]:
    images: set[int] = set()
    for case in ranked:
        if case.image not in images and len(images) < count:
            images.add(case.image)
            yield case
