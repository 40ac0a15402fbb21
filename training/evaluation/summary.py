"""The few figures that the starter's model card tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hilum.catalog import CATALOG
from training.data.store import Entry
from training.errors import TrainingError
from training.evaluation.matching import IOU, Found, match
from training.evaluation.metrics import average_precision
from training.evaluation.points import at_points, choose_from


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
    found: Found,
    *,
    points: Mapping[str, float] | None = None,
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

    Raises:
        TrainingError: no image, or not one labelled box.
    """
    matched = match(entries, found, (IOU, 0.5))
    if not len(matched.box_image):
        raise TrainingError("no image has a labelled box: there is nothing to measure")
    itself = np.ones((1, len(entries)))
    chosen = points or choose_from(matched, false_positives=false_positives, floor=floor)
    rare = choose_from(matched, false_positives=0.1, floor=0)
    at40, at50 = average_precision(matched, itself, matched.ious)[:, 0]
    at_chosen = at_points(matched, chosen)
    sensitivity, false = (f(itself)[0] for f in (at_chosen.sensitivity, at_chosen.false_positives))
    at_rare = at_points(matched, rare).sensitivity(itself)[0]
    boxes = matched.boxes.sum(axis=0)
    per_class = {
        finding.slug: {
            "boxes": float(boxes[k]),
            "ap40": float(at40[k]),
            "ap50": float(at50[k]),
            "sensitivity_at_0.1_fp": float(at_rare[k]),
            "sensitivity_at_point": float(sensitivity[k]),
            "fp_per_image_at_point": float(np.nan_to_num(false[k])),
        }
        for k, finding in enumerate(CATALOG)
        if boxes[k]
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
        map40=float(np.mean([of["ap40"] for of in per_class.values()])),
        map50=float(np.mean([of["ap50"] for of in per_class.values()])),
        per_class=per_class,
        points=dict(chosen),
        quiet_share=float(np.mean([m == 0 for m in marks])) if marks else 1.0,
        marks_per_clear_image=float(np.mean(marks)) if marks else 0.0,
        images=len(entries),
    )
