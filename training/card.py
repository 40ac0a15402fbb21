"""The model card: what a bundle is, how good, on what, and what it is not."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hilum.catalog import CATALOG
from training.config import TrainConfig
from training.evaluation.summary import Report

HARDLY: Final = 0.1

_LIMITS: Final = """## Limits

- Real disease looks different from what was painted. Expect missed findings of every class and
  marks where there is nothing, most of all for diffuse ones (infiltration, opacity, fibrosis).
- The few real backgrounds come from one public collection, mostly from one hospital, mostly with
  COVID-19 pneumonia that nobody had outlined; in training an unmarked place on them counted less.
- Scores are no probabilities. Operating points belong to this bundle and this engine variant.
- Frontal views only; not for children."""


@dataclass(frozen=True, slots=True)
class Credit:
    """Whose radiograph was used as a background, and under which licence."""

    file: str
    licence: str
    origin: str
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class Card:
    """All that the card tells; `marks_on_clear_radiographs` counts findings per real image."""

    version: str
    intended_use: str
    command: str
    config: TrainConfig
    train_images: int
    reports: Mapping[str, Report]
    marks_on_clear_radiographs: Mapping[str, Sequence[int]]
    false_positives: float
    credits: Sequence[Credit]


def model_card(card: Card) -> str:
    """The card as Markdown."""
    return (
        "\n\n".join(
            part
            for part in (
                f"# Starter model {card.version}",
                f"**{card.intended_use}**",
                _what(card),
                _figures(card),
                _per_class(card),
                _limits(card),
                _credits(card),
            )
            if part
        )
        + "\n"
    )


def _what(card: Card) -> str:
    config = card.config
    real = (
        "Some were painted wholly, some on real radiographs (credited below) to which only "
        "synthetic findings were added."
        if card.credits
        else "All of them were painted wholly."
    )
    return f"""## What it is

{config.architecture.upper()} with one grey input channel of
{config.input_size} x {config.input_size} pixels, trained from random weights on
{card.train_images:,} synthetic radiographs. {real}
Positions and sizes of the findings follow the readers' boxes of VinDr-CXR (aggregates of its
annotation table; no image of it was seen). The classes are VinDr-CXR's 14.

Made by `{card.command}` (seed {config.seed}; {config.epochs} epochs, the first
{config.small_epochs} at {config.small_size} pixels). It exists so that the agent has something to
run from the first minute; it is to be replaced by a model trained on annotated patients."""


def _figures(card: Card) -> str:
    lines = [
        "## Figures",
        "",
        "On held-out *synthetic* findings, measured through the agent's own engine. Backgrounds of",
        "the held-out sets come from other patients than those of training. **They say nothing",
        "about accuracy on patients.** `quiet` is the share of held-out images without a synthetic",
        "finding that stay unmarked; `real, clear` counts the marks on each held-out real",
        "radiograph whose readers found nothing.",
        "",
        "| engine | mAP@0.4 | mAP@0.5 | quiet | real, clear |",
        "|---|---|---|---|---|",
    ]
    for name, of in card.reports.items():
        marks = ", ".join(map(str, card.marks_on_clear_radiographs.get(name, ()))) or "none seen"
        lines.append(
            f"| {name} | {of.map40:.3f} | {of.map50:.3f} | {of.quiet_share:.0%} | {marks} |"
        )
    images = next(iter(card.reports.values())).images
    lines += [
        "",
        f"Operating points were chosen on one held-out set for at most {card.false_positives:g}",
        "false positives per class and image, but not below the floor, and measured on another",
        f"({images} images each).",
    ]
    return "\n".join(lines)


def _per_class(card: Card) -> str:
    name, of = next(iter(card.reports.items()))
    lines = [
        f"### Per finding ({name})",
        "",
        "`point` is the operating point; sensitivity and false positives per image are there.",
        "",
        "| finding | boxes | AP@0.4 | point | sensitivity | false positives |",
        "|---|---|---|---|---|---|",
    ]
    for finding in CATALOG:
        if (entry := of.per_class.get(finding.slug)) is None:
            lines.append(f"| {finding.name} | 0 | - | {of.points[finding.slug]:.2f} | - | - |")
            continue
        lines.append(
            f"| {finding.name} | {entry['boxes']:.0f} | {entry['ap40']:.2f} "
            f"| {of.points[finding.slug]:.2f} | {entry['sensitivity_at_point']:.2f} "
            f"| {entry['fp_per_image_at_point']:.2f} |"
        )
    return "\n".join(lines)


def _limits(card: Card) -> str:
    """The fixed limits, and by name the findings that this model hardly finds."""
    of = next(iter(card.reports.values()))
    missed = [
        finding.name
        for finding in CATALOG
        if of.per_class.get(finding.slug, {}).get("sensitivity_at_point", 0.0) < HARDLY
    ]
    if not missed:
        return _LIMITS
    names = "\n  ".join(textwrap.wrap(", ".join(missed) + ".", 90))
    hardly = f"- Hardly found at all, even of the synthetic ones (under {HARDLY:.0%}):"
    return f"{_LIMITS}\n{hardly}\n  {names}"


def _credits(card: Card) -> str:
    if not card.credits:
        return ""
    lines = [
        "## Credits",
        "",
        "Backgrounds: the COVID-19 image data collection (Cohen et al., 2020). Changed: shrunk,",
        "cropped, re-windowed, synthetic findings added. None of their pixels are in this bundle.",
        "Lung shapes: aggregates of V7 Labs' lung masks. Box statistics: aggregates of VinDr-CXR's",
        "annotations (Nguyen et al., 2022). Both as mirrored by torchxrayvision.",
        "",
        "| origin | licence | source | files |",
        "|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for credit in card.credits:
        groups.setdefault((credit.origin, credit.licence, credit.source), []).append(credit.file)
    for (origin, licence, source), names in sorted(groups.items()):
        lines.append(f"| {origin} | {licence} | {source} | {', '.join(sorted(names))} |")
    return "\n".join(lines)
