"""Invariants of the content check's verdicts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.content_check import ContentProbabilities, assess_content
from edge_agent.core.radiograph import ImageWarning
from hilum.codes import ErrorCode, WarningCode
from hilum.manifest import ContentCheckThresholds

shares = st.floats(0, 1, allow_nan=False)


@st.composite
def probabilities(draw: st.DrawFn) -> ContentProbabilities:
    content = np.array([draw(shares) + 1e-6 for _ in range(3)])
    turns = np.array([draw(shares) + 1e-6 for _ in range(4)])
    row = [*(content / content.sum()), *(turns / turns.sum()), draw(shares)]
    return ContentProbabilities.from_outputs(np.array(row, np.float32))


@st.composite
def thresholds(draw: st.DrawFn) -> ContentCheckThresholds:
    values = {}
    for warn, refuse in (
        ("not_frontal", "other"),
        ("turned", "turned"),
        ("inverted", "inverted"),
    ):
        low, high = sorted([draw(shares), draw(shares)])
        values |= {f"warn_{warn}": low, f"refuse_{refuse}": high}
    return ContentCheckThresholds(**values, warn_lateral=draw(shares))


@given(probabilities(), thresholds())
def test_a_picture_is_refused_exactly_where_a_probability_reaches_its_threshold(
    observed: ContentProbabilities, limits: ContentCheckThresholds
) -> None:
    verdict = assess_content(observed, limits)
    sure = observed.not_frontal < limits.warn_not_frontal and observed.lateral < limits.warn_lateral
    expected = {
        ErrorCode.NOT_A_CHEST: observed.other >= limits.refuse_other,
        ErrorCode.ROTATED: sure and observed.turned >= limits.refuse_turned,
        ErrorCode.INVERTED: sure and observed.inverted >= limits.refuse_inverted,
    }
    refusals = [code for code, reached in expected.items() if reached]
    assert verdict.refusal == (refusals[0] if refusals else None)


@given(probabilities(), thresholds())
def test_a_picture_that_reaches_a_warning_threshold_is_refused_or_has_a_warning(
    observed: ContentProbabilities, limits: ContentCheckThresholds
) -> None:
    verdict = assess_content(observed, limits)
    doubtful = (
        observed.other >= limits.refuse_other
        or observed.not_frontal >= limits.warn_not_frontal
        or observed.lateral >= limits.warn_lateral
        or observed.turned >= limits.warn_turned
        or observed.inverted >= limits.warn_inverted
    )
    assert doubtful == bool(verdict.refusal or verdict.warnings)


@given(probabilities(), thresholds(), st.sets(st.sampled_from(WarningCode)))
def test_no_warning_is_repeated_or_lost(
    observed: ContentProbabilities, limits: ContentCheckThresholds, known: set[WarningCode]
) -> None:
    before = tuple(ImageWarning(code, "earlier") for code in sorted(known))
    verdict = assess_content(observed, limits)
    merged = verdict.merge_warnings(before)
    codes = [warning.code for warning in merged]
    assert merged[: len(before)] == before
    assert len(codes) == len(set(codes))
    assert set(codes) == known | {warning.code for warning in verdict.warnings}
