"""Parity: comparison of every exported variant with the trained torch model, on the same images.

Each side detects on a frozen split through the edge agent's code, with operating points chosen by
one rule on another split. Three results are reported for each variant: the drop of mAP@0.5, the
drop of each class's sensitivity at its operating point, both with an interval, and how far boxes
moved. The two drops have bounds that are declared before the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from edge_agent.core.findings import Finding, iou
from hilum.catalog import CATALOG
from training.config import ParityBounds
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation import bootstrap
from training.evaluation.bootstrap import Interval, estimate_difference, estimate_interval
from training.evaluation.matching import IOU, FindingsPerImage, match_findings
from training.evaluation.metrics import mean_precision
from training.evaluation.operating_points import apply_thresholds

_MAP_IOU: Final = 0.5
_SAME_BOX_IOU: Final = 0.5
"""Overlap from which a variant's box counts as the same one."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricDrop(_Frozen):
    """A metric of the torch model, of a variant, and the drop with its 95% interval."""

    reference: float
    variant: float
    drop: float
    low: float
    high: float


class BoxShift(_Frozen):
    """Displacement of boxes in pixels of the original image, by the edge that moved most.

    It is computed over the `boxes` findings of the torch model at or above their operating point.
    `lost` of them have no box of the variant with an overlap of 0.5 or more.
    """

    boxes: int
    lost: int
    median_px: float
    p95_px: float
    worst_px: float
    worst_image: str


class VariantParity(_Frozen):
    """One variant compared with torch. `engine` is its runtime; for TensorRT a CPU stand-in."""

    name: str
    engine: str
    points: dict[str, float]
    map50: MetricDrop
    sensitivity: dict[str, MetricDrop]
    box_shift: BoxShift
    problems: tuple[str, ...]


class ParityResult(_Frozen):
    """The content of `parity.json`."""

    format: Literal[1] = 1
    export_digest: str
    split: str
    split_digest: str
    images: int
    bounds: ParityBounds
    points_chosen: str
    reference_points: dict[str, float]
    variants: tuple[VariantParity, ...]
    not_measured: dict[str, str]

    @property
    def problems(self) -> tuple[str, ...]:
        """Return a message for every bound that is not kept."""
        return tuple(problem for variant in self.variants for problem in variant.problems)

    def to_bytes(self) -> bytes:
        """Return UTF-8 JSON with two-space indent and a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()


@dataclass(frozen=True, slots=True)
class ParitySide:
    """Findings and operating points of the model in one runtime."""

    found: FindingsPerImage
    points: Mapping[str, float]


def compare_variant(
    name: str,
    engine: str,
    entries: Sequence[LabelledImage],
    sides: tuple[ParitySide, ParitySide],
    bounds: ParityBounds,
    *,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> VariantParity:
    """Compare one variant with torch.

    Args:
        name: the variant.
        engine: the runtime and compute device that computed its findings.
        entries: the images of the frozen split.
        sides: the findings of torch and of the variant.
        bounds: the largest allowed drops.
        resamples: number of resampled sets for the intervals.
        seed: seed of the resampling.

    Raises:
        TrainingError: no image has a labelled box.
    """
    counts = bootstrap.draw_resamples(entries, resamples=resamples, seed=seed)
    matched = [match_findings(entries, side.found, (IOU, _MAP_IOU)) for side in sides]
    precision = [mean_precision(it, (_MAP_IOU,)) for it in matched]
    found = [
        apply_thresholds(it, side.points).sensitivity(counts)
        for it, side in zip(matched, sides, strict=True)
    ]
    drop = estimate_difference(precision[0], precision[1], counts)
    if drop is None:
        raise TrainingError(
            "no image of the split has a labelled box, so there is nothing to compare"
        )
    map50 = _metric_drop(precision[0](counts[:1])[0], drop)
    sensitivity = {}
    for finding in CATALOG:
        a, b = (of_class[:, finding.index] for of_class in found)
        if (spread := estimate_interval(a - b)) is not None:
            sensitivity[finding.slug] = _metric_drop(a[0], spread)
    return VariantParity(
        name=name,
        engine=engine,
        points=dict(sides[1].points),
        map50=map50,
        sensitivity=sensitivity,
        box_shift=measure_box_shift(entries, *sides),
        problems=tuple(_problems(name, map50, sensitivity, bounds)),
    )


def measure_box_shift(
    entries: Sequence[LabelledImage], reference: ParitySide, variant: ParitySide
) -> BoxShift:
    """Measure how far the variant moves torch's boxes, at or above their operating points."""
    moves: list[tuple[float, str]] = []
    lost = 0
    for entry, wanted, found in zip(entries, reference.found, variant.found, strict=True):
        for finding in wanted:
            if finding.score < reference.points[CATALOG[finding.index].slug]:
                continue
            same = [
                other
                for other in found
                if other.index == finding.index and iou(other.box, finding.box) >= _SAME_BOX_IOU
            ]
            if same:
                moves.append(
                    (min(_largest_edge_shift(finding, other) for other in same), entry.image_id)
                )
            else:
                lost += 1
    pixels = np.array([move for move, _ in moves] or [0.0])
    worst, where = max(moves, default=(0.0, ""))
    return BoxShift(
        boxes=len(moves) + lost,
        lost=lost,
        median_px=round(float(np.median(pixels)), 3),
        p95_px=round(float(np.quantile(pixels, 0.95)), 3),
        worst_px=round(worst, 3),
        worst_image=where,
    )


def _largest_edge_shift(a: Finding, b: Finding) -> float:
    one, other = a.box, b.box
    return max(
        abs(one.x_min - other.x_min),
        abs(one.y_min - other.y_min),
        abs(one.x_max - other.x_max),
        abs(one.y_max - other.y_max),
    )


def _metric_drop(reference: float, drop: Interval) -> MetricDrop:
    return MetricDrop(
        reference=round(float(reference), 6),
        variant=round(float(reference) - drop.value, 6),
        drop=round(drop.value, 6),
        low=round(drop.low, 6),
        high=round(drop.high, 6),
    )


def _problems(
    name: str, map50: MetricDrop, sensitivity: Mapping[str, MetricDrop], bounds: ParityBounds
) -> Iterator[str]:
    if not map50.drop <= bounds.map50_drop:
        yield (
            f"{name}: mAP@0.5 is {map50.drop:.4f} down ({map50.reference:.4f} to "
            f"{map50.variant:.4f}; 95%: {map50.low:.4f} to {map50.high:.4f}), the bound is "
            f"{bounds.map50_drop:g} (parity.map50_drop)"
        )
    for slug, drop in sensitivity.items():
        if not drop.drop <= bounds.sensitivity_drop:
            yield (
                f"{name}: the sensitivity for {slug} at its operating point is {drop.drop:.4f} "
                f"down ({drop.reference:.4f} to {drop.variant:.4f}; 95%: {drop.low:.4f} to "
                f"{drop.high:.4f}), the bound is {bounds.sensitivity_drop:g} "
                "(parity.sensitivity_drop)"
            )
