"""Decoding of hand-made raw outputs to findings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.core import findings as findings_module
from edge_agent.core.findings import (
    MAX_CANDIDATES,
    Box,
    Finding,
    OutputsInvalid,
    decode_candidates,
    decode_findings,
    iou,
    select_findings,
)
from edge_agent.core.geometry import Letterbox
from hilum.manifest import HeadSpec

CLASSES = 14
WHOLE = Letterbox.fit(640, 640, 640, 640)
HEAD = HeadSpec(iou_threshold=0.5, score_floor=0.05, max_findings=10)
HALF = [0.5] * CLASSES

Shown = tuple[int, float, tuple[float, float, float, float]]


def make_outputs(*shown: Shown, anchors: int = 20) -> NDArray[np.float32]:
    """Return outputs with an anchor for each (class, score, centre x, centre y, width, height)."""
    raw = np.zeros((4 + CLASSES, anchors), np.float32)
    for anchor, (index, score, box) in enumerate(shown):
        raw[:4, anchor] = box
        raw[4 + index, anchor] = score
    return raw


def test_a_score_at_its_threshold_counts_and_none_below() -> None:
    raw = make_outputs((3, 0.5, (100, 100, 40, 20)), (4, 0.4999, (300, 300, 40, 20)))
    assert decode_findings(raw, WHOLE, HEAD, HALF) == (Finding(3, 0.5, Box(80, 90, 120, 110)),)


def test_each_class_has_its_own_threshold_and_the_floor_applies_to_all() -> None:
    raw = make_outputs(
        (0, 0.3, (100, 100, 40, 20)),
        (1, 0.3, (200, 100, 40, 20)),
        (2, 0.04, (300, 100, 40, 20)),
        (2, 0.06, (400, 100, 40, 20)),
    )
    thresholds = [0.2, 0.4, 0.0] + [1.0] * 11
    findings = decode_findings(raw, WHOLE, HEAD, thresholds)
    assert [(f.index, round(f.score, 2)) for f in findings] == [(0, 0.3), (2, 0.06)]


def test_one_anchor_may_have_several_classes_unless_the_head_forbids_it() -> None:
    raw = make_outputs((4, 0.6, (100, 100, 40, 20)))
    raw[4 + 7, 0] = 0.9
    findings = decode_findings(raw, WHOLE, HEAD, HALF)
    assert [f.index for f in findings] == [7, 4]
    assert findings[0].box == findings[1].box
    single = HEAD.model_copy(update={"multi_label": False})
    assert [f.index for f in decode_findings(raw, WHOLE, single, HALF)] == [7]
    # The best class counts, even where another one reaches its own threshold.
    picky = [0.5] * 7 + [0.95] + [0.5] * 6
    assert decode_findings(raw, WHOLE, single, picky) == ()


def test_a_model_of_fewer_classes_gives_the_catalogues_indexes() -> None:
    raw = make_outputs((0, 0.9, (100, 100, 40, 20)), (2, 0.7, (300, 300, 40, 20)))[:7]
    found = decode_findings(raw, WHOLE, HEAD, [0.5] * 3, (3, 8, 12))
    assert [(f.index, round(f.score, 2)) for f in found] == [(3, 0.9), (12, 0.7)]
    with pytest.raises(ValueError, match="3 thresholds for 14 classes"):
        decode_findings(raw, WHOLE, HEAD, [0.5] * 3)


def test_suppression_stays_within_a_class() -> None:
    raw = make_outputs(
        (8, 0.9, (100, 100, 40, 40)),
        (8, 0.8, (105, 100, 40, 40)),
        (9, 0.7, (105, 100, 40, 40)),
        (8, 0.6, (400, 100, 40, 40)),
    )
    findings = decode_findings(raw, WHOLE, HEAD, HALF)
    assert [(f.index, round(f.score, 1)) for f in findings] == [(8, 0.9), (9, 0.7), (8, 0.6)]


def test_boxes_that_overlap_by_exactly_the_threshold_are_both_kept() -> None:
    raw = make_outputs((8, 0.9, (100, 100, 40, 40)), (8, 0.8, (100, 110, 40, 20)))
    assert len(decode_findings(raw, WHOLE, HEAD, HALF)) == 2
    lower = HEAD.model_copy(update={"iou_threshold": 0.49})
    assert len(decode_findings(raw, WHOLE, lower, HALF)) == 1


def test_only_the_best_are_kept_up_to_the_limit() -> None:
    raw = make_outputs(*((8, 0.5 + k / 50, (20 + 30 * k, 100, 20, 20)) for k in range(20)))
    findings = decode_findings(raw, WHOLE, HEAD, HALF)
    assert [round(f.score, 2) for f in findings] == [
        round(0.5 + k / 50, 2) for k in range(19, 9, -1)
    ]


def test_boxes_come_back_in_original_pixels_and_inside_the_image() -> None:
    tall = Letterbox.fit(2000, 1000, 640, 640)  # 320 wide, 160 of padding on either side.
    raw = make_outputs((8, 0.9, (320, 320, 32, 64)), (8, 0.8, (165, 5, 20, 20)))
    inner, corner = decode_findings(raw, tall, HEAD, HALF)
    assert inner.box == Box(450, 900, 550, 1100)
    assert corner.box == Box(0, 0, 46.875, 46.875)


def test_a_box_wholly_in_the_padding_is_no_finding_and_suppresses_none() -> None:
    tall = Letterbox.fit(2000, 1000, 640, 640)
    raw = make_outputs((8, 0.9, (80, 320, 160, 40)), (8, 0.8, (100, 320, 160, 40)))
    (finding,) = decode_findings(raw, tall, HEAD, HALF)
    assert finding.score == pytest.approx(0.8)


def test_nothing_found_is_an_empty_tuple_only_for_sound_outputs() -> None:
    assert decode_findings(make_outputs(), WHOLE, HEAD, HALF) == ()
    assert decode_findings(make_outputs(anchors=0), WHOLE, HEAD, HALF) == ()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 3, 4, 17])
def test_a_value_that_is_not_finite_is_an_error_wherever_it_is(value: float, row: int) -> None:
    raw = make_outputs((8, 0.9, (100, 100, 40, 40)))
    raw[row, 7] = value
    with pytest.raises(OutputsInvalid, match="1 of 360 output values are not finite"):
        decode_findings(raw, WHOLE, HEAD, HALF)


def test_a_score_above_one_is_an_error() -> None:
    with pytest.raises(OutputsInvalid, match=r"score of 1\.5"):
        decode_findings(make_outputs((8, 1.5, (100, 100, 40, 40))), WHOLE, HEAD, HALF)


@pytest.mark.parametrize("shape", [(18,), (17, 20), (1, 18, 20), (20, 18)])
def test_a_wrong_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(OutputsInvalid, match="expected \\(18, anchors\\)"):
        decode_findings(np.zeros(shape, np.float32), WHOLE, HEAD, HALF)


def test_overlap_of_boxes() -> None:
    square = Box(0, 0, 10, 10)
    assert iou(square, square) == 1
    assert iou(square, Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou(square, Box(10, 0, 20, 10)) == 0
    assert iou(square, Box(12, 12, 20, 20)) == 0
    assert iou(Box(3, 3, 3, 3), Box(3, 3, 3, 3)) == 0


@st.composite
def crowded_outputs(draw: st.DrawFn) -> NDArray[np.float32]:
    """Draw outputs with many boxes that overlap, in few places, with few different scores."""
    shown = draw(
        st.lists(
            st.tuples(
                st.integers(0, CLASSES - 1),
                st.sampled_from([0.04, 0.06, 0.2, 0.25, 0.5, 0.7, 0.9]),
                st.tuples(*[st.sampled_from([80, 90, 100, 120])] * 4),
            ),
            max_size=40,
        )
    )
    return make_outputs(*shown, anchors=40)


@given(
    crowded_outputs(),
    st.lists(st.sampled_from([0.01, 0.2, 0.25, 0.6, 1.0]), min_size=CLASSES, max_size=CLASSES),
    st.booleans(),
)
def test_a_selection_of_candidates_equals_decoding_with_the_thresholds(
    raw: NDArray[np.float32], thresholds: list[float], multi_label: bool
) -> None:
    head = HEAD.model_copy(update={"multi_label": multi_label})
    candidates = decode_candidates(raw, WHOLE, head)
    assert select_findings(candidates, head, thresholds) == decode_findings(
        raw, WHOLE, head, thresholds
    )


@given(crowded_outputs())
def test_many_boxes_are_suppressed_as_few_are(raw: NDArray[np.float32]) -> None:
    """A table of all overlaps, which few boxes get, keeps the same boxes as row after row."""
    few = decode_candidates(raw, WHOLE, HEAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings_module, "_MAX_TABLE", 0)
        assert decode_candidates(raw, WHOLE, HEAD) == few


def test_candidates_that_were_cut_select_nothing() -> None:
    places = range(20, 20 + 30 * 22, 30)
    shown = [
        (index % CLASSES, 0.3, (x, y, 10, 10)) for index, x in enumerate(places) for y in places
    ]
    raw = make_outputs(*shown, anchors=len(shown))
    candidates = decode_candidates(raw, WHOLE, HEAD)
    assert len(candidates) == MAX_CANDIDATES
    assert select_findings(candidates, HEAD, HALF) is None
