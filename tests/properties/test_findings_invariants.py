"""Invariants over any outputs: non-maximum suppression, and the inverse of the letterbox."""

from __future__ import annotations

from random import Random

import hypothesis.extra.numpy as nps
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.core.findings import Box, decode_findings, iou, non_max_suppression
from edge_agent.core.geometry import Letterbox
from hilum.manifest import HeadSpec

Candidates = tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.intp]]


@st.composite
def candidates(draw: st.DrawFn) -> Candidates:
    """Draw from few places, sizes, scores and classes, so that boxes overlap and scores tie."""
    count = draw(st.integers(0, 25))
    numbers = draw(nps.arrays(np.int64, (count, 6), elements=st.integers(0, 6)))
    low = numbers[:, :2] * 4.0
    high = low + 4.0 + numbers[:, 2:4] * 3
    scores = (numbers[:, 4] / 6).astype(np.float32)
    return np.hstack((low, high)), scores, (numbers[:, 5] % 3).astype(np.intp)


IOUS = st.sampled_from((0.2, 0.5, 0.7))


def suppress(detections: Candidates, iou_threshold: float, limit: int = 1000) -> list[int]:
    boxes, scores, classes = detections
    indexes = non_max_suppression(boxes, scores, classes, iou_threshold=iou_threshold, limit=limit)
    return list(indexes.tolist())


def select(detections: Candidates, indexes: list[int]) -> Candidates:
    return detections[0][indexes], detections[1][indexes], detections[2][indexes]


def list_rows(detections: Candidates) -> list[tuple[float, ...]]:
    return [(float(s), int(c), *map(float, b)) for b, s, c in zip(*detections, strict=True)]


def overlap(detections: Candidates, one: int, other: int) -> float:
    return iou(Box(*detections[0][one]), Box(*detections[0][other]))


@given(candidates(), IOUS)
def test_kept_boxes_are_a_subset_in_order_and_do_not_overlap(
    detections: Candidates, iou_threshold: float
) -> None:
    kept = suppress(detections, iou_threshold)
    assert len(set(kept)) == len(kept)
    assert list(detections[1][kept]) == sorted(detections[1][kept], reverse=True)
    for place, one in enumerate(kept):
        for other in kept[:place]:
            assert (
                detections[2][one] != detections[2][other]
                or overlap(detections, one, other) <= iou_threshold + 1e-9
            )


@given(candidates(), IOUS)
def test_each_dropped_box_overlaps_a_better_one_of_its_class(
    detections: Candidates, iou_threshold: float
) -> None:
    kept = suppress(detections, iou_threshold)
    for gone in set(range(len(detections[1]))) - set(kept):
        assert any(
            detections[2][one] == detections[2][gone]
            and detections[1][one] >= detections[1][gone]
            and overlap(detections, one, gone) > iou_threshold - 1e-9
            for one in kept
        )


@given(candidates(), IOUS)
def test_a_second_pass_changes_nothing(detections: Candidates, iou_threshold: float) -> None:
    once = select(detections, suppress(detections, iou_threshold))
    assert list_rows(select(once, suppress(once, iou_threshold))) == list_rows(once)


@given(candidates(), IOUS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    detections: Candidates, iou_threshold: float, random: Random
) -> None:
    order = list(range(len(detections[1])))
    random.shuffle(order)
    shuffled = select(detections, order)
    assert list_rows(select(shuffled, suppress(shuffled, iou_threshold))) == list_rows(
        select(detections, suppress(detections, iou_threshold))
    )


@given(candidates(), IOUS)
def test_classes_are_independent(detections: Candidates, iou_threshold: float) -> None:
    together = list_rows(select(detections, suppress(detections, iou_threshold)))
    by_class = []
    for index in range(3):
        alone = select(
            detections, [k for k in range(len(detections[1])) if detections[2][k] == index]
        )
        by_class += list_rows(select(alone, suppress(alone, iou_threshold)))
    assert sorted(together) == sorted(by_class)


@given(candidates(), IOUS, st.integers(0, 30))
def test_a_limit_keeps_the_best(detections: Candidates, iou_threshold: float, limit: int) -> None:
    assert suppress(detections, iou_threshold, limit) == suppress(detections, iou_threshold)[:limit]


SIZES = st.integers(64, 5000)
INPUTS = st.sampled_from((320, 512, 640, 1024))


@given(SIZES, SIZES, INPUTS, INPUTS, st.tuples(*[st.floats(0, 1)] * 4))
def test_a_box_is_unchanged_by_the_letterbox_and_its_inverse(
    rows: int, columns: int, height: int, width: int, corners: tuple[float, float, float, float]
) -> None:
    letterbox = Letterbox.fit(rows, columns, height, width)
    (x_min, x_max), (y_min, y_max) = sorted(corners[:2]), sorted(corners[2:])
    assume(x_max - x_min > 0.01 and y_max - y_min > 0.01)
    box = np.array([x_min * columns, y_min * rows, x_max * columns, y_max * rows])
    placed = box * ([letterbox.scale_x, letterbox.scale_y] * 2)
    placed += [letterbox.left, letterbox.top] * 2
    outputs = np.zeros((18, 1), np.float32)
    outputs[:2, 0] = (placed[:2] + placed[2:]) / 2
    outputs[2:4, 0] = placed[2:] - placed[:2]
    outputs[12, 0] = 0.9
    (finding,) = decode_findings(outputs, letterbox, HeadSpec(), [0.5] * 14)
    # f32 has 24 bits of mantissa for coordinates up to 1024, then they are scaled up.
    pixel = 2e-4 / min(letterbox.scale_x, letterbox.scale_y)
    restored = (finding.box.x_min, finding.box.y_min, finding.box.x_max, finding.box.y_max)
    np.testing.assert_allclose(restored, box, atol=pixel)


@given(
    nps.arrays(np.float32, (18, 30), elements=st.floats(0, 1, width=32)),
    SIZES,
    SIZES,
    st.booleans(),
)
def test_findings_are_inside_the_image_and_follow_the_head(
    outputs: NDArray[np.float32], rows: int, columns: int, multi_label: bool
) -> None:
    outputs[:4] *= 900
    letterbox = Letterbox.fit(rows, columns, 640, 640)
    head = HeadSpec(max_findings=20, score_floor=0.25, multi_label=multi_label)
    findings = decode_findings(outputs, letterbox, head, np.linspace(0, 1, 14))
    assert len(findings) <= 20
    assert [f.score for f in findings] == sorted((f.score for f in findings), reverse=True)
    for finding in findings:
        assert finding.score >= max(0.25, np.float32(finding.index / 13) - 1e-7)
        assert 0 <= finding.box.x_min < finding.box.x_max <= columns
        assert 0 <= finding.box.y_min < finding.box.y_max <= rows
