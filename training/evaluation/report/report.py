"""An evaluation as one page that opens anywhere: figures, curves, and the worst misses drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from hilum.catalog import CATALOG
from training.data.dataset import LabelledImage
from training.evaluation.froc import RATES
from training.evaluation.matching import MatchResult
from training.evaluation.metric_table import rate_name
from training.evaluation.report import svg
from training.evaluation.report.error_images import drawn
from training.evaluation.report.style import STYLE
from training.evaluation.report.worst_errors import Miss
from training.evaluation.results import (
    EvaluatedModel,
    Evaluation,
    MetricEstimate,
    OperatingPointTarget,
)

_HEADLINES: Final = (
    ("map50", "mAP at overlap 0.5"),
    ("map40", "mAP at overlap 0.4"),
    ("map50_95", "mAP at overlap 0.5 to 0.95"),
    ("froc/mean", "FROC, mean sensitivity from 1/8 to 8 false marks per image"),
    ("auroc/mean", "AUROC by image, mean over the classes"),
    ("auroc/any", "AUROC by image, any finding at all"),
    ("sensitivity", "Sensitivity at the operating points, all boxes"),
    ("false_positives", "False marks per image at the operating points"),
    ("quiet_share", "Images without a box that stay unmarked"),
    ("ece", "Calibration error of findings"),
    ("ece_image", "Calibration error of images"),
)
_COMPARED: Final = tuple((name, words) for name, words in _HEADLINES if name != "false_positives")
_TITLES: Final = (
    "boxes",
    "images",
    "may hide",
    "point",
    "AP40",
    "AUROC",
    "sensitivity",
    "false marks / image",
    "ECE",
)
_FROC_AXIS: Final = svg.Axis("false marks per image", 0.125, 8, RATES, log=True)


def page(
    evaluation: Evaluation,
    entries: Sequence[LabelledImage],
    matched: MatchResult,
    misses: Sequence[Miss],
) -> str:
    """The report as HTML; pictures are in it, so it is to be kept where the data may be kept."""
    sections = [
        _head(evaluation),
        _gate(evaluation),
        _headlines(evaluation),
        _compared(evaluation),
        _overall_curves(evaluation),
        _per_class(evaluation),
        _small_curves(evaluation),
        _aims(evaluation),
        _subgroups(evaluation),
        drawn(evaluation, entries, matched, misses),
        _definitions(evaluation),
    ]
    title = f"Evaluation of {evaluation.subject.name} {evaluation.subject.version}".strip()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        f"{''.join(filter(None, sections))}</main></body></html>\n"
    )


def _head(of: Evaluation) -> str:
    data = of.data
    patients = "" if data.patients is None else f" of {data.patients:,} patients"
    digest = f" (split digest <code>{data.split_digest[:16]}</code>)" if data.split_digest else ""
    return (
        f"<p class='lead'>{_subject(of.subject)}, on <b>{escape(data.split)}</b>{digest}: "
        f"{data.images:,} images{patients}, {data.clear_images:,} of them without a finding; "
        f"{data.boxes:,} boxes. Brackets hold 95% intervals from {of.method.resamples:,} re-drawn "
        f"sets. {escape(_sentence(of.method.points_from))}</p>"
        "<p class='note'>Research use only. This page holds pictures from the set: keep it where "
        "the set may be kept.</p>"
    )


def _sentence(said: str) -> str:
    return f"Operating points: {said}."


def _subject(of: EvaluatedModel) -> str:
    what = "Bundle" if of.kind == "bundle" else "Weights"
    version = f" {escape(of.version)}" if of.version else ""
    return (
        f"{what} <b>{escape(of.name)}{version}</b> (<code>{of.digest[:16]}</code>) through "
        f"{escape(of.engine)} on {escape(of.device)}"
    )


def _gate(of: Evaluation) -> str:
    if of.gate is None:
        return ""
    rows = "".join(
        f"<tr class='{'pass' if verdict.passed else 'fail'}'>"
        f"<td>{'pass' if verdict.passed else 'FAIL'}</td>"
        f"<td>{escape(verdict.rule)}</td><td>{escape(verdict.said)}</td></tr>"
        for verdict in of.gate
    )
    failed = sum(not verdict.passed for verdict in of.gate)
    said = f"{failed} of {len(of.gate)} rules fail" if failed else "All rules are kept"
    return (
        f"<h2>Gate: {said}</h2><table><tr><th></th><th>rule</th><th>figure</th></tr>{rows}</table>"
    )


def _headlines(of: Evaluation) -> str:
    rows = "".join(
        f"<tr><td>{escape(words)}</td><td class='n'>{_told(of.figures[name])}</td>"
        f"<td><code>{name}</code></td></tr>"
        for name, words in _HEADLINES
    )
    return (
        "<h2>Figures</h2><table><tr><th></th><th class='n'>value and interval</th>"
        f"<th>name</th></tr>{rows}</table>"
    )


def _compared(of: Evaluation) -> str:
    if of.baseline is None:
        return ""
    bars = [_bar(words, of.baseline.differences[name]) for name, words in _COMPARED]
    bars += [
        _bar(f"{finding.name}: AP50", of.baseline.differences[f"ap50/{finding.slug}"])
        for finding in CATALOG
        if of.data.classes[finding.slug].boxes
    ]
    reach = max([0.05, *(max(abs(bar.low), abs(bar.high)) for bar in bars)])
    axis = svg.Axis(
        "this one less the baseline", -reach, reach, (-round(reach, 2), 0, round(reach, 2))
    )
    chart = svg.intervals(bars, axis, described="Differences from the baseline", zero=0)
    return (
        f"<h2>Beside the baseline</h2><p>{_subject(of.baseline.subject)}, on the same images; both "
        "are measured on the same re-drawn sets. An interval that leaves out 0 is a difference "
        f"that chance hardly explains.</p>{chart}"
    )


def _overall_curves(of: Evaluation) -> str:
    told = [figure for rate in RATES if (figure := of.figures[rate_name(rate)]) is not None]
    band = svg.Band(RATES, [f.low for f in told], [f.high for f in told])
    series = [svg.Line(RATES, [f.value for f in told], name="this detector")]
    if of.baseline is not None:
        others = [f for rate in RATES if (f := of.baseline.figures[rate_name(rate)]) is not None]
        series.append(svg.Line(RATES, [f.value for f in others], "other", "baseline"))
    froc = svg.lines(
        series, _FROC_AXIS, svg.unit("sensitivity"), band=band, described="FROC of all classes"
    )
    curve = of.curves.reliability
    filled = [k for k, number in enumerate(curve.number) if number]
    calibration = svg.lines(
        [
            svg.Line((0, 1), (0, 1), "guide", "as it should be"),
            svg.Line(
                [curve.score[k] for k in filled], [curve.right[k] for k in filled], "own dots"
            ),
        ],
        svg.unit("score of the finding"),
        svg.unit("share that met a box"),
        described="Calibration of findings",
    )
    numbers = ", ".join(f"{number:,}" for number in curve.number)
    return (
        f"<h2>Curves</h2><div class='row'><figure>{froc}<figcaption>FROC: share of all boxes found "
        "where so many false marks per image are put up with, one threshold for all classes."
        f"</figcaption></figure><figure>{calibration}<figcaption>Calibration of findings. In the "
        f"ten bins from 0 to 1 lie {numbers} findings.</figcaption></figure></div>"
    )


def _per_class(of: Evaluation) -> str:
    bars, rows = [], []
    for finding in CATALOG:
        facts = of.data.classes[finding.slug]
        figure = of.figures[f"ap50/{finding.slug}"]
        other = of.baseline.figures[f"ap50/{finding.slug}"] if of.baseline else None
        bars.append(_bar(finding.name, figure, other))
        cells = [
            _told(of.figures[f"{name}/{finding.slug}"])
            for name in ("ap40", "auroc", "sensitivity", "false_positives", "ece")
        ]
        rows.append(
            f"<tr><td>{finding.name}</td><td class='n'>{facts.boxes:,}</td>"
            f"<td class='n'>{facts.images:,}</td><td class='n'>{facts.hidden_in:,}</td>"
            f"<td class='n'>{of.points[finding.slug]:.4g}</td>"
            + "".join(f"<td class='n'>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    chart = svg.intervals(
        bars, svg.unit("average precision at overlap 0.5"), described="Average precision by class"
    )
    head = "".join(f"<th class='n'>{title}</th>" for title in _TITLES)
    hollow = "<p class='note'>Hollow: the baseline.</p>" if of.baseline else ""
    return (
        f"<h2>Class by class</h2>{chart}{hollow}<div class='wide'><table class='small'>"
        f"<tr><th></th>{head}</tr>{''.join(rows)}</table></div>"
        "<p class='note'>Sensitivity and false marks are at the "
        "operating point. 'May hide' counts the images in which the class may be without being "
        "labelled: there a mark that met no box is neither right nor wrong.</p>"
    )


def _small_curves(of: Evaluation) -> str:
    def small(curve_of: Callable[[str], svg.Line | None], x: svg.Axis, y: svg.Axis) -> str:
        figures = []
        for finding in CATALOG:
            line = curve_of(finding.slug)
            if line is not None:
                chart = svg.lines([line], x, y, size=(208, 176), described=finding.name)
                caption = f"<figcaption>{finding.name}</figcaption>"
                figures.append(f"<figure>{chart}{caption}</figure>")
        return f"<div class='row'>{''.join(figures)}</div>"

    def precision(slug: str) -> svg.Line | None:
        curve = of.curves.precision_recall.get(slug)
        return svg.Line(curve.x, curve.y) if curve else None

    def roc(slug: str) -> svg.Line | None:
        curve = of.curves.roc.get(slug)
        return svg.Line(curve.x, curve.y) if curve else None

    halves = (0.0, 0.5, 1.0)
    zero_one = [svg.Axis(name, 0, 1, halves) for name in ("recall", "precision")]
    rates = [svg.Axis(name, 0, 1, halves) for name in ("false positive rate", "true positive rate")]
    return (
        f"<details open><summary>Precision and recall, by class (overlap 0.5)</summary>"
        f"{small(precision, *zero_one)}</details>"
        f"<details><summary>ROC by image, by class</summary>{small(roc, *rates)}</details>"
    )


def _aims(of: Evaluation) -> str:
    def cell(aim: OperatingPointTarget, slug: str) -> str:
        point = aim.points[slug]
        if point is None:
            return "<td class='n none'>no example</td>"
        reached = "" if point.reached else " (not reached)"
        other = point.false_positives if aim.aim == "sensitivity" else point.sensitivity
        return f"<td class='n'>{point.threshold:.4g}{reached}<br><small>{_told(other)}</small></td>"

    heads = "".join(
        f"<th class='n'>sensitivity {aim.at:g}<br><small>false marks / image</small></th>"
        if aim.aim == "sensitivity"
        else f"<th class='n'>{aim.at:g} false marks / image<br><small>sensitivity</small></th>"
        for aim in of.aims
    )
    rows = "".join(
        f"<tr><td>{finding.name}</td>{''.join(cell(aim, finding.slug) for aim in of.aims)}</tr>"
        for finding in CATALOG
    )
    return (
        "<details><summary>Operating points that this set would give, for stated aims</summary>"
        "<p class='note'>Chosen and told on the same images, so what they promise is a little too "
        "good. False marks are of the class, per image in which they can be told.</p>"
        f"<div class='wide'><table class='small'><tr><th></th>{heads}</tr>{rows}</table></div>"
        "</details>"
    )


def _subgroups(of: Evaluation) -> str:
    if not of.subgroups:
        return "<h2>Subgroups</h2><p>The set tells no fact that would part its images.</p>"
    charts = []
    for name, words in (("map50", "mAP at overlap 0.5"), ("sensitivity", "sensitivity")):
        bars = [_bar("all images", of.figures[name])]
        bars += [
            _bar(f"{group.fact} {group.value} ({group.images:,} images)", group.figures[name])
            for group in of.subgroups
        ]
        axis = svg.unit(words if name == "map50" else "sensitivity at the operating points")
        chart = svg.intervals(bars, axis, described=f"{words} by subgroup")
        charts.append(f"<figure>{chart}</figure>")
    return (
        f"<h2>Subgroups</h2>{''.join(charts)}<p class='note'>The mean precision of a subgroup is "
        "over the classes that it shows, so subgroups that show other classes are not quite "
        "comparable.</p>"
    )


def _bar(name: str, figure: MetricEstimate | None, other: MetricEstimate | None = None) -> svg.Bar:
    if figure is None:
        return svg.Bar(name, None, said="no example")
    return svg.Bar(
        name, figure.value, figure.low, figure.high, other=other.value if other else None
    )


def _told(figure: MetricEstimate | None) -> str:
    if figure is None:
        return "<span class='none'>no example</span>"
    return f"{figure.value:.3f} <span class='i'>[{figure.low:.3f}, {figure.high:.3f}]</span>"


def _definitions(of: Evaluation) -> str:
    return f"""<h2>What the figures mean</h2><ul>
<li>A finding meets a box of its class if they overlap by at least {of.method.iou:g} (intersection
over union), unless another overlap is named; each box is met once, by the surest finding.</li>
<li>Average precision and mAP are COCO's, by its library: 101 recalls, interpolated; classes without
a box are left out of the mean.</li>
<li>FROC: false marks of each class per image in which they can be told, summed over the classes.
The detector's list ends at score {of.method.score_floor:g}; beyond what it ever marks, sensitivity
stays at its last value.</li>
<li>AUROC: the chance that an image with the class scores higher than one without; an image's score
is that of its surest finding, 0 without any.</li>
<li>Calibration error: ten equal bins of the score; in each, the difference between the mean score
and the share that was right; averaged, weighted by how much lies in the bin. Of findings: those
that met a box were right. Of images: those that show the class were.</li>
<li>Intervals: {of.method.resamples:,} sets re-drawn from this one, image by image (those of a known
patient together), the middle 95%. They tell how figures vary between sets like this one, and
nothing of sets that are unlike it.</li></ul>"""
