"""Agreement of two models: symmetric, complete, and independent of the findings' order."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.agreement import AgreementCounts, ClassAgreement, compare_findings
from edge_agent.core.findings import Box, Finding

POINTS = dict.fromkeys(range(3), 0.5)
# Few places and scores, so that boxes overlap and overlaps tie.
FINDINGS = st.builds(
    lambda index, score, x, y, width, height: Finding(
        index, score / 8, Box(x * 4.0, y * 4.0, x * 4.0 + width * 4.0, y * 4.0 + height * 4.0)
    ),
    st.integers(0, 2),
    st.integers(1, 8),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(1, 3),
)
MODELS = st.lists(FINDINGS, max_size=12)


def count(findings: list[Finding], index: int) -> int:
    return sum(it.index == index and it.score >= POINTS[index] for it in findings)


@given(MODELS, MODELS)
def test_every_finding_is_counted_once(active: list[Finding], shadow: list[Finding]) -> None:
    agreement = compare_findings(active, shadow, POINTS, POINTS)
    for index in POINTS:
        both = agreement.get(index, ClassAgreement(0, 0, ()))
        assert both.matched + both.active_only == count(active, index)
        assert both.matched + both.shadow_only == count(shadow, index)


@given(MODELS, MODELS)
def test_the_models_can_be_exchanged(active: list[Finding], shadow: list[Finding]) -> None:
    one = compare_findings(active, shadow, POINTS, POINTS)
    other = compare_findings(shadow, active, POINTS, POINTS)
    assert one.keys() == other.keys()
    for index, here in one.items():
        there = other[index]
        assert (here.active_only, here.shadow_only) == (there.shadow_only, there.active_only)
        negated = tuple(sorted(-it for it in there.score_differences))
        assert here.score_differences == negated


@given(MODELS, MODELS, st.randoms(use_true_random=False))
def test_the_order_of_the_findings_does_not_count(
    active: list[Finding], shadow: list[Finding], random: Random
) -> None:
    expected = compare_findings(active, shadow, POINTS, POINTS)
    for findings in (active, shadow):
        random.shuffle(findings)
    assert compare_findings(active, shadow, POINTS, POINTS) == expected


@given(MODELS)
def test_identical_findings_agree_wholly(findings: list[Finding]) -> None:
    agreement = compare_findings(findings, findings, POINTS, POINTS)
    for each in agreement.values():
        assert (each.active_only, each.shadow_only) == (0, 0)
        assert set(each.score_differences) == {0.0}
    counts = AgreementCounts()
    counts.add(agreement)
    assert (counts.images, counts.images_agreeing) == (1, 1)


@given(st.lists(st.tuples(MODELS, MODELS), max_size=6))
def test_the_counts_are_the_sums_of_the_images(
    images: list[tuple[list[Finding], list[Finding]]],
) -> None:
    agreements = [compare_findings(*both, POINTS, POINTS) for both in images]
    counts = AgreementCounts()
    for agreement in agreements:
        counts.add(agreement)
    assert counts.images == len(images)
    assert 0 <= counts.images_agreeing <= counts.images
    for index, total in counts.by_class.items():
        of_class = [it[index] for it in agreements if index in it]
        differences = [d for it in of_class for d in it.score_differences]
        assert total.matched == len(differences)
        assert total.active_only == sum(it.active_only for it in of_class)
        assert total.shadow_only == sum(it.shadow_only for it in of_class)
        assert total.difference_sum == pytest.approx(sum(differences))
        assert total.difference_abs_sum == pytest.approx(sum(map(abs, differences)))
        assert total.difference_max == max(map(abs, differences), default=0.0)
