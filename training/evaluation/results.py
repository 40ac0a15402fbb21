"""The schema of `evaluation.json`, version 1.

`docs/evaluation.md` explains every name. Fields are only added; a change of meaning increments the
schema version. The file holds no NaN: a metric that is undefined for the set is null.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from training.evaluation.bootstrap import Interval

_INVALID_IN_NAMES: Final = re.compile(r"[^\w .-]", re.ASCII)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricEstimate(_Frozen):
    """The value of a metric and the bounds of its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval | None) -> MetricEstimate | None:
        """Return the interval, rounded to the precision of the file."""
        if interval is None:
            return None
        return cls(
            value=round(interval.value, 6), low=round(interval.low, 6), high=round(interval.high, 6)
        )


Metrics = dict[str, MetricEstimate | None]
"""Metrics by name; null where undefined for the set, such as for a class without an example."""


class EvaluatedModel(_Frozen):
    """The evaluated model. `digest` is the bundle's, or the SHA-256 of the weights file."""

    kind: Literal["bundle", "weights"]
    name: str
    version: str = ""
    digest: str
    engine: str
    compute_device: str


class ClassFacts(_Frozen):
    """Number of boxes of a class, images with a box, and images that may show it unlabelled."""

    boxes: int
    images: int
    unlabelled_images: int


class DataFacts(_Frozen):
    """The images of the evaluation. `patients` is null where they are not known."""

    split: str
    split_digest: str | None
    images: int
    images_without_box: int
    boxes: int
    patients: int | None
    classes: dict[str, ClassFacts]


class Method(_Frozen):
    """Parameters of the evaluation. `points_from` describes the choice of the operating points."""

    iou: float
    resamples: int
    seed: int
    level: float
    score_floor: float
    points_from: str


class ChosenPoint(_Frozen):
    """The threshold for a target, and its metrics on this set.

    `reached` is false where the target is not reached; the threshold is then the floor.
    """

    threshold: float
    reached: bool
    sensitivity: MetricEstimate | None
    false_positives: MetricEstimate | None


class OperatingPointTarget(_Frozen):
    """Operating points by class that reach a target on this set; null without an example."""

    metric: Literal["sensitivity", "false_positives"]
    value: float
    points: dict[str, ChosenPoint | None]


class Curve(_Frozen):
    """Points of a curve, thinned for drawing."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class Reliability(_Frozen):
    """Findings per bin of the score: their number, mean score, and share that matches a box."""

    number: tuple[int, ...]
    mean_score: tuple[float, ...]
    matched_share: tuple[float, ...]


class Curves(_Frozen):
    """Curves on the original set, by slug; FROC also has `all` classes, ROC also `any` class."""

    froc: dict[str, Curve]
    precision_recall: dict[str, Curve]
    roc: dict[str, Curve]
    reliability: Reliability


class Subgroup(_Frozen):
    """Metrics of the images that share a value of a fact."""

    fact: str
    value: str
    images: int
    boxes: int
    metrics: Metrics


class Baseline(_Frozen):
    """Metrics of another detector on the same images, and this one's less those."""

    subject: EvaluatedModel
    points: dict[str, float]
    metrics: Metrics
    differences: Metrics


class RuleResult(_Frozen):
    """The result of one acceptance rule."""

    rule: str
    metric: str
    passed: bool
    estimate: MetricEstimate | None
    outcome: str


class Evaluation(_Frozen):
    """The content of `evaluation.json`."""

    schema_version: Literal[1] = 1
    subject: EvaluatedModel
    data: DataFacts
    method: Method
    points: dict[str, float]
    metrics: Metrics
    operating_point_targets: tuple[OperatingPointTarget, ...]
    curves: Curves
    subgroups: tuple[Subgroup, ...]
    baseline: Baseline | None = None
    acceptance: tuple[RuleResult, ...] | None = None

    def named_metrics(self) -> Metrics:
        """Return every metric by the name that a rule may use."""
        return dict(self._iter_metrics())

    def _iter_metrics(self) -> Iterator[tuple[str, MetricEstimate | None]]:
        yield from self.metrics.items()
        for group in self.subgroups:
            for name, estimate in group.metrics.items():
                value = _INVALID_IN_NAMES.sub("_", group.value)
                yield f"subgroup/{group.fact}/{value}/{name}", estimate
        if self.baseline is not None:
            for name, estimate in self.baseline.differences.items():
                yield f"difference/{name}", estimate

    def to_bytes(self) -> bytes:
        """Return UTF-8 JSON with two-space indent and a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()
