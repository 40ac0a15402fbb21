"""Renders an evaluation as one HTML page: metrics, charts, and the worst errors drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hilum.catalog import CATALOG
from training.data.dataset import LabelledImage
from training.evaluation.froc import RATES
from training.evaluation.matching import MatchResult
from training.evaluation.metric_table import froc_name
from training.evaluation.report.charts import Axis, Band, IntervalRow, Line, curves, intervals
from training.evaluation.report.error_images import draw_errors
from training.evaluation.report.worst_errors import ErrorCase
from training.evaluation.results import Baseline, Curve, Evaluation, MetricEstimate, Metrics

_HEADLINES: Final = {
    "map50": "mAP at overlap 0.5",
    "map40": "mAP at overlap 0.4",
    "map50_95": "mAP at overlap 0.5 to 0.95",
    "froc/mean": "FROC, mean sensitivity at 1/8 to 8 false positives per image",
    "auroc/mean": "AUROC by image, mean over the classes",
    "auroc/any": "AUROC by image, any finding",
    "sensitivity": "Sensitivity at the operating points, all boxes",
    "false_positives": "False positives per image at the operating points",
    "image_specificity": "Image-level specificity",
    "ece": "Calibration error of findings",
    "ece_image": "Calibration error of images",
}
_SHORT: Final = _HEADLINES | {
    "froc/mean": "FROC, mean sensitivity",
    "sensitivity": "Sensitivity, all boxes",
    "auroc/mean": "AUROC by image, mean",
}
"""Names that leave room for numbers beside them in a chart."""
_PER_CLASS: Final = {
    "ap40": "AP40",
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "false_positives": "false positives / image",
    "ece": "ECE",
}
_SMALL: Final = (156, 156)
"""Size of a class's chart in pixels: two fit beside each other on a phone."""
_HALVES: Final = (0.0, 0.5, 1.0)

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)


def render_report(
    evaluation: Evaluation,
    entries: Sequence[LabelledImage],
    matched: MatchResult,
    errors: Sequence[ErrorCase],
) -> str:
    """Render the report. It holds images of the set, so it is as confidential as the set.

    Args:
        evaluation: the metrics.
        entries: the labelled images.
        matched: the matched findings.
        errors: the cases to draw.

    Returns:
        An HTML page that needs no other file.
    """
    return _TEMPLATES.get_template("report.html.j2").render(
        evaluation=evaluation,
        catalog=CATALOG,
        headlines=_HEADLINES,
        per_class=_PER_CLASS,
        differences=_differences_chart(evaluation.baseline, evaluation),
        froc=_froc_chart(evaluation),
        calibration=_calibration_chart(evaluation),
        average_precision=_average_precision_chart(evaluation),
        precision_recall=_class_charts(
            "Precision and recall", evaluation.curves.precision_recall, "recall", "precision"
        ),
        roc=_class_charts(
            "ROC", evaluation.curves.roc, "false positive rate", "true positive rate"
        ),
        subgroups=_subgroup_charts(evaluation) if evaluation.subgroups else [],
        false_negatives=draw_errors("false_negative", errors, entries, evaluation, matched),
        false_positives=draw_errors("false_positive", errors, entries, evaluation, matched),
    )


def _differences_chart(baseline: Baseline | None, evaluation: Evaluation) -> Markup | None:
    if baseline is None:
        return None
    rows = [
        _row(_SHORT[name], baseline.differences[name])
        for name in _HEADLINES
        if name != "false_positives"  # of another unit: it would set the scale
    ]
    rows += [
        _row(f"{finding.name}: AP50", baseline.differences[f"ap50/{finding.slug}"])
        for finding in CATALOG
        if evaluation.data.classes[finding.slug].boxes
    ]
    reach = max([0.05, *(max(abs(row.low), abs(row.high)) for row in rows)])
    ticks = (-round(reach, 2), 0, round(reach, 2))
    axis = Axis("difference from the baseline", -reach, reach, ticks)
    return intervals("Differences from the baseline", rows, axis, mark_zero=True)


def _froc_chart(evaluation: Evaluation) -> Markup:
    own = _froc_estimates(evaluation.metrics)
    band = Band(RATES, [it.low for it in own], [it.high for it in own])
    lines = [Line(RATES, [it.value for it in own], name="this model")]
    if evaluation.baseline is not None:
        other = _froc_estimates(evaluation.baseline.metrics)
        lines.append(Line(RATES, [it.value for it in other], "baseline", "baseline"))
    x = Axis("false positives per image", RATES[0], RATES[-1], RATES, log=True)
    return curves("FROC of all classes", lines, x, Axis("sensitivity"), band=band)


def _froc_estimates(metrics: Metrics) -> list[MetricEstimate]:
    return [it for rate in RATES if (it := metrics[froc_name(rate)]) is not None]


def _calibration_chart(evaluation: Evaluation) -> Markup:
    bins = evaluation.curves.reliability
    filled = [k for k, number in enumerate(bins.number) if number]
    scores = [bins.mean_score[k] for k in filled]
    shares = [bins.matched_share[k] for k in filled]
    lines = [Line((0, 1), (0, 1), "guide", "perfect calibration"), Line(scores, shares, "dots")]
    x, y = Axis("score of the finding"), Axis("share that matches a box")
    return curves("Calibration of findings", lines, x, y)


def _average_precision_chart(evaluation: Evaluation) -> Markup:
    baseline = evaluation.baseline.metrics if evaluation.baseline else {}
    rows = [
        _row(finding.name, evaluation.metrics[name], baseline.get(name))
        for finding in CATALOG
        for name in (f"ap50/{finding.slug}",)
    ]
    axis = Axis("average precision at overlap 0.5")
    return intervals("Average precision by class", rows, axis)


def _class_charts(
    title: str, by_class: Mapping[str, Curve], x_label: str, y_label: str
) -> list[tuple[str, Markup]]:
    """Return a small chart for each class that has a curve, after the class's name."""
    x, y = (Axis(label, ticks=_HALVES) for label in (x_label, y_label))
    return [
        (
            finding.name,
            curves(f"{title}: {finding.name}", [Line(curve.x, curve.y)], x, y, size=_SMALL),
        )
        for finding in CATALOG
        if (curve := by_class.get(finding.slug)) is not None
    ]


def _subgroup_charts(evaluation: Evaluation) -> list[Markup]:
    charts = []
    for name, label in (
        ("map50", "mAP at overlap 0.5"),
        ("sensitivity", "sensitivity at the operating points"),
    ):
        rows = [_row("all images", evaluation.metrics[name])]
        rows += [
            _row(f"{group.fact} {group.value} ({group.images:,})", group.metrics[name])
            for group in evaluation.subgroups
        ]
        charts.append(intervals(f"Subgroups: {label}", rows, Axis(label)))
    return charts


def _row(
    name: str, estimate: MetricEstimate | None, baseline: MetricEstimate | None = None
) -> IntervalRow:
    if estimate is None:
        return IntervalRow(name, None)
    other = baseline.value if baseline else None
    return IntervalRow(name, estimate.value, estimate.low, estimate.high, other)
