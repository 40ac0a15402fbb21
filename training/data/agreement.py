"""How far the readers agree, class by class.

On boxes: pairwise F1. Every two readers of an image are compared; their boxes of one class are
matched one to one where they overlap by at least an IoU of 0.4, and over all images and pairs
F1 = 2 * matched / (boxes of the one + boxes of the other).

On images: Fleiss' kappa (1971) of "this class is somewhere on this image", each image with as many
ratings as it had readers. 1 is perfect agreement, 0 what chance would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from hilum.catalog import CATALOG
from training.data.vindr import BOX

IOU: Final = 0.4


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """One class: how many images any reader marked, boxes, F1 and kappa; None where undefined."""

    name: str
    images: int
    boxes: int
    f1: float | None
    kappa: float | None


def measure_agreement(rows: pd.DataFrame, *, iou: float = IOU) -> tuple[ClassAgreement, ...]:
    """Measure the agreement of all classes.

    Args:
        rows: readers' rows as `vindr.read_annotations` returns them.
        iou: least intersection over union of two boxes that mark the same finding.

    Returns:
        One entry per class, in the catalogue's order.
    """
    asked = rows.groupby("image_id")["rad_id"].nunique()
    boxes = rows[rows["class_id"] < len(CATALOG)]
    matched = _matched(boxes, iou)
    marks = boxes.drop_duplicates(["image_id", "rad_id", "class_id"])
    found = []
    for finding in CATALOG:
        of_class = boxes[boxes["class_id"] == finding.index]
        # Each box takes part in as many comparisons as its image had other readers.
        compared = int((asked.loc[of_class["image_id"]] - 1).sum())
        marked = marks[marks["class_id"] == finding.index].groupby("image_id").size()
        yes = marked.reindex(asked.index, fill_value=0)
        found.append(
            ClassAgreement(
                name=finding.name,
                images=len(marked),
                boxes=len(of_class),
                f1=2 * int(matched[finding.index]) / compared if compared else None,
                kappa=fleiss_kappa(np.asarray(yes, np.float64), np.asarray(asked, np.float64)),
            )
        )
    return tuple(found)


def fleiss_kappa(marked: NDArray[np.float64], asked: NDArray[np.float64]) -> float | None:
    """Kappa of two categories; images that fewer than two read say nothing of agreement.

    Args:
        marked: f64 (N,), how many readers of each image said yes.
        asked: f64 (N,), how many readers it had.

    Returns:
        None where all said the same of everything, so that chance alone explains it.
    """
    several = asked > 1
    yes, total = marked[several], asked[several]
    if not total.size or yes.sum() in {0, total.sum()}:
        return None
    no = total - yes
    observed = ((yes * (yes - 1) + no * (no - 1)) / (total * (total - 1))).mean()
    share = yes.sum() / total.sum()
    by_chance = share**2 + (1 - share) ** 2
    return float((observed - by_chance) / (1 - by_chance))


def _matched(boxes: pd.DataFrame, iou: float) -> NDArray[np.int64]:
    """Boxes that found a partner, over all pairs of readers, per class."""
    counts = np.zeros(len(CATALOG), np.int64)
    ordered = boxes.sort_values(["image_id", "class_id", "rad_id"])
    keys = pd.factorize(ordered["image_id"])[0] * len(CATALOG) + ordered["class_id"].to_numpy()
    readers = pd.factorize(ordered["rad_id"])[0]
    corners, classes = ordered[BOX].to_numpy(float), ordered["class_id"].to_numpy()
    for group in np.split(np.arange(len(ordered)), np.flatnonzero(np.diff(keys)) + 1):
        if len(group) < 2:
            continue
        cuts = np.flatnonzero(np.diff(readers[group])) + 1
        for one, other in combinations(np.split(group, cuts), 2):
            counts[classes[group[0]]] += _pairs(corners[one], corners[other], iou)
    return counts


def _pairs(one: NDArray[np.float64], other: NDArray[np.float64], iou: float) -> int:
    overlaps = overlap(one, other) >= iou
    if overlaps.size == 1 or not overlaps.any():
        return int(overlaps.sum())
    chosen = linear_sum_assignment(overlaps, maximize=True)
    return int(overlaps[chosen].sum())


def overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes (N, 4) with boxes (M, 4): (N, M)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    return np.asarray(both / (areas[0][:, None] + areas[1][None] - both))
