"""How good a bundle's engine is on a labelled set, and where its thresholds lie.

Everything is measured through the code of the clinic: the edge engine on the letterboxed picture,
then `edge_agent.core.findings`. Classes that a background may hide (`Entry.unknown`) are left out
of that image's false positives, since nobody knows whether they are false.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.core.findings import Finding
from hilum.catalog import CATALOG
from training.data.store import Entry
from training.data.synthetic import Label

IOU: Final = 0.4
"""Boxes that overlap this much mean the same (the VinBigData challenge's own bound)."""

Detector = Callable[[NDArray[np.uint8]], Sequence[Finding]]
"""u8 (H, W) -> findings in that picture's pixels, down to the head's score floor."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One class over a whole set: detections by falling score, and how many boxes there were.

    `scores` f64 (n,), `hits` bool (n,) whether each met a box that no better one had met.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    boxes: int
    images: int

    @property
    def average_precision(self) -> float | None:
        """Area under the precision-recall curve, all points; None without boxes."""
        if not self.boxes:
            return None
        true = np.cumsum(self.hits)
        precision = true / np.arange(1, len(true) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        return float((envelope * self.hits).sum() / self.boxes)

    def sensitivity(self, per_image: float) -> float | None:
        """Share of boxes found at the threshold with at most `per_image` false positives."""
        if not self.boxes:
            return None
        false = np.cumsum(~self.hits)
        within = false <= per_image * self.images
        return float((self.hits & within).sum() / self.boxes)

    def threshold(self, per_image: float, floor: float) -> float:
        """The lowest score, not under `floor`, with at most `per_image` false positives."""
        false_scores = self.scores[~self.hits]
        allowed = int(per_image * self.images)
        if len(false_scores) <= allowed:
            return floor
        return float(np.clip(false_scores[allowed] + 1e-3, floor, 0.95))


def detect_all(entries: Sequence[Entry], detector: Detector) -> list[tuple[Finding, ...]]:
    """Findings of every image, in order."""
    return [tuple(detector(entry.read())) for entry in entries]


def score(
    entries: Sequence[Entry], found: Sequence[Sequence[Finding]], *, iou: float = IOU
) -> tuple[Scored, ...]:
    """Match detections with boxes, class by class, the best score first."""
    results = []
    for finding in CATALOG:
        scored: list[tuple[float, bool]] = []
        boxes = images = 0
        for entry, detections in zip(entries, found, strict=True):
            labels = [label for label in entry.labels if label.index == finding.index]
            if finding.index in entry.unknown and not labels:
                continue
            images += 1
            boxes += len(labels)
            own = [d for d in detections if d.index == finding.index]
            matched = _match(own, labels, iou)
            if finding.index in entry.unknown:
                matched = [pair for pair in matched if pair[1]]
            scored += matched
        scored.sort(key=lambda pair: -pair[0])
        results.append(
            Scored(
                scores=np.array([s for s, _ in scored], float),
                hits=np.array([h for _, h in scored], bool),
                boxes=boxes,
                images=images,
            )
        )
    return tuple(results)


def _match(
    detections: Sequence[Finding], labels: Sequence[Label], iou: float
) -> list[tuple[float, bool]]:
    free = list(labels)
    out = []
    for detection in sorted(detections, key=lambda d: -d.score):
        overlaps = [_overlap(detection, label) for label in free]
        best = int(np.argmax(overlaps)) if overlaps else -1
        hit = best >= 0 and overlaps[best] >= iou
        if hit:
            free.pop(best)
        out.append((detection.score, hit))
    return out


def _overlap(finding: Finding, label: Label) -> float:
    box = finding.box
    width = min(box.x_max, label.x_max) - max(box.x_min, label.x_min)
    height = min(box.y_max, label.y_max) - max(box.y_min, label.y_min)
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    first = (box.x_max - box.x_min) * (box.y_max - box.y_min)
    second = (label.x_max - label.x_min) * (label.y_max - label.y_min)
    return float(both / (first + second - both))


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one engine variant on one set."""

    map40: float
    map50: float
    per_class: dict[str, dict[str, float]]
    points: dict[str, float]
    quiet_share: float
    marks_per_clear_image: float
    images: int


def report(
    entries: Sequence[Entry],
    found: Sequence[Sequence[Finding]],
    *,
    points: dict[str, float] | None = None,
    false_positives: float = 0.05,
    floor: float = 0.1,
) -> Report:
    """All figures; operating points are chosen here unless they are given.

    Args:
        entries: the labelled set.
        found: what the engine found on it, in the same order.
        points: thresholds chosen elsewhere (on another split); None to choose them on this one.
        false_positives: how many an image may have, per class, at the operating point.
        floor: the lowest operating point that is ever chosen.
    """
    at40, at50 = score(entries, found, iou=0.4), score(entries, found, iou=0.5)
    chosen = points or {
        finding.slug: round(of_class.threshold(false_positives, floor), 4)
        for finding, of_class in zip(CATALOG, at40, strict=True)
    }
    per_class = {}
    for finding, loose, strict in zip(CATALOG, at40, at50, strict=True):
        if not loose.boxes:
            continue
        over = loose.scores >= chosen[finding.slug]
        per_class[finding.slug] = {
            "boxes": float(loose.boxes),
            "ap40": loose.average_precision or 0.0,
            "ap50": strict.average_precision or 0.0,
            "sensitivity_at_0.1_fp": loose.sensitivity(0.1) or 0.0,
            "sensitivity_at_point": float((loose.hits & over).sum() / loose.boxes),
            "fp_per_image_at_point": float((~loose.hits & over).sum() / max(1, loose.images)),
        }
    marks = [
        sum(
            d.score >= chosen[CATALOG[d.index].slug] and d.index not in e.unknown
            for d in detections
        )
        for e, detections in zip(entries, found, strict=True)
        if not e.labels
    ]
    return Report(
        map40=float(np.mean([entry["ap40"] for entry in per_class.values()])),
        map50=float(np.mean([entry["ap50"] for entry in per_class.values()])),
        per_class=per_class,
        points=chosen,
        quiet_share=float(np.mean([m == 0 for m in marks])) if marks else 1.0,
        marks_per_clear_image=float(np.mean(marks)) if marks else 0.0,
        images=len(entries),
    )
