"""Matching of findings with labelled boxes by the COCO library, at several overlaps.

A class that an image may show without a label (`LabelledImage.unknown`) covers that image as a
COCO crowd region: a finding of it that matches no box is neither a true nor a false positive.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edge_agent.core.findings import Finding
from hilum.catalog import CATALOG
from training.data.dataset import LabelledImage
from training.errors import TrainingError

IOU: Final = 0.4
"""Overlap from which a finding matches a box (the VinBigData challenge's bound)."""

COCO_IOUS: Final = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
IOUS: Final = (IOU, *COCO_IOUS)

FindingsPerImage = Sequence[Sequence[Finding]]
"""The findings on each image, in the order of the images."""

_REGION_SIDE: Final = 1e9
"""Half the side of a region that covers any image, in pixels."""
_ALL_AREAS: Final = (0.0, 1e20)
_MOST_FINDINGS: Final = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class MatchResult:
    """All findings on a set, highest score first, and the boxes that they match.

    N findings, B labelled boxes, T overlaps, C classes of the catalogue. Equal scores are ordered
    by the image's id and the box, so the order of the images does not matter.

    Attributes:
        ious: the overlaps, (T,).
        image: intp (N,), index of the finding's image; `classes` intp (N,); `scores` f64 (N,).
        corners: f64 (N, 4), x_min, y_min, x_max, y_max in pixels.
        true_positives: bool (T, N), matches a box of its class that no higher finding matches.
        false_positives: bool (T, N), matches none, in an image fully labelled for the class.
        boxes: i64 (images, C), number of labelled boxes.
        fully_labelled: bool (images, C), the class has no unlabelled occurrence in the image.
        box_image, box_class, box_label: intp (B,), image, class, and index in the image's labels.
        box_score: f64 (T, B), score of the finding that matches the box; NaN without one.
    """

    ious: tuple[float, ...]
    image: NDArray[np.intp]
    classes: NDArray[np.intp]
    scores: NDArray[np.float64]
    corners: NDArray[np.float64]
    true_positives: NDArray[np.bool_]
    false_positives: NDArray[np.bool_]
    boxes: NDArray[np.int64]
    fully_labelled: NDArray[np.bool_]
    box_image: NDArray[np.intp]
    box_class: NDArray[np.intp]
    box_label: NDArray[np.intp]
    box_score: NDArray[np.float64]

    def row_of(self, iou: float) -> int:
        """Return the row of an overlap.

        Raises:
            ValueError: the findings were not matched at this overlap.
        """
        return self.ious.index(iou)

    def restrict_to(self, members: NDArray[np.bool_]) -> MatchResult:
        """Return the result without findings outside the images `members`, bool (images,)."""
        kept = members[self.image]
        return replace(
            self,
            image=self.image[kept],
            classes=self.classes[kept],
            scores=self.scores[kept],
            corners=self.corners[kept],
            true_positives=self.true_positives[:, kept],
            false_positives=self.false_positives[:, kept],
        )


def match_findings(
    entries: Sequence[LabelledImage], found: FindingsPerImage, ious: Sequence[float] = IOUS
) -> MatchResult:
    """Match findings with boxes, class by class, the highest score first.

    Args:
        entries: the labelled images.
        found: the findings on each image.
        ious: the overlaps from which a finding matches a box.

    Raises:
        TrainingError: there is no image.
    """
    if not entries:
        raise TrainingError("there is no image to evaluate on")
    if len(entries) != len(found):
        raise ValueError(f"{len(entries)} images, findings for {len(found)}")
    order = _order_by_id(entries)
    detections = _coco_detections(order, found)
    boxes, regions = list(_box_annotations(order, entries)), list(_crowd_regions(order, entries))
    results = _run_coco_matching(len(entries), [*boxes, *regions], detections, ious)

    count, wide = len(detections), len(boxes)
    hits = np.zeros((len(ious), count), bool)
    ignored = np.zeros_like(hits)
    box_score = np.full((len(ious), wide), np.nan)
    scores = np.array([d["score"] for d in detections], float)
    for result in results:
        columns = np.array(result["dtIds"], np.intp) - 1
        hits[:, columns] = (result["dtMatches"] > 0) & ~result["dtIgnore"]
        ignored[:, columns] = result["dtIgnore"]
        for column, met in zip(result["gtIds"], result["gtMatches"].T, strict=True):
            if column <= wide:  # Ids beyond these are crowd regions.
                by = met > 0
                box_score[by, column - 1] = scores[met[by].astype(np.intp) - 1]
    return MatchResult(
        ious=tuple(ious),
        image=order[np.array([d["image_id"] for d in detections], np.intp)],
        classes=np.array([d["category_id"] for d in detections], np.intp),
        scores=scores,
        corners=np.array([d["corners"] for d in detections], float).reshape(-1, 4),
        true_positives=hits,
        false_positives=~hits & ~ignored,
        boxes=_count_boxes(entries),
        fully_labelled=np.array(
            [[k not in e.unknown for k in range(len(CATALOG))] for e in entries], bool
        ),
        box_image=order[np.array([b["image_id"] for b in boxes], np.intp)],
        box_class=np.array([b["category_id"] for b in boxes], np.intp),
        box_label=np.array([b["label"] for b in boxes], np.intp),
        box_score=box_score,
    )


def _order_by_id(entries: Sequence[LabelledImage]) -> NDArray[np.intp]:
    """Return the indices of the images, ordered by image id."""
    return np.array(sorted(range(len(entries)), key=lambda k: entries[k].image_id), np.intp)


def _count_boxes(entries: Sequence[LabelledImage]) -> NDArray[np.int64]:
    counts = np.zeros((len(entries), len(CATALOG)), np.int64)
    for k, entry in enumerate(entries):
        for label in entry.labels:
            counts[k, label.index] += 1
    return counts


def _coco_detections(order: NDArray[np.intp], found: FindingsPerImage) -> list[dict[str, Any]]:
    """Return findings as COCO results; ids start at 1, because 0 means 'no match' there."""
    rows = []
    for rank, place in enumerate(order):
        for finding in found[place]:
            box = finding.box
            corners = (box.x_min, box.y_min, box.x_max, box.y_max)
            rows.append((-finding.score, rank, finding.index, corners))
    rows.sort()
    return [
        _annotation(number, rank, index, corners) | {"score": -negative, "corners": corners}
        for number, (negative, rank, index, corners) in enumerate(rows, start=1)
    ]


def _box_annotations(
    order: NDArray[np.intp], entries: Sequence[LabelledImage]
) -> Iterator[dict[str, Any]]:
    number = 0
    for rank, place in enumerate(order):
        for k, label in enumerate(entries[place].labels):
            number += 1
            corners = (label.x_min, label.y_min, label.x_max, label.y_max)
            yield _annotation(number, rank, label.index, corners) | {"label": k}


def _crowd_regions(
    order: NDArray[np.intp], entries: Sequence[LabelledImage]
) -> Iterator[dict[str, Any]]:
    number = sum(len(entry.labels) for entry in entries)
    everywhere = (-_REGION_SIDE, -_REGION_SIDE, _REGION_SIDE, _REGION_SIDE)
    for rank, place in enumerate(order):
        for index in sorted(entries[place].unknown):
            number += 1
            yield _annotation(number, rank, index, everywhere) | {"iscrowd": 1}


def _annotation(
    number: int, rank: int, index: int, corners: tuple[float, float, float, float]
) -> dict[str, Any]:
    x_min, y_min, x_max, y_max = corners
    width, height = x_max - x_min, y_max - y_min
    return {
        "id": number,
        "image_id": rank,
        "category_id": index,
        "bbox": [x_min, y_min, width, height],
        "area": width * height,
        "iscrowd": 0,
    }


def _run_coco_matching(
    images: int,
    boxes: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    ious: Sequence[float],
) -> list[dict[str, Any]]:
    """Return the library's result per image and class that has a box or a finding."""
    with contextlib.redirect_stdout(io.StringIO()):  # The library prints its progress.
        evaluator = COCOeval(_coco(images, boxes), _coco(images, detections), "bbox")
        evaluator.params.iouThrs = np.array(ious)
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [list(_ALL_AREAS)], ["all"]
        evaluator.params.maxDets = [_MOST_FINDINGS]
        evaluator.evaluate()
    return [result for result in evaluator.evalImgs if result is not None]


def _coco(images: int, annotations: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - it has no types
    coco = COCO()
    coco.dataset = {
        "images": [{"id": k} for k in range(images)],
        "categories": [{"id": finding.index, "name": finding.slug} for finding in CATALOG],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
