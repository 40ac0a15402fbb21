from __future__ import annotations

import numpy as np
import pytest

from edge_agent.core.content_check import (
    ContentOutputsInvalid,
    ContentProbabilities,
    assess_content,
)
from edge_agent.core.radiograph import ImageWarning
from edge_agent.errors import StudyImageRefused
from hilum.codes import ErrorCode, WarningCode
from hilum.manifest import ContentCheckThresholds

THRESHOLDS = ContentCheckThresholds(
    warn_not_frontal=0.5,
    refuse_other=0.9,
    warn_lateral=0.5,
    warn_turned=0.5,
    refuse_turned=0.9,
    warn_inverted=0.5,
    refuse_inverted=0.9,
)


def observe(
    other: float = 0.0, lateral: float = 0.0, turned: float = 0.0, inverted: float = 0.0
) -> ContentProbabilities:
    return ContentProbabilities(
        frontal=1 - other - lateral,
        lateral=lateral,
        other=other,
        turns=(1 - turned, 0.0, turned, 0.0),
        inverted=inverted,
    )


@pytest.mark.parametrize(
    ("shown", "refusal", "warnings"),
    [
        (observe(), None, []),
        (observe(other=0.95), ErrorCode.NOT_A_CHEST, []),
        (observe(other=0.7), None, [WarningCode.CONTENT_UNSURE]),
        (observe(other=0.3, lateral=0.3), None, [WarningCode.CONTENT_UNSURE]),
        (observe(lateral=0.99), None, [WarningCode.LATERAL_VIEW]),
        (observe(turned=0.95), ErrorCode.ROTATED, []),
        (observe(turned=0.6), None, [WarningCode.LOOKS_ROTATED]),
        (observe(inverted=0.95), ErrorCode.INVERTED, []),
        (observe(inverted=0.6), None, [WarningCode.LOOKS_INVERTED]),
        (observe(turned=0.95, inverted=0.95), ErrorCode.ROTATED, []),
        (
            observe(turned=0.6, inverted=0.95),
            ErrorCode.INVERTED,
            [WarningCode.LOOKS_ROTATED],
        ),
    ],
)
def test_a_verdict_follows_from_the_thresholds(
    shown: ContentProbabilities, refusal: ErrorCode | None, warnings: list[WarningCode]
) -> None:
    verdict = assess_content(shown, THRESHOLDS)
    assert verdict.refusal == refusal
    assert [warning.code for warning in verdict.warnings] == warnings


@pytest.mark.parametrize(
    "shown",
    [observe(lateral=0.8, turned=1.0), observe(other=0.6, inverted=1.0)],
)
def test_turn_and_polarity_refuse_only_what_is_clearly_a_frontal_chest(
    shown: ContentProbabilities,
) -> None:
    verdict = assess_content(shown, THRESHOLDS)
    assert verdict.refusal is None
    assert len(verdict.warnings) == 2


@pytest.mark.parametrize(
    "shown",
    [
        observe(other=1.0),
        observe(turned=1.0),
        observe(inverted=1.0),
    ],
)
def test_a_threshold_of_one_disables_a_refusal(shown: ContentProbabilities) -> None:
    off = {"refuse_other": 1.0, "refuse_turned": 1.0, "refuse_inverted": 1.0}
    assert assess_content(shown, THRESHOLDS).refusal is not None
    verdict = assess_content(shown, THRESHOLDS.model_copy(update=off))
    assert verdict.refusal is None
    assert verdict.warnings


def test_a_refusal_is_an_error_with_a_hint() -> None:
    with pytest.raises(StudyImageRefused, match="does not show a chest") as caught:
        assess_content(observe(other=1.0), THRESHOLDS).raise_if_refused()
    assert caught.value.code == ErrorCode.NOT_A_CHEST
    assert "frontal chest" in caught.value.hint
    assess_content(observe(other=0.7), THRESHOLDS).raise_if_refused()


def test_a_warning_of_the_header_is_not_repeated() -> None:
    header_warnings = (ImageWarning(WarningCode.LATERAL_VIEW, "The header declares it."),)
    merged = assess_content(observe(lateral=0.9, turned=0.6), THRESHOLDS).merge_warnings(
        header_warnings
    )
    assert [warning.code for warning in merged] == [
        WarningCode.LATERAL_VIEW,
        WarningCode.LOOKS_ROTATED,
    ]
    assert merged[0] == header_warnings[0]


def test_outputs_are_read_in_their_order() -> None:
    row = np.array([0.7, 0.2, 0.1, 0.4, 0.3, 0.2, 0.1, 0.6], np.float32)
    read = ContentProbabilities.from_outputs(row)
    assert (read.frontal, read.lateral, read.other) == pytest.approx((0.7, 0.2, 0.1))
    assert read.turns == pytest.approx((0.4, 0.3, 0.2, 0.1))
    assert read.turned == pytest.approx(0.6)
    assert read.inverted == pytest.approx(0.6)


@pytest.mark.parametrize(
    "row",
    [
        [0.7, 0.2, 0.1],
        [np.nan, 0.2, 0.1, 1, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0, np.nan],
        [1, 0, 0, 1, 0, 0, 0, 1.5],
        [1, 0, 0, 0.5, 0, 0, 0, 0],
        [0.5, 0.2, 0.1, 1, 0, 0, 0, 0],
        [1.5, -0.5, 0, 1, 0, 0, 0, 0],
    ],
)
def test_outputs_that_are_no_probabilities_are_rejected(row: list[float]) -> None:
    with pytest.raises(ContentOutputsInvalid):
        ContentProbabilities.from_outputs(np.array(row, np.float32))
