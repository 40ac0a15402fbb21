"""All metrics by name, on all sets at once: f64 (R,) each, NaN where undefined for a set.

Names consist of letters, digits, `_`, `.` and `/`, so that MLflow accepts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.evaluation import calibration_error, froc
from training.evaluation.bootstrap import Counts, estimate_interval
from training.evaluation.image_level import ANY_FINDING, compute_auroc, score_images
from training.evaluation.matching import COCO_IOUS, IOU, IOUS, MatchResult
from training.evaluation.metrics import average_precision, mean_over_classes
from training.evaluation.operating_points import ThresholdCounts, apply_thresholds
from training.evaluation.results import MetricEstimate, Metrics

Columns = dict[str, NDArray[np.float64]]
_THRESHOLDED: Final = ("sensitivity", "false_positives", "image_specificity")


def all_metrics(matched: MatchResult, counts: Counts, points: Mapping[str, float]) -> Columns:
    """Return all metrics of a detector at these operating points, by name."""
    images = score_images(matched)
    columns: Columns = {}
    precision = average_precision(matched, counts, IOUS)
    coco = [IOUS.index(iou) for iou in COCO_IOUS]
    for name, table in (
        ("40", precision[IOUS.index(IOU)]),
        ("50", precision[IOUS.index(0.5)]),
        ("50_95", precision[coco].mean(axis=0)),
    ):
        columns[f"map{name}"] = mean_over_classes(table)
        columns |= _per_class(f"ap{name}", table)
    columns |= _froc(matched, counts)
    areas = compute_auroc(images, counts)
    columns["auroc/mean"] = mean_over_classes(areas[:, :ANY_FINDING])
    columns["auroc/any"] = areas[:, ANY_FINDING]
    columns |= _per_class("auroc", areas)
    for name, binned in (
        ("ece", calibration_error.bin_findings(matched)),
        ("ece_image", calibration_error.bin_images(images)),
    ):
        errors = calibration_error.expected_calibration_error(binned, counts)
        columns[name] = errors[:, -1]
        columns |= _per_class(name, errors)
    thresholded = apply_thresholds(matched, points)
    return columns | _operating_point_metrics(thresholded, counts)


def summary_metrics(
    matched: MatchResult, counts: Counts, points: Mapping[str, float], members: NDArray[np.bool_]
) -> Columns:
    """Return the metrics that are reported for a subgroup.

    Args:
        matched: matched findings of the whole set.
        counts: the sets, f64 (R, images).
        points: a threshold for each slug.
        members: bool (images,), the images of the subgroup.
    """
    matched, counts = matched.restrict_to(members), counts * members
    thresholded = _operating_point_metrics(apply_thresholds(matched, points), counts)
    areas = compute_auroc(score_images(matched), counts)
    at40, at50 = average_precision(matched, counts, (IOU, 0.5))
    return {
        "map40": mean_over_classes(at40),
        "map50": mean_over_classes(at50),
        "auroc/mean": mean_over_classes(areas[:, :ANY_FINDING]),
        "auroc/any": areas[:, ANY_FINDING],
        **{name: thresholded[name] for name in _THRESHOLDED},
    }


def estimate_all(columns: Columns) -> Metrics:
    """Return value and interval of each metric."""
    return {name: MetricEstimate.of(estimate_interval(column)) for name, column in columns.items()}


def estimate_differences(a: Columns, b: Columns) -> Metrics:
    """Return value and interval of each difference `a - b`, computed on the same sets."""
    return {name: MetricEstimate.of(estimate_interval(a[name] - b[name])) for name in a}


def froc_name(rate: float) -> str:
    """Return the metric name for the sensitivity at a number of false positives per image."""
    return f"froc/{rate:g}"


def _per_class(name: str, table: NDArray[np.float64]) -> Columns:
    return {f"{name}/{finding.slug}": table[:, k] for k, finding in enumerate(CATALOG)}


def _froc(matched: MatchResult, counts: Counts) -> Columns:
    pooled = froc.pooled_sensitivity(matched, counts)
    per_class = froc.per_class_sensitivity(matched, counts)
    columns = {froc_name(rate): pooled[:, k] for k, rate in enumerate(froc.RATES)}
    columns["froc/mean"] = pooled.mean(axis=1)
    for k, rate in enumerate(froc.RATES):
        columns |= _per_class(froc_name(rate), per_class[:, :, k])
    return columns


def _operating_point_metrics(thresholded: ThresholdCounts, counts: Counts) -> Columns:
    false = thresholded.false_positives_per_image(counts)
    found, boxes = counts @ thresholded.true_positives, counts @ thresholded.boxes
    with np.errstate(invalid="ignore"):
        sensitivity = found.sum(axis=1) / boxes.sum(axis=1)
    return {
        "sensitivity": sensitivity,
        "image_specificity": _image_specificity(thresholded, counts),
        # Summed over the classes; a class that is nowhere fully labelled adds none.
        "false_positives": np.nansum(false, axis=1),
        **_per_class("sensitivity", thresholded.sensitivity(counts)),
        **_per_class("false_positives", false),
    }


def _image_specificity(thresholded: ThresholdCounts, counts: Counts) -> NDArray[np.float64]:
    """Return the share of the images without a box that have no false positive."""
    negative = thresholded.boxes.sum(axis=1) == 0
    true_negative = negative & (thresholded.false_positives.sum(axis=1) == 0)
    with np.errstate(invalid="ignore"):
        specificity: NDArray[np.float64] = (counts @ true_negative) / (counts @ negative)
    return specificity
