"""The content check's verdicts on images that it was not trained on, as tables in Markdown."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edge_agent.core.content_check import ContentProbabilities, assess_content
from hilum.manifest import ContentCheckThresholds
from training.bundle.layout import CONTENT_CHECK_HEADING
from training.content_check import image_sources
from training.content_check.image_sources import Content
from training.content_check.network import predict
from training.content_check.train import HeldOutResult, TrainedCheck, TrainingPlan
from training.content_check.views import to_input
from training.errors import TrainingError

_SUFFIXES: Final = frozenset({".dcm", ".jpg", ".jpeg", ".png"})
_LEFT_OUT: Final = ("RG1_", "MR-SIEMENS")
"""Beginnings of names: a chest, and a wider cut of a slice that is a training image."""
_SAME: Final = 0.9
"""Correlation from which on two images count as the same."""


@dataclass(frozen=True, slots=True)
class VerdictCounts:
    """One line of a confusion table: a kind of image, their number, and the verdicts' numbers."""

    kind: str
    count: int
    refused: Counter[str]
    warned: Counter[str]

    @property
    def passed(self) -> int:
        """The number of images that were neither refused nor warned of."""
        return self.count - self.refused.total() - self.warned.total()


def count_verdicts(
    kind: str, probabilities: Sequence[ContentProbabilities], thresholds: ContentCheckThresholds
) -> VerdictCounts:
    """Count the verdicts of images.

    An image with several warnings counts once, under all their codes.

    Args:
        kind: the kind of image, for the table.
        probabilities: the network's outputs, one per image.
        thresholds: of the content check.

    Returns:
        The numbers.
    """
    refused: Counter[str] = Counter()
    warned: Counter[str] = Counter()
    for image in probabilities:
        verdict = assess_content(image, thresholds)
        if verdict.refusal:
            refused[verdict.refusal.value] += 1
        elif verdict.warnings:
            warned[" + ".join(warning.code.value for warning in verdict.warnings)] += 1
    return VerdictCounts(kind, len(probabilities), refused, warned)


def count_by_treatment(
    left_out: Iterable[HeldOutResult], thresholds: ContentCheckThresholds
) -> list[VerdictCounts]:
    """Count the verdicts of real radiographs by treatment."""
    by_treatment: dict[str, list[ContentProbabilities]] = {}
    for result in left_out:
        by_treatment.setdefault(result.treatment, []).append(result.probabilities)
    return [count_verdicts(treatment, of, thresholds) for treatment, of in by_treatment.items()]


def count_by_kind(
    unseen: Iterable[HeldOutResult], thresholds: ContentCheckThresholds
) -> list[VerdictCounts]:
    """Count the verdicts of painted images by kind."""
    by_kind: dict[str, list[ContentProbabilities]] = {}
    for result in unseen:
        by_kind.setdefault(result.image.kind, []).append(result.probabilities)
    return [count_verdicts(kind, of, thresholds) for kind, of in by_kind.items()]


def load_other_images(folders: Sequence[Path]) -> list[image_sources.ContentImage]:
    """Load every readable image of some folders, except RG1 (a chest).

    An image in several files counts once. A training image does not count, because packages carry
    copies of each other's files.
    """
    training = [image.pixels for image in image_sources.load_packaged()] if folders else []
    found: list[image_sources.ContentImage] = []
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES):
            if path.name.startswith(_LEFT_OUT):
                continue
            try:
                pixels = image_sources.shrink(image_sources.read_other_image(path))
            except TrainingError:
                continue
            if not any(
                _is_same_image(pixels, known) for known in [*training, *(p.pixels for p in found)]
            ):
                found.append(image_sources.ContentImage(path.name, Content.OTHER, "real", pixels))
    return found


def _is_same_image(first: image_sources.Pixels, second: image_sources.Pixels) -> bool:
    """Return True if two images are the same but for compression or window."""
    pair = np.stack([to_input(first).ravel(), to_input(second).ravel()]).astype(np.float64)
    pair -= pair.mean(axis=1, keepdims=True)
    spread = np.sqrt((pair**2).sum(axis=1)).prod()
    return bool(spread == 0 or float(pair[0] @ pair[1]) / spread > _SAME)


def format_table(rows: Sequence[VerdictCounts], first: str) -> str:
    """Format rows as a Markdown table; `first` is the first column's heading."""
    lines = [f"| {first} | n | passed | warned | refused |", "|---|---|---|---|---|"]
    lines += [
        f"| {r.kind} | {r.count} | {r.passed} "
        f"| {_format_codes(r.warned)} | {_format_codes(r.refused)} |"
        for r in rows
    ]
    return "\n".join(lines)


def _format_codes(codes: Counter[str]) -> str:
    return ", ".join(f"{count} `{code}`" for code, count in sorted(codes.items())) or "0"


def format_report(trained: TrainedCheck, others: Sequence[image_sources.ContentImage]) -> str:
    """Format all tables; `others` are real images of no chest that are no training images."""
    thresholds = trained.thresholds
    seen = predict(trained.network, [to_input(image.pixels) for image in others]) if others else []
    each = [count_verdicts(p.name, [of], thresholds) for p, of in zip(others, seen, strict=True)]
    parts = [
        "Real frontal radiographs, each judged by a network trained without its patient:",
        format_table(count_by_treatment(trained.left_out, thresholds), "treatment"),
        "Painted images of other seeds than the training images:",
        format_table(count_by_kind(trained.unseen, thresholds), "kind"),
    ]
    if others:
        parts += [
            "Real images of something else, none of them training images:",
            format_table([count_verdicts("all", seen, thresholds), *each], "image"),
        ]
    chosen = ", ".join(f"{name} {value:.4f}" for name, value in thresholds.model_dump().items())
    return "\n\n".join([*parts, f"Thresholds: {chosen}."]) + "\n"


def format_card_section(trained: TrainedCheck, plan: TrainingPlan) -> str:
    """Format the content check's section of a model card."""
    rows = {r.kind: r for r in count_by_treatment(trained.left_out, trained.thresholds)}
    unchanged = rows["unchanged"]
    rotated = [rows[f"rotated {k}"] for k in (90, 180, 270)]
    patients = len({result.image.patient for result in trained.left_out})
    refused, of_rotated = sum(r.refused.total() for r in rotated), sum(r.count for r in rotated)
    text = (
        "A small network checks each image before detection: is it a frontal chest, upright, with "
        "bright bone? Images that clearly are not are refused; unsure cases get a warning. "
        f"It was trained on {unchanged.count} real frontal radiographs of {patients} patients, on "
        "painted chests, and on painted and a few real images of other things. With each patient "
        f"left out in turn, {unchanged.refused.total()} of {unchanged.count} were refused and "
        f"{unchanged.warned.total()} warned of; of the same, rotated by 90, 180 or 270 degrees, "
        f"{refused} of {of_rotated} were refused, and of the same, inverted, "
        f"{rows['inverted'].refused.total()} of {rows['inverted'].count}. It was trained on no "
        "real lateral view, no child, and no real radiograph of another body part, and cannot "
        f"recognise a mirrored chest. Made by `{plan.command}`."
    )
    return f"{CONTENT_CHECK_HEADING}\n\n{textwrap.fill(text, 100, break_on_hyphens=False)}"
