"""The worst misses: boxes that nobody would have been shown, marks that nobody should have been."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data.dataset import LabelledImage
from training.evaluation.matching import IOU, MatchResult

SHOWN: Final = 12

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Miss:
    """A box that was not found, or a mark where there is nothing, at the operating points.

    `score` is of what did meet the box, below the threshold, or of the false mark; None where
    nothing met the box at any score.
    """

    kind: Literal["missed", "false"]
    image: int
    slug: str
    box: Corners
    score: float | None
    threshold: float


def worst(
    entries: Sequence[LabelledImage],
    matched: MatchResult,
    points: Mapping[str, float],
    shown: int = SHOWN,
) -> tuple[Miss, ...]:
    """First the missed boxes, then the false marks; of each at most `shown`, one per image.

    Boxes that nothing met at any score come first, then those whose score falls shortest of its
    threshold; equals by how many readers agreed, then by size. False marks come by how far they
    are above their threshold.
    """
    return (
        *_first_per_image(_missed(entries, matched, points), shown),
        *_first_per_image(_false(matched, points), shown),
    )


def _missed(
    entries: Sequence[LabelledImage], matched: MatchResult, points: Mapping[str, float]
) -> list[Miss]:
    row = matched.at(IOU)
    ranked = []
    for k, score in enumerate(matched.box_score[row]):
        slug = CATALOG[matched.box_class[k]].slug
        if score >= points[slug]:
            continue
        image = int(matched.box_image[k])
        label = entries[image].labels[matched.box_label[k]]
        box = (label.x_min, label.y_min, label.x_max, label.y_max)
        met = None if np.isnan(score) else float(score)
        area = (label.x_max - label.x_min) * (label.y_max - label.y_min)
        rank = ((met or 0.0) / points[slug], -label.weight, -area)
        ranked.append((rank, Miss("missed", image, slug, box, met, points[slug])))
    return [miss for _, miss in sorted(ranked, key=lambda pair: pair[0])]


def _false(matched: MatchResult, points: Mapping[str, float]) -> list[Miss]:
    row = matched.at(IOU)
    limits = np.array([points[finding.slug] for finding in CATALOG])[matched.classes]
    over = np.flatnonzero(matched.false[row] & (matched.scores >= limits))
    ranked = over[np.argsort(limits[over] - matched.scores[over], kind="stable")]
    return [
        Miss(
            kind="false",
            image=int(matched.image[k]),
            slug=CATALOG[matched.classes[k]].slug,
            box=corners_of(matched.corners[k]),
            score=float(matched.scores[k]),
            threshold=float(limits[k]),
        )
        for k in ranked
    ]


def corners_of(row: NDArray[np.float64]) -> Corners:
    """One row of corners as a tuple."""
    x_min, y_min, x_max, y_max = row.tolist()
    return x_min, y_min, x_max, y_max


def _first_per_image(ranked: Sequence[Miss], shown: int) -> Iterator[Miss]:
    seen: set[int] = set()
    for miss in ranked:
        if miss.image not in seen and len(seen) < shown:
            seen.add(miss.image)
            yield miss
