"""The model card of a trained model, written from its evaluation and its proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hilum.catalog import CATALOG
from training.config import BundleConfig, TrainConfig
from training.evaluation.parity import ParityResult, VariantParity
from training.evaluation.results import Evaluation, MetricEstimate

HARDLY: Final = 0.1
_LIMITS: Final = (
    "Scores are no probabilities. Operating points belong to this bundle and this engine variant.",
    "Frontal views only.",
)
_SUBGROUP_FIGURES: Final = ("map50", "auroc/mean", "sensitivity", "false_positives")


@dataclass(frozen=True, slots=True)
class ModelCardData:
    """All that the card tells. `images` counts those that were trained on."""

    bundle: BundleConfig
    train: TrainConfig
    data: str
    images: int
    evaluation: Evaluation
    parity: ParityResult
    shipped: Sequence[VariantParity]


def write_model_card(card: ModelCardData) -> str:
    """Return the model card as Markdown."""
    parts = (
        f"# {card.bundle.name} {card.bundle.version}\n\n**{card.bundle.intended_use}**",
        _what(card),
        _metrics(card.evaluation),
        _parity(card),
        _per_class(card),
        _subgroups(card.evaluation),
        _limits(card),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(card: ModelCardData) -> str:
    train, split = card.train, card.evaluation.data
    start = train.weights.name if train.weights else "random weights"
    base = f", SHA-256 `{train.weights_sha256}`" if train.weights else ""
    return f"""## What it is

{train.architecture.upper()} ({train.activation}) with one grey input channel of {train.input_size}
x {train.input_size} pixels, trained from {start}{base} on {card.images:,} images of {card.data}
(seed {train.seed}, at most {train.epochs} epochs). The classes are the 14 findings of VinDr-CXR.
Made by `{card.bundle.command}`.

**This version:** {card.bundle.modifications}

**What it means for those who use it:** {card.bundle.impact}

The figures are of the split `{split.split}` ({split.images:,} images, {split.boxes:,} boxes,
{split.images_without_box:,} images without a finding). It was frozen before the run; its
digest begins with `{(split.split_digest or "none")[:16]}`."""


def _metrics(evaluation: Evaluation) -> str:
    rows = [
        ("mAP@0.4", "map40"),
        ("mAP@0.5", "map50"),
        ("mAP@0.5:0.95", "map50_95"),
        ("FROC, mean sensitivity at 1/8 to 8 false positives an image", "froc/mean"),
        ("AUROC, mean over findings", "auroc/mean"),
        ("AUROC, any finding", "auroc/any"),
        ("sensitivity at the operating points", "sensitivity"),
        ("false positives per image there", "false_positives"),
        ("image-level specificity", "image_specificity"),
        ("calibration error", "ece"),
    ]
    lines = ["## Figures", "", "Of the weights in FP32, as trained.", ""]
    lines += ["| figure | value | 95% interval |", "|---|---|---|"]
    for title, name in rows:
        lines.append(f"| {title} | {' | '.join(_cells(evaluation.metrics.get(name)))} |")
    lines += ["", f"Operating points: {evaluation.method.points_from}."]
    return "\n".join(lines)


def _parity(card: ModelCardData) -> str:
    bounds = card.parity.bounds
    lines = [
        "## What is shipped, beside what was trained",
        "",
        f"Every engine variant on the same {card.parity.images:,} images as the weights. Declared",
        f"before the run: mAP@0.5 at most {bounds.map50_drop:g} down, no finding's sensitivity at",
        f"its operating point more than {bounds.sensitivity_drop:g} down. All kept.",
        "",
        "| variant | mAP@0.5 | down by | 95% interval | sensitivity, worst drop | box moved, px |",
        "|---|---|---|---|---|---|",
    ]
    reference = card.shipped[0].map50.reference
    lines.append(f"| torch, FP32 | {reference:.3f} | - | - | - | - |")
    for it in card.shipped:
        shift = it.box_shift
        lines.append(
            f"| {it.name} | {it.map50.variant:.3f} | {it.map50.drop:+.4f} "
            f"| {it.map50.low:+.4f} to {it.map50.high:+.4f} | {_largest(it)} "
            f"| {shift.median_px:.1f}, at worst {shift.worst_px:.1f} |"
        )
    stood_in = [it.name for it in card.shipped if it.engine.startswith("ONNX Runtime in")]
    if stood_in:
        lines += [
            "",
            f"ONNX Runtime computed {', '.join(stood_in)} in TensorRT's place, on the same graph:",
            "no card was asked. Every box that has one asks it, by the golden cases.",
        ]
    for name, why in card.parity.not_measured.items():
        lines += ["", f"Not measured and not shipped: {name} ({why})."]
    return "\n".join(lines)


def _largest(variant: VariantParity) -> str:
    if not variant.sensitivity:
        return "-"
    slug = max(variant.sensitivity, key=lambda it: variant.sensitivity[it].drop)
    return f"{variant.sensitivity[slug].drop:+.3f} ({slug})"


def _per_class(card: ModelCardData) -> str:
    metrics, first = card.evaluation.metrics, card.shipped[0]
    lines = [
        "## Per finding",
        "",
        f"`point` is the operating point of {first.name}; all else is of the weights.",
        "",
        "| finding | boxes | AP@0.4 | AP@0.5 | AUROC | sensitivity | false positives | point |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for finding in CATALOG:
        facts = card.evaluation.data.classes[finding.slug]
        cells = [
            _value(metrics.get(f"{name}/{finding.slug}"))
            for name in ("ap40", "ap50", "auroc", "sensitivity", "false_positives")
        ]
        point = f"{first.points[finding.slug]:.2f}"
        lines.append(f"| {finding.name} | {facts.boxes} | {' | '.join(cells)} | {point} |")
    return "\n".join(lines)


def _subgroups(evaluation: Evaluation) -> str:
    if not evaluation.subgroups:
        return "## Subgroups\n\nThe set states no facts about patients or devices: none were told."
    lines = [
        "## Subgroups",
        "",
        "| fact | value | images | mAP@0.5 | AUROC | sensitivity | false positives |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in evaluation.subgroups:
        cells = [_value(group.metrics.get(name)) for name in _SUBGROUP_FIGURES]
        lines.append(f"| {group.fact} | {group.value} | {group.images} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _limits(card: ModelCardData) -> str:
    return "\n".join(["## Limits", "", *(f"- {limit}" for limit in limits_of(card))])


def limits_of(card: ModelCardData) -> tuple[str, ...]:
    """Return the limits: as configured, those of every model, and those that the metrics show."""
    metrics = card.evaluation.metrics
    absent = [f.name for f in CATALOG if not card.evaluation.data.classes[f.slug].boxes]
    missed = [
        finding.name
        for finding in CATALOG
        if _below(metrics, f"sensitivity/{finding.slug}") and finding.name not in absent
    ]
    found = list(card.bundle.limits)
    found += _LIMITS
    if missed:
        found.append(f"Hardly found at all (sensitivity under {HARDLY:.0%}): {', '.join(missed)}.")
    if absent:
        found.append(f"Nothing is known of: {', '.join(absent)} (no example to judge by).")
    return tuple(found)


def _below(metrics: Mapping[str, MetricEstimate | None], name: str) -> bool:
    estimate = metrics.get(name)
    return estimate is not None and estimate.value < HARDLY


def _value(figure: MetricEstimate | None) -> str:
    return "-" if figure is None else f"{figure.value:.2f}"


def _cells(figure: MetricEstimate | None) -> tuple[str, str]:
    if figure is None:
        return "-", "no example"
    return f"{figure.value:.3f}", f"{figure.low:.3f} to {figure.high:.3f}"
