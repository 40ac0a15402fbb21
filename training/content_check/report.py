"""What the content gate makes of pictures it has not learnt from, as tables in Markdown."""

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
from training.bundle.writer import CONTENT_CHECK_HEADING
from training.content_check import images
from training.content_check.images import Content
from training.content_check.network import predict
from training.content_check.train import HeldOutResult, TrainedCheck, TrainingPlan
from training.content_check.views import to_input
from training.errors import TrainingError

_SUFFIXES: Final = frozenset({".dcm", ".jpg", ".jpeg", ".png"})
_LEFT_OUT: Final = ("RG1_", "MR-SIEMENS")
"""A chest, and a wider cut of a slice that the gate has learnt from."""
_ALIKE: Final = 0.9
"""Correlation from which two pictures count as one."""


@dataclass(frozen=True, slots=True)
class VerdictCounts:
    """One line of a confusion table: what was shown, how often, and what came of it."""

    shown: str
    count: int
    refused: Counter[str]
    warned: Counter[str]

    @property
    def passed(self) -> int:
        """Neither refused nor warned of."""
        return self.count - self.refused.total() - self.warned.total()


def count_verdicts(
    shown: str, seen: Sequence[ContentProbabilities], thresholds: ContentCheckThresholds
) -> VerdictCounts:
    """Count verdicts; a picture with several warnings counts once, under all their codes."""
    refused: Counter[str] = Counter()
    warned: Counter[str] = Counter()
    for one in seen:
        verdict = assess_content(one, thresholds)
        if verdict.refusal:
            refused[verdict.refusal.value] += 1
        elif verdict.warnings:
            warned[" + ".join(warning.code.value for warning in verdict.warnings)] += 1
    return VerdictCounts(shown, len(seen), refused, warned)


def count_by_treatment(
    left_out: Iterable[HeldOutResult], thresholds: ContentCheckThresholds
) -> list[VerdictCounts]:
    """Real radiographs, each judged without its patient, by what was done to them."""
    by_deed: dict[str, list[ContentProbabilities]] = {}
    for judged in left_out:
        by_deed.setdefault(judged.done, []).append(judged.seen)
    return [count_verdicts(done, seen, thresholds) for done, seen in by_deed.items()]


def count_by_kind(
    unseen: Iterable[HeldOutResult], thresholds: ContentCheckThresholds
) -> list[VerdictCounts]:
    """Painted pictures by kind."""
    by_kind: dict[str, list[ContentProbabilities]] = {}
    for judged in unseen:
        by_kind.setdefault(judged.picture.kind, []).append(judged.seen)
    return [count_verdicts(kind, seen, thresholds) for kind, seen in by_kind.items()]


def load_other_images(folders: Sequence[Path]) -> list[images.LabelledPicture]:
    """Every readable picture of some folders, RG1 (a chest) and unreadable files left out.

    The same picture in several files counts once, and not at all where the gate learnt from it
    (packages carry copies of each other's files).
    """
    learnt = [picture.pixels for picture in images.load_packaged()] if folders else []
    found: list[images.LabelledPicture] = []
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES):
            if path.name.startswith(_LEFT_OUT):
                continue
            try:
                pixels = images.shrink(images.read_other_image(path))
            except TrainingError:
                continue
            if not any(
                _is_same_image(pixels, known) for known in [*learnt, *(p.pixels for p in found)]
            ):
                found.append(images.LabelledPicture(path.name, Content.OTHER, "real", pixels))
    return found


def _is_same_image(one: images.Pixels, other: images.Pixels) -> bool:
    """Whether two pictures are the same but for compression or window."""
    pair = np.stack([to_input(one).ravel(), to_input(other).ravel()]).astype(np.float64)
    pair -= pair.mean(axis=1, keepdims=True)
    spread = np.sqrt((pair**2).sum(axis=1)).prod()
    return bool(spread == 0 or float(pair[0] @ pair[1]) / spread > _ALIKE)


def format_table(rows: Sequence[VerdictCounts], first: str) -> str:
    """Rows as a Markdown table."""
    lines = [f"| {first} | n | passed | warned | refused |", "|---|---|---|---|---|"]
    lines += [
        f"| {r.shown} | {r.count} | {r.passed} "
        f"| {_format_codes(r.warned)} | {_format_codes(r.refused)} |"
        for r in rows
    ]
    return "\n".join(lines)


def _format_codes(codes: Counter[str]) -> str:
    return ", ".join(f"{count} `{code}`" for code, count in sorted(codes.items())) or "0"


def format_report(trained: TrainedCheck, others: Sequence[images.LabelledPicture]) -> str:
    """All tables; `others` are real pictures of no chest that the network has not learnt from."""
    thresholds = trained.thresholds
    seen = (
        predict(trained.network, [to_input(picture.pixels) for picture in others]) if others else []
    )
    each = [count_verdicts(p.name, [of], thresholds) for p, of in zip(others, seen, strict=True)]
    parts = [
        "Real frontal radiographs, each judged by a network that never saw its patient:",
        format_table(count_by_treatment(trained.left_out, thresholds), "done to it"),
        "Freshly painted pictures:",
        format_table(count_by_kind(trained.unseen, thresholds), "kind"),
    ]
    if others:
        parts += [
            "Real pictures of something else, none learnt from:",
            format_table([count_verdicts("all together", seen, thresholds), *each], "picture"),
        ]
    chosen = ", ".join(f"{name} {value:.4f}" for name, value in thresholds.model_dump().items())
    return "\n\n".join([*parts, f"Thresholds: {chosen}."]) + "\n"


def format_card_section(trained: TrainedCheck, plan: TrainingPlan) -> str:
    """The gate's section of a model card."""
    rows = {r.shown: r for r in count_by_treatment(trained.left_out, trained.thresholds)}
    as_is = rows["as it is"]
    turned = [rows[f"turned {k}"] for k in (90, 180, 270)]
    patients = len({judged.picture.patient for judged in trained.left_out})
    refused, of_turned = sum(r.refused.total() for r in turned), sum(r.count for r in turned)
    text = (
        "A small network looks first: is this a frontal chest, upright, bone white? It refuses "
        "what is surely not, and warns where it is unsure. "
        f"It has learnt from {as_is.count} real frontal radiographs of {patients} patients, from "
        "painted chests, and from painted and a few real pictures of other things. With each "
        f"patient left out in turn, {as_is.refused.total()} of {as_is.count} were refused and "
        f"{as_is.warned.total()} warned of; of the same, turned by 90, 180 or 270 degrees, "
        f"{refused} of {of_turned} were refused, and of the same, inverted, "
        f"{rows['inverted'].refused.total()} of {rows['inverted'].count}. It has learnt from no "
        "real lateral view, no child, and no real radiograph of another body part, and cannot "
        f"tell a mirrored chest. Made by `{plan.command}`."
    )
    return f"{CONTENT_CHECK_HEADING}\n\n{textwrap.fill(text, 100, break_on_hyphens=False)}"
