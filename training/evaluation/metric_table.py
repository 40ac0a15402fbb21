"""Every figure by its name, on all sets at once: (R,) each, NaN where a set cannot tell.

Names are made of letters, digits, `_`, `.` and `/`, so that MLflow takes them too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.evaluation import calibration, froc
from training.evaluation.bootstrap import Counts, interval
from training.evaluation.image_level import ANY, auroc, image_level
from training.evaluation.matching import COCO_IOUS, IOU, IOUS, MatchResult
from training.evaluation.metrics import average_precision, over_classes
from training.evaluation.operating_points import ThresholdCounts, at_points
from training.evaluation.results import Figures, MetricEstimate

Columns = dict[str, NDArray[np.float64]]


def everything(matched: MatchResult, counts: Counts, points: Mapping[str, float]) -> Columns:
    """All figures of a detector with these operating points."""
    images = image_level(matched)
    columns: Columns = {}
    precision = average_precision(matched, counts, IOUS)
    coco = [IOUS.index(iou) for iou in COCO_IOUS]
    for name, table in (
        ("40", precision[IOUS.index(IOU)]),
        ("50", precision[IOUS.index(0.5)]),
        ("50_95", precision[coco].mean(axis=0)),
    ):
        columns[f"map{name}"] = over_classes(table)
        columns |= _classes(f"ap{name}", table)
    columns |= _froc(matched, counts)
    areas = auroc(images, counts)
    columns["auroc/mean"] = over_classes(areas[:, :ANY])
    columns["auroc/any"] = areas[:, ANY]
    columns |= _classes("auroc", areas)
    for name, binned in (
        ("ece", calibration.of_findings(matched)),
        ("ece_image", calibration.of_images(images)),
    ):
        errors = calibration.error(binned, counts)
        columns[name] = errors[:, -1]
        columns |= _classes(name, errors)
    at = at_points(matched, points)
    return columns | _at_points(at, counts) | {"quiet_share": _quiet(at, counts)}


def in_short(
    matched: MatchResult, counts: Counts, points: Mapping[str, float], members: NDArray[np.bool_]
) -> Columns:
    """What is told of a subgroup: `members` bool (images,), all others are left out."""
    matched, counts = matched.only(members), counts * members
    at = at_points(matched, points)
    told = _at_points(at, counts)
    areas = auroc(image_level(matched), counts)
    at40, at50 = average_precision(matched, counts, (IOU, 0.5))
    return {
        "map40": over_classes(at40),
        "map50": over_classes(at50),
        "auroc/mean": over_classes(areas[:, :ANY]),
        "auroc/any": areas[:, ANY],
        "sensitivity": told["sensitivity"],
        "false_positives": told["false_positives"],
        "quiet_share": _quiet(at, counts),
    }


def told(columns: Columns) -> Figures:
    """Values and intervals."""
    return {name: MetricEstimate.of(interval(column)) for name, column in columns.items()}


def differences(a: Columns, b: Columns) -> Figures:
    """Values and intervals of `a` less `b`, on the same sets."""
    return {name: MetricEstimate.of(interval(a[name] - b[name])) for name in a}


def rate_name(rate: float) -> str:
    """How a rate of false marks is written in a name."""
    return f"froc/{rate:g}"


def _classes(name: str, table: NDArray[np.float64]) -> Columns:
    return {f"{name}/{finding.slug}": table[:, k] for k, finding in enumerate(CATALOG)}


def _froc(matched: MatchResult, counts: Counts) -> Columns:
    together, alone = froc.pooled(matched, counts), froc.per_class(matched, counts)
    columns = {rate_name(rate): together[:, k] for k, rate in enumerate(froc.RATES)}
    columns["froc/mean"] = together.mean(axis=1)
    for k, rate in enumerate(froc.RATES):
        columns |= _classes(rate_name(rate), alone[:, :, k])
    return columns


def _at_points(at: ThresholdCounts, counts: Counts) -> Columns:
    false = at.false_positives(counts)
    with np.errstate(invalid="ignore"):
        found = (counts @ at.found).sum(axis=1) / (counts @ at.boxes).sum(axis=1)
    return {
        "sensitivity": found,
        # Of all classes together; one that is hidden everywhere adds none.
        "false_positives": np.nansum(false, axis=1),
        **_classes("sensitivity", at.sensitivity(counts)),
        **_classes("false_positives", false),
    }


def _quiet(at: ThresholdCounts, counts: Counts) -> NDArray[np.float64]:
    """Share of the images without a box that get no mark which could be told to be wrong."""
    clear = at.boxes.sum(axis=1) == 0
    quiet = clear & (at.false.sum(axis=1) == 0)
    with np.errstate(invalid="ignore"):
        share: NDArray[np.float64] = (counts @ quiet) / (counts @ clear)
    return share
