"""Which detection met which box, by the COCO library, for a whole set at several overlaps.

A class that an image may show without a label (`LabelledImage.unknown`) covers that image as a
crowd region: a detection that meets no box of it there is neither right nor wrong.
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
"""Boxes that overlap this much mean the same (the VinBigData challenge's own bound)."""

COCO_IOUS: Final = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
IOUS: Final = (IOU, *COCO_IOUS)

Found = Sequence[Sequence[Finding]]
"""What a detector said of each entry, in the entries' order."""

_EVERYTHING: Final = 1e9
"""Side of a region that covers any picture, in pixels."""
_ALL_AREAS: Final = (0.0, 1e20)
_MOST_FINDINGS: Final = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class MatchResult:
    """All detections of a set, best score first, beside what they met.

    N detections, B labelled boxes, T overlaps, C classes of the catalogue. Equal scores are ordered
    by the image's id and the box, so nothing depends on the order in which images came.

    Attributes:
        ious: the overlaps asked for, shape (T,).
        image: intp (N,), place of the entry; `classes` intp (N,); `scores` f64 (N,).
        corners: f64 (N, 4), x_min, y_min, x_max, y_max in pixels.
        hits: bool (T, N), met a box of its class that no better detection had met.
        false: bool (T, N), met none, in an image where the class is known to be absent elsewhere.
        boxes: i64 (images, C), how many are labelled; `known` bool (images, C), whether all are.
        box_image, box_class, box_label: intp (B,), entry, class, and place in the entry's labels.
        box_score: f64 (T, B), of the detection that met it; NaN where none did.
    """

    ious: tuple[float, ...]
    image: NDArray[np.intp]
    classes: NDArray[np.intp]
    scores: NDArray[np.float64]
    corners: NDArray[np.float64]
    hits: NDArray[np.bool_]
    false: NDArray[np.bool_]
    boxes: NDArray[np.int64]
    known: NDArray[np.bool_]
    box_image: NDArray[np.intp]
    box_class: NDArray[np.intp]
    box_label: NDArray[np.intp]
    box_score: NDArray[np.float64]

    def at(self, iou: float) -> int:
        """The row of an overlap.

        Raises:
            ValueError: it was not asked for when matching.
        """
        return self.ious.index(iou)

    def only(self, members: NDArray[np.bool_]) -> MatchResult:
        """The same without the detections in other images than `members`, bool (images,)."""
        kept = members[self.image]
        return replace(
            self,
            image=self.image[kept],
            classes=self.classes[kept],
            scores=self.scores[kept],
            corners=self.corners[kept],
            hits=self.hits[:, kept],
            false=self.false[:, kept],
        )


def match(
    entries: Sequence[LabelledImage], found: Found, ious: Sequence[float] = IOUS
) -> MatchResult:
    """Match detections with boxes, class by class, the best score first.

    Raises:
        TrainingError: there is no image.
    """
    if not entries:
        raise TrainingError("there is no image to evaluate on")
    if len(entries) != len(found):
        raise ValueError(f"{len(entries)} images, findings for {len(found)}")
    order = _by_id(entries)
    detections = _detections(order, found)
    boxes, regions = list(_boxes(order, entries)), list(_regions(order, entries))
    results = _judge(len(entries), [*boxes, *regions], detections, ious)

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
            if column <= wide:  # What lies beyond are regions, not boxes.
                by = met > 0
                box_score[by, column - 1] = scores[met[by].astype(np.intp) - 1]
    return MatchResult(
        ious=tuple(ious),
        image=order[np.array([d["image_id"] for d in detections], np.intp)],
        classes=np.array([d["category_id"] for d in detections], np.intp),
        scores=scores,
        corners=np.array([d["corners"] for d in detections], float).reshape(-1, 4),
        hits=hits,
        false=~hits & ~ignored,
        boxes=_count(entries),
        known=np.array([[k not in e.unknown for k in range(len(CATALOG))] for e in entries], bool),
        box_image=order[np.array([b["image_id"] for b in boxes], np.intp)],
        box_class=np.array([b["category_id"] for b in boxes], np.intp),
        box_label=np.array([b["label"] for b in boxes], np.intp),
        box_score=box_score,
    )


def _by_id(entries: Sequence[LabelledImage]) -> NDArray[np.intp]:
    """Places of the entries, ordered by their ids."""
    return np.array(sorted(range(len(entries)), key=lambda k: entries[k].image_id), np.intp)


def _count(entries: Sequence[LabelledImage]) -> NDArray[np.int64]:
    counts = np.zeros((len(entries), len(CATALOG)), np.int64)
    for k, entry in enumerate(entries):
        for label in entry.labels:
            counts[k, label.index] += 1
    return counts


def _detections(order: NDArray[np.intp], found: Found) -> list[dict[str, Any]]:
    """COCO's results; ids from 1 on, since the library takes a 0 for 'met nothing'."""
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


def _boxes(order: NDArray[np.intp], entries: Sequence[LabelledImage]) -> Iterator[dict[str, Any]]:
    number = 0
    for rank, place in enumerate(order):
        for k, label in enumerate(entries[place].labels):
            number += 1
            corners = (label.x_min, label.y_min, label.x_max, label.y_max)
            yield _annotation(number, rank, label.index, corners) | {"label": k}


def _regions(order: NDArray[np.intp], entries: Sequence[LabelledImage]) -> Iterator[dict[str, Any]]:
    number = sum(len(entry.labels) for entry in entries)
    everywhere = (-_EVERYTHING, -_EVERYTHING, _EVERYTHING, _EVERYTHING)
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


def _judge(
    images: int,
    boxes: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    ious: Sequence[float],
) -> list[dict[str, Any]]:
    """The library's verdict per image and class; images and classes without either are left out."""
    with contextlib.redirect_stdout(io.StringIO()):  # It prints what it does.
        judge = COCOeval(_coco(images, boxes), _coco(images, detections), "bbox")
        judge.params.iouThrs = np.array(ious)
        judge.params.areaRng, judge.params.areaRngLbl = [list(_ALL_AREAS)], ["all"]
        judge.params.maxDets = [_MOST_FINDINGS]
        judge.evaluate()
    return [result for result in judge.evalImgs if result is not None]


def _coco(images: int, annotations: list[dict[str, Any]]) -> Any:  # noqa: ANN401 - it has no types
    coco = COCO()
    coco.dataset = {
        "images": [{"id": k} for k in range(images)],
        "categories": [{"id": finding.index, "name": finding.slug} for finding in CATALOG],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
