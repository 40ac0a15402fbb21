"""Computes an evaluation from labelled images and findings, without pixels or engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation import calibration_error, froc, metric_table
from training.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Counts,
    draw_resamples,
    estimate_interval,
)
from training.evaluation.image_level import ANY_FINDING, ImageLevel, roc_curve, score_images
from training.evaluation.matching import IOU, FindingsPerImage, MatchResult, match_findings
from training.evaluation.operating_points import apply_thresholds, choose_matched_thresholds
from training.evaluation.results import (
    Baseline,
    ChosenPoint,
    ClassFacts,
    Curve,
    Curves,
    DataFacts,
    EvaluatedModel,
    Evaluation,
    Method,
    MetricEstimate,
    OperatingPointTarget,
    Reliability,
    Subgroup,
)
from training.evaluation.subgroups import find_groups

SENSITIVITIES: Final = (0.8, 0.9)
FALSE_POSITIVES: Final = (0.05, 0.1, 0.2)
_CURVE_POINTS: Final = 200
"""Points of a curve that are kept for the charts."""


@dataclass(frozen=True, slots=True)
class MeasuredDetector:
    """A detector's identity, its thresholds by slug, and its findings on the set."""

    subject: EvaluatedModel
    points: Mapping[str, float]
    points_from: str
    found: FindingsPerImage


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of an evaluation.

    `sensitivities` and `false_positives` (per class and image) are targets; the evaluation states
    the operating points that reach them on this set, none below `floor`.
    """

    split: str
    split_digest: str | None = None
    score_floor: float = 0.05
    floor: float = 0.1
    sensitivities: tuple[float, ...] = SENSITIVITIES
    false_positives: tuple[float, ...] = FALSE_POSITIVES
    resamples: int = RESAMPLES
    seed: int = 0


def evaluate_detector(
    entries: Sequence[LabelledImage],
    measured: MeasuredDetector,
    settings: Settings,
    baseline: MeasuredDetector | None = None,
) -> Evaluation:
    """Compute all metrics with their intervals.

    Args:
        entries: the labelled images.
        measured: the detector.
        settings: settings of the evaluation.
        baseline: another detector on the same images, for the differences.

    Raises:
        TrainingError: there is no image, or no labelled box.
    """
    check_labelled(entries, settings.split)
    matched = match_findings(entries, measured.found)
    counts = draw_resamples(entries, resamples=settings.resamples, seed=settings.seed)
    columns = metric_table.all_metrics(matched, counts, measured.points)
    images = score_images(matched)
    return Evaluation(
        subject=measured.subject,
        data=_data_facts(entries, matched, settings),
        method=Method(
            iou=IOU,
            resamples=settings.resamples,
            seed=settings.seed,
            level=LEVEL,
            score_floor=settings.score_floor,
            points_from=measured.points_from,
        ),
        points=dict(measured.points),
        metrics=metric_table.estimate_all(columns),
        operating_point_targets=tuple(_operating_point_targets(matched, counts, settings)),
        curves=_curves(matched, images),
        subgroups=tuple(
            Subgroup(
                fact=group.fact,
                value=group.value,
                images=int(group.members.sum()),
                boxes=int(matched.boxes[group.members].sum()),
                metrics=metric_table.estimate_all(
                    metric_table.summary_metrics(matched, counts, measured.points, group.members)
                ),
            )
            for group in find_groups(entries)
        ),
        baseline=_compare_baseline(entries, columns, counts, baseline) if baseline else None,
    )


def check_labelled(entries: Sequence[LabelledImage], split: str) -> None:
    """Check that metrics are defined for the set.

    Raises:
        TrainingError: there is no image, or no labelled box.
    """
    if not entries:
        raise TrainingError("there is no image to evaluate on")
    if not any(entry.labels for entry in entries):
        raise TrainingError(
            f"{split} has no labelled box, so no metric is defined",
            hint="Evaluate on a split with at least one labelled finding.",
        )


def _data_facts(
    entries: Sequence[LabelledImage], matched: MatchResult, settings: Settings
) -> DataFacts:
    patients = {entry.patient for entry in entries}
    return DataFacts(
        split=settings.split,
        split_digest=settings.split_digest,
        images=len(entries),
        images_without_box=int((matched.boxes.sum(axis=1) == 0).sum()),
        boxes=int(matched.boxes.sum()),
        patients=None if "" in patients else len(patients),
        classes={
            finding.slug: ClassFacts(
                boxes=int(matched.boxes[:, k].sum()),
                images=int((matched.boxes[:, k] > 0).sum()),
                unlabelled_images=int((~matched.fully_labelled[:, k]).sum()),
            )
            for k, finding in enumerate(CATALOG)
        },
    )


def _compare_baseline(
    entries: Sequence[LabelledImage],
    columns: metric_table.Columns,
    counts: Counts,
    baseline: MeasuredDetector,
) -> Baseline:
    others = metric_table.all_metrics(
        match_findings(entries, baseline.found), counts, baseline.points
    )
    return Baseline(
        subject=baseline.subject,
        points=dict(baseline.points),
        metrics=metric_table.estimate_all(others),
        differences=metric_table.estimate_differences(columns, others),
    )


def _operating_point_targets(
    matched: MatchResult, counts: Counts, settings: Settings
) -> list[OperatingPointTarget]:
    targets: list[tuple[Literal["sensitivity", "false_positives"], float]] = [
        *(("sensitivity", value) for value in settings.sensitivities),
        *(("false_positives", value) for value in settings.false_positives),
    ]
    return [
        _operating_point_target(matched, counts, settings.floor, metric, value)
        for metric, value in targets
    ]


def _operating_point_target(
    matched: MatchResult,
    counts: Counts,
    floor: float,
    metric: Literal["sensitivity", "false_positives"],
    value: float,
) -> OperatingPointTarget:
    if metric == "sensitivity":
        chosen = choose_matched_thresholds(matched, sensitivity=value, floor=floor)
    else:
        chosen = choose_matched_thresholds(matched, false_positives=value, floor=floor)
    thresholded = apply_thresholds(matched, {finding.slug: 1.0 for finding in CATALOG} | chosen)
    found = thresholded.sensitivity(counts)
    false = thresholded.false_positives_per_image(counts)
    points: dict[str, ChosenPoint | None] = dict.fromkeys((f.slug for f in CATALOG), None)
    for finding in CATALOG:
        k, threshold = finding.index, chosen.get(finding.slug)
        if threshold is not None:
            reached = found[0, k] >= value if metric == "sensitivity" else not false[0, k] > value
            points[finding.slug] = ChosenPoint(
                threshold=threshold,
                reached=bool(reached),
                sensitivity=MetricEstimate.of(estimate_interval(found[:, k])),
                false_positives=MetricEstimate.of(estimate_interval(false[:, k])),
            )
    return OperatingPointTarget(metric=metric, value=value, points=points)


def _curves(matched: MatchResult, images: ImageLevel) -> Curves:
    present = [finding for finding in CATALOG if matched.boxes[:, finding.index].any()]
    whole = froc.froc_curve(matched)
    frocs = {"all": _curve(whole.false_positives_per_image, whole.sensitivity)}
    recalls = {}
    for finding in present:
        curve = froc.froc_curve(matched, finding.index)
        frocs[finding.slug] = _curve(curve.false_positives_per_image, curve.sensitivity)
        recalls[finding.slug] = _precision_recall(matched, finding.index)
    columns = [(finding.slug, finding.index) for finding in present] + [("any", ANY_FINDING)]
    number, matched_share, mean_score = calibration_error.bin_findings(matched).reliability()
    return Curves(
        froc=frocs,
        precision_recall=recalls,
        roc={
            name: _curve(*roc_curve(images, k))
            for name, k in columns
            if not images.is_present[images.is_certain[:, k], k].all()
        },
        reliability=Reliability(
            number=tuple(int(n) for n in number),
            mean_score=tuple(round(float(s), 4) for s in mean_score),
            matched_share=tuple(round(float(s), 4) for s in matched_share),
        ),
    )


def _precision_recall(matched: MatchResult, index: int) -> Curve:
    row = matched.row_of(0.5)
    own = (matched.classes == index) & (matched.true_positives[row] | matched.false_positives[row])
    true = np.cumsum(matched.true_positives[row][own])
    recall = true / matched.boxes[:, index].sum()
    return _curve(recall, true / np.arange(1, len(true) + 1))


def _curve(x: NDArray[np.float64], y: NDArray[np.float64]) -> Curve:
    kept = np.unique(np.linspace(0, max(0, len(x) - 1), _CURVE_POINTS).round().astype(int))[
        : len(x)
    ]
    return Curve(
        x=tuple(round(float(v), 5) for v in x[kept]), y=tuple(round(float(v), 5) for v in y[kept])
    )
