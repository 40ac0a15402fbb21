"""From labelled images and what was found on them to an evaluation, without pixels or engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation import calibration, froc, metric_table
from training.evaluation.bootstrap import LEVEL, RESAMPLES, Counts, draws, interval
from training.evaluation.image_level import ANY, ImageLevel, image_level, roc
from training.evaluation.matching import IOU, Found, MatchResult, match
from training.evaluation.operating_points import at_points, choose_from
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
from training.evaluation.subgroups import groups

SENSITIVITIES: Final = (0.8, 0.9)
FALSE_POSITIVES: Final = (0.05, 0.1, 0.2)
_DRAWN: Final = 200
"""Points of a curve that are kept for drawing."""


@dataclass(frozen=True, slots=True)
class MeasuredDetector:
    """A detector on the set: who it is, where its thresholds lie, what it found."""

    subject: EvaluatedModel
    points: Mapping[str, float]
    points_from: str
    found: Found


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure.

    `sensitivities` and `false_positives` (per class and image) are aims for which the operating
    points are told that this set would give, none of them under `floor`.
    """

    split: str
    split_digest: str | None = None
    score_floor: float = 0.05
    floor: float = 0.1
    sensitivities: tuple[float, ...] = SENSITIVITIES
    false_positives: tuple[float, ...] = FALSE_POSITIVES
    resamples: int = RESAMPLES
    seed: int = 0


def evaluate(
    entries: Sequence[LabelledImage],
    measured: MeasuredDetector,
    settings: Settings,
    baseline: MeasuredDetector | None = None,
) -> Evaluation:
    """All figures with their intervals.

    Raises:
        TrainingError: there is no image, or not one labelled box.
    """
    check_labelled(entries, settings.split)
    matched = match(entries, measured.found)
    counts = draws(entries, resamples=settings.resamples, seed=settings.seed)
    columns = metric_table.everything(matched, counts, measured.points)
    images = image_level(matched)
    return Evaluation(
        subject=measured.subject,
        data=_facts(entries, matched, settings),
        method=Method(
            iou=IOU,
            resamples=settings.resamples,
            seed=settings.seed,
            level=LEVEL,
            score_floor=settings.score_floor,
            points_from=measured.points_from,
        ),
        points=dict(measured.points),
        figures=metric_table.told(columns),
        aims=tuple(_aims(matched, counts, settings)),
        curves=_curves(matched, images),
        subgroups=tuple(
            Subgroup(
                fact=group.fact,
                value=group.value,
                images=int(group.members.sum()),
                boxes=int(matched.boxes[group.members].sum()),
                figures=metric_table.told(
                    metric_table.in_short(matched, counts, measured.points, group.members)
                ),
            )
            for group in groups(entries)
        ),
        baseline=_compared(entries, columns, counts, baseline) if baseline else None,
    )


def check_labelled(entries: Sequence[LabelledImage], split: str) -> None:
    """Refuse a set on which nothing can be measured.

    Raises:
        TrainingError: there is no image, or not one labelled box.
    """
    if not entries:
        raise TrainingError("there is no image to evaluate on")
    if not any(entry.labels for entry in entries):
        raise TrainingError(
            f"{split} has no labelled box: there is nothing to find",
            hint="Evaluate on a split that shows at least one finding.",
        )


def _facts(entries: Sequence[LabelledImage], matched: MatchResult, settings: Settings) -> DataFacts:
    patients = {entry.patient for entry in entries}
    return DataFacts(
        split=settings.split,
        split_digest=settings.split_digest,
        images=len(entries),
        clear_images=int((matched.boxes.sum(axis=1) == 0).sum()),
        boxes=int(matched.boxes.sum()),
        patients=None if "" in patients else len(patients),
        classes={
            finding.slug: ClassFacts(
                boxes=int(matched.boxes[:, k].sum()),
                images=int((matched.boxes[:, k] > 0).sum()),
                hidden_in=int((~matched.known[:, k]).sum()),
            )
            for k, finding in enumerate(CATALOG)
        },
    )


def _compared(
    entries: Sequence[LabelledImage],
    columns: metric_table.Columns,
    counts: Counts,
    baseline: MeasuredDetector,
) -> Baseline:
    others = metric_table.everything(match(entries, baseline.found), counts, baseline.points)
    return Baseline(
        subject=baseline.subject,
        points=dict(baseline.points),
        figures=metric_table.told(others),
        differences=metric_table.differences(columns, others),
    )


def _aims(matched: MatchResult, counts: Counts, settings: Settings) -> list[OperatingPointTarget]:
    wanted: list[tuple[Literal["sensitivity", "false_positives"], float]] = [
        *(("sensitivity", at) for at in settings.sensitivities),
        *(("false_positives", at) for at in settings.false_positives),
    ]
    return [_aim(matched, counts, settings.floor, aim, at) for aim, at in wanted]


def _aim(
    matched: MatchResult,
    counts: Counts,
    floor: float,
    aim: Literal["sensitivity", "false_positives"],
    at: float,
) -> OperatingPointTarget:
    if aim == "sensitivity":
        chosen = choose_from(matched, sensitivity=at, floor=floor)
    else:
        chosen = choose_from(matched, false_positives=at, floor=floor)
    done = at_points(matched, {finding.slug: 1.0 for finding in CATALOG} | chosen)
    found, false = done.sensitivity(counts), done.false_positives(counts)
    points: dict[str, ChosenPoint | None] = dict.fromkeys((f.slug for f in CATALOG), None)
    for finding in CATALOG:
        k, threshold = finding.index, chosen.get(finding.slug)
        if threshold is not None:
            kept = found[0, k] >= at if aim == "sensitivity" else not false[0, k] > at
            points[finding.slug] = ChosenPoint(
                threshold=threshold,
                reached=bool(kept),
                sensitivity=MetricEstimate.of(interval(found[:, k])),
                false_positives=MetricEstimate.of(interval(false[:, k])),
            )
    return OperatingPointTarget(aim=aim, at=at, points=points)


def _curves(matched: MatchResult, images: ImageLevel) -> Curves:
    present = [finding for finding in CATALOG if matched.boxes[:, finding.index].any()]
    whole = froc.curve(matched)
    frocs = {"all": _curve(whole.false, whole.sensitivity)}
    recalls = {}
    for finding in present:
        of = froc.curve(matched, finding.index)
        frocs[finding.slug] = _curve(of.false, of.sensitivity)
        recalls[finding.slug] = _precision_recall(matched, finding.index)
    told = [(finding.slug, finding.index) for finding in present] + [("any", ANY)]
    number, right, score = calibration.of_findings(matched).reliability()
    return Curves(
        froc=frocs,
        precision_recall=recalls,
        roc={
            name: _curve(*roc(images, k))
            for name, k in told
            if not images.present[images.told[:, k], k].all()
        },
        reliability=Reliability(
            number=tuple(int(n) for n in number),
            score=tuple(round(float(s), 4) for s in score),
            right=tuple(round(float(r), 4) for r in right),
        ),
    )


def _precision_recall(matched: MatchResult, index: int) -> Curve:
    row = matched.at(0.5)
    own = (matched.classes == index) & (matched.hits[row] | matched.false[row])
    true = np.cumsum(matched.hits[row][own])
    recall = true / matched.boxes[:, index].sum()
    return _curve(recall, true / np.arange(1, len(true) + 1))


def _curve(x: NDArray[np.float64], y: NDArray[np.float64]) -> Curve:
    kept = np.unique(np.linspace(0, max(0, len(x) - 1), _DRAWN).round().astype(int))[: len(x)]
    return Curve(
        x=tuple(round(float(v), 5) for v in x[kept]), y=tuple(round(float(v), 5) for v in y[kept])
    )
