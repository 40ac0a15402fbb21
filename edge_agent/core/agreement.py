"""Agreement of two models on the same images: of the one that serves and of a shadow.

Each model's findings count from its own operating points, because these are what a site would see.
Findings of one class are matched by their boxes. A class that only one model has is not compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from edge_agent.core.findings import Finding, iou

MIN_IOU: Final = 0.5
"""The least intersection over union of two boxes that mark the same finding."""


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """The agreement on one class in one image.

    Attributes:
        active_only: findings that only the serving model has.
        shadow_only: findings that only the shadow has.
        score_differences: of each matched pair the shadow's score minus the other's, rising.
    """

    active_only: int
    shadow_only: int
    score_differences: tuple[float, ...]

    @property
    def matched(self) -> int:
        """Return the number of findings that both models have."""
        return len(self.score_differences)


def compare_findings(
    active: Sequence[Finding],
    shadow: Sequence[Finding],
    active_points: Mapping[int, float],
    shadow_points: Mapping[int, float],
) -> dict[int, ClassAgreement]:
    """Compare the findings of two models on one image.

    Pairs of boxes are matched greedily, the largest overlap first and of equals the pair with the
    closest scores. The result depends neither on the order of the findings nor, but for the sign of
    the differences, on which model serves.

    Args:
        active: the serving model's findings, from any threshold up to its operating points.
        shadow: the shadow's, likewise.
        active_points: the serving model's operating points by the catalogue's index.
        shadow_points: the shadow's.

    Returns:
        The agreement by the catalogue's index, of each class for which a model has a finding.
    """
    compared = active_points.keys() & shadow_points.keys()
    of_active, of_shadow = _by_class(active, active_points), _by_class(shadow, shadow_points)
    indexes = (of_active.keys() | of_shadow.keys()) & compared
    return {index: _match(of_active[index], of_shadow[index]) for index in sorted(indexes)}


def _by_class(
    findings: Sequence[Finding], points: Mapping[int, float]
) -> defaultdict[int, list[Finding]]:
    kept: defaultdict[int, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.index in points and finding.score >= points[finding.index]:
            kept[finding.index].append(finding)
    return kept


def _match(active: list[Finding], shadow: list[Finding]) -> ClassAgreement:
    overlaps = [
        (iou(one.box, other.box), a, s)
        for (a, one), (s, other) in product(enumerate(active), enumerate(shadow))
    ]
    pairs = sorted(
        (pair for pair in overlaps if pair[0] >= MIN_IOU),
        key=lambda pair: (-pair[0], *_rank(active[pair[1]], shadow[pair[2]])),
    )
    matched: dict[int, int] = {}
    for _, a, s in pairs:
        if a not in matched and s not in matched.values():
            matched[a] = s
    differences = sorted(shadow[s].score - active[a].score for a, s in matched.items())
    return ClassAgreement(
        len(active) - len(matched), len(shadow) - len(matched), tuple(differences)
    )


def _rank(one: Finding, other: Finding) -> tuple[float, list[tuple[float, ...]]]:
    """Return what orders pairs of equal overlap; the same if the two findings are exchanged."""
    return abs(one.score - other.score), sorted((_to_tuple(one), _to_tuple(other)))


def _to_tuple(finding: Finding) -> tuple[float, ...]:
    box = finding.box
    return box.x_min, box.y_min, box.x_max, box.y_max, finding.score


@dataclass(slots=True)
class ClassCounts:
    """The agreement on one class, summed over images.

    Attributes:
        matched, active_only, shadow_only: numbers of findings.
        difference_sum: sum of the matched findings' score differences, shadow minus active.
        difference_abs_sum: sum of their absolute values.
        difference_max: the largest absolute value.
    """

    matched: int = 0
    active_only: int = 0
    shadow_only: int = 0
    difference_sum: float = 0.0
    difference_abs_sum: float = 0.0
    difference_max: float = 0.0

    def add(self, agreement: ClassAgreement) -> None:
        """Add the agreement of one image."""
        self.matched += agreement.matched
        self.active_only += agreement.active_only
        self.shadow_only += agreement.shadow_only
        for difference in agreement.score_differences:
            self.difference_sum += difference
            self.difference_abs_sum += abs(difference)
            self.difference_max = max(self.difference_max, abs(difference))


class AgreementCounts:
    """The agreement of two models, summed over images."""

    def __init__(self) -> None:
        self.images = 0
        self.images_agreeing = 0
        """Images on which every finding has a match; also those without a finding."""
        self.by_class: dict[int, ClassCounts] = {}

    def add(self, agreement: Mapping[int, ClassAgreement]) -> None:
        """Add one image.

        Args:
            agreement: the result of `compare_findings`.
        """
        self.images += 1
        if not any(each.active_only or each.shadow_only for each in agreement.values()):
            self.images_agreeing += 1
        for index, each in agreement.items():
            self.by_class.setdefault(index, ClassCounts()).add(each)
