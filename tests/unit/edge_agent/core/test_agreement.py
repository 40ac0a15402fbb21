"""Agreement of two models on one image, case by case."""

from __future__ import annotations

import pytest

from edge_agent.core.agreement import ClassAgreement, compare_findings
from edge_agent.core.findings import Box, Finding

MASS, EFFUSION = 8, 10
POINTS = {MASS: 0.5, EFFUSION: 0.4}


def finding(index: int, score: float, *box: float) -> Finding:
    return Finding(index, score, Box(*box))


def test_the_largest_overlap_is_matched_first() -> None:
    active = [finding(MASS, 0.9, 0, 0, 10, 10), finding(MASS, 0.6, 2, 0, 12, 10)]
    shadow = [finding(MASS, 0.7, 2, 0, 12, 10)]
    agreement = compare_findings(active, shadow, POINTS, POINTS)
    assert agreement == {MASS: ClassAgreement(1, 0, (pytest.approx(0.1),))}  # type: ignore[arg-type]
    assert agreement[MASS].matched == 1


def test_a_smaller_overlap_or_another_class_is_no_match() -> None:
    active = [finding(MASS, 0.9, 0, 0, 10, 10), finding(EFFUSION, 0.9, 0, 0, 10, 10)]
    shadow = [finding(MASS, 0.9, 5, 0, 15, 10)]
    assert compare_findings(active, shadow, POINTS, POINTS) == {
        MASS: ClassAgreement(1, 1, ()),
        EFFUSION: ClassAgreement(1, 0, ()),
    }


def test_each_model_counts_from_its_own_operating_points() -> None:
    weak = [finding(MASS, 0.5, 0, 0, 10, 10)]
    assert compare_findings(weak, weak, POINTS, {MASS: 0.6}) == {MASS: ClassAgreement(1, 0, ())}
    assert compare_findings(weak, weak, {MASS: 0.51}, {MASS: 0.6}) == {}


def test_a_class_that_only_one_model_has_is_not_compared() -> None:
    both = [finding(MASS, 0.9, 0, 0, 10, 10), finding(EFFUSION, 0.9, 0, 0, 10, 10)]
    agreement = compare_findings(both, both[:1], POINTS, {MASS: 0.5})
    assert agreement == {MASS: ClassAgreement(0, 0, (0.0,))}
