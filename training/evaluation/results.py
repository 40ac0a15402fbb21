"""What an evaluation says, as it is written down: `evaluation.json`, schema 1.

`docs/evaluation.md` explains every name. Fields are only ever added; what changes its meaning gets
another schema version. There is no NaN in it: what cannot be told is null.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from training.evaluation.bootstrap import Interval

_NOT_IN_NAMES: Final = re.compile(r"[^\w .-]", re.ASCII)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricEstimate(_Frozen):
    """A value and the bounds of its 95% interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval | None) -> MetricEstimate | None:
        """The same, rounded to what is written down."""
        if interval is None:
            return None
        return cls(
            value=round(interval.value, 6), low=round(interval.low, 6), high=round(interval.high, 6)
        )


Figures = dict[str, MetricEstimate | None]
"""By name; null where the set cannot tell, say for want of an example."""


class EvaluatedModel(_Frozen):
    """What was evaluated. `digest` is the bundle's, or the SHA-256 of the weights' file."""

    kind: Literal["bundle", "weights"]
    name: str
    version: str = ""
    digest: str
    engine: str
    device: str


class ClassFacts(_Frozen):
    """What the set shows of one class: boxes, images with one, images that may hide it."""

    boxes: int
    images: int
    hidden_in: int


class DataFacts(_Frozen):
    """What it was evaluated on. `patients` is null where they are not known."""

    split: str
    split_digest: str | None
    images: int
    clear_images: int
    boxes: int
    patients: int | None
    classes: dict[str, ClassFacts]


class Method(_Frozen):
    """How. `points_from` says where the operating points come from."""

    iou: float
    resamples: int
    seed: int
    level: float
    score_floor: float
    points_from: str


class ChosenPoint(_Frozen):
    """A threshold for a stated aim, and what it does on this set. Not `reached`: the floor's."""

    threshold: float
    reached: bool
    sensitivity: MetricEstimate | None
    false_positives: MetricEstimate | None


class OperatingPointTarget(_Frozen):
    """Operating points that this set would give for a stated aim; null without an example."""

    aim: Literal["sensitivity", "false_positives"]
    at: float
    points: dict[str, ChosenPoint | None]


class Curve(_Frozen):
    """Points of a curve, thinned for drawing."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class Reliability(_Frozen):
    """Per bin of the score: how many findings, their mean score, the share that met a box."""

    number: tuple[int, ...]
    score: tuple[float, ...]
    right: tuple[float, ...]


class Curves(_Frozen):
    """Curves on the set itself; `all` and slugs for FROC, `any` and slugs for ROC."""

    froc: dict[str, Curve]
    precision_recall: dict[str, Curve]
    roc: dict[str, Curve]
    reliability: Reliability


class Subgroup(_Frozen):
    """The images that share a fact."""

    fact: str
    value: str
    images: int
    boxes: int
    figures: Figures


class Baseline(_Frozen):
    """Another detector on the same images: its figures, and this one's less its."""

    subject: EvaluatedModel
    points: dict[str, float]
    figures: Figures
    differences: Figures


class RuleResult(_Frozen):
    """What became of one rule."""

    rule: str
    metric: str
    passed: bool
    figure: MetricEstimate | None
    said: str


class Evaluation(_Frozen):
    """All of it."""

    schema_version: Literal[1] = 1
    subject: EvaluatedModel
    data: DataFacts
    method: Method
    points: dict[str, float]
    figures: Figures
    aims: tuple[OperatingPointTarget, ...]
    curves: Curves
    subgroups: tuple[Subgroup, ...]
    baseline: Baseline | None = None
    gate: tuple[RuleResult, ...] | None = None

    def all_figures(self) -> Figures:
        """Every figure by the name that a rule may use."""
        return dict(self._named())

    def _named(self) -> Iterator[tuple[str, MetricEstimate | None]]:
        yield from self.figures.items()
        for group in self.subgroups:
            for name, figure in group.figures.items():
                value = _NOT_IN_NAMES.sub("_", group.value)
                yield f"subgroup/{group.fact}/{value}/{name}", figure
        if self.baseline is not None:
            for name, figure in self.baseline.differences.items():
                yield f"difference/{name}", figure

    def to_bytes(self) -> bytes:
        """UTF-8 JSON, two-space indent, a final newline."""
        return (self.model_dump_json(indent=2) + "\n").encode()
