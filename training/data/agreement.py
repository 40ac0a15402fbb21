"""Agreement of the readers, class by class.

On boxes: pairwise F1. Every two readers of an image are compared. Their boxes of one class are
matched one to one where their intersection over union is at least 0.4. Over all images and pairs
F1 = 2 * matched / (boxes of the first + boxes of the second).

On images: Fleiss' kappa (1971) of "this class is somewhere on this image", each image with as many
ratings as it had readers. 1 is perfect agreement, 0 is the agreement expected by chance.
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
from training.data.box_overlap import pairwise_iou
from training.data.vindr import BOX

IOU: Final = 0.4


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """Agreement on one class; `f1` and `kappa` are None where they are undefined.

    `images` is the number of images that any reader marked, `boxes` the number of all readers'
    boxes.
    """

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
    readers = rows.groupby("image_id")["rad_id"].nunique()
    boxes = rows[rows["class_id"] < len(CATALOG)]
    matched = _count_matches(boxes, iou)
    marks = boxes.drop_duplicates(["image_id", "rad_id", "class_id"])
    classes = []
    for finding in CATALOG:
        of_class = boxes[boxes["class_id"] == finding.index]
        # Each box takes part in as many comparisons as its image had other readers.
        compared = int((readers.loc[of_class["image_id"]] - 1).sum())
        marked = marks[marks["class_id"] == finding.index].groupby("image_id").size()
        yes = marked.reindex(readers.index, fill_value=0)
        classes.append(
            ClassAgreement(
                name=finding.name,
                images=len(marked),
                boxes=len(of_class),
                f1=2 * int(matched[finding.index]) / compared if compared else None,
                kappa=fleiss_kappa(np.asarray(yes, np.float64), np.asarray(readers, np.float64)),
            )
        )
    return tuple(classes)


def fleiss_kappa(marked: NDArray[np.float64], readers: NDArray[np.float64]) -> float | None:
    """Return Fleiss' kappa of two categories; images with fewer than two readers are left out.

    Args:
        marked: f64 (N,), the number of readers who marked the class on each image.
        readers: f64 (N,), the number of readers of each image.

    Returns:
        Kappa, or None where all ratings are the same, because chance alone explains them.
    """
    several = readers > 1
    yes, total = marked[several], readers[several]
    if not total.size or yes.sum() in {0, total.sum()}:
        return None
    no = total - yes
    observed = ((yes * (yes - 1) + no * (no - 1)) / (total * (total - 1))).mean()
    share = yes.sum() / total.sum()
    by_chance = share**2 + (1 - share) ** 2
    return float((observed - by_chance) / (1 - by_chance))


def _count_matches(boxes: pd.DataFrame, iou: float) -> NDArray[np.int64]:
    """Return per class the number of matched pairs of boxes, over all pairs of readers."""
    counts = np.zeros(len(CATALOG), np.int64)
    ordered = boxes.sort_values(["image_id", "class_id", "rad_id"])
    keys = pd.factorize(ordered["image_id"])[0] * len(CATALOG) + ordered["class_id"].to_numpy()
    readers = pd.factorize(ordered["rad_id"])[0]
    corners, classes = ordered[BOX].to_numpy(float), ordered["class_id"].to_numpy()
    for group in np.split(np.arange(len(ordered)), np.flatnonzero(np.diff(keys)) + 1):
        if len(group) < 2:
            continue
        cuts = np.flatnonzero(np.diff(readers[group])) + 1
        for first, second in combinations(np.split(group, cuts), 2):
            counts[classes[group[0]]] += _match_boxes(corners[first], corners[second], iou)
    return counts


def _match_boxes(first: NDArray[np.float64], second: NDArray[np.float64], iou: float) -> int:
    """Return the largest number of one-to-one matches of boxes (N, 4) with boxes (M, 4)."""
    meets = pairwise_iou(first, second) >= iou
    if meets.size == 1 or not meets.any():
        return int(meets.sum())
    chosen = linear_sum_assignment(meets, maximize=True)
    return int(meets[chosen].sum())
