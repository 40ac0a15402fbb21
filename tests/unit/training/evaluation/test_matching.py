"""Which detection met which box: by hand, and as the COCO library averages it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hilum.catalog import CATALOG
from tests.support.training.labelled import NODULE, OPACITY, TWO, by_chance, entry, finding
from training.data.dataset import LabelledImage
from training.data.labels import Label
from training.errors import TrainingError
from training.evaluation.matching import IOUS, FindingsPerImage, MatchResult, match_findings
from training.evaluation.metrics import average_precision, mean_average_precision


def hits(found: FindingsPerImage, iou: float = 0.4) -> list[bool]:
    matched = match_findings(TWO, found)
    chosen = matched.classes == NODULE
    return [bool(hit) for hit in matched.true_positives[matched.row_of(iou)][chosen]]


def test_a_second_box_on_the_same_finding_is_false() -> None:
    assert hits([[finding(0, 0.9), finding(1, 0.8)], []]) == [True, False]


def test_overlap_decides() -> None:
    assert hits([[finding(4, 0.9)], []], iou=0.4) == [True]
    assert hits([[finding(4, 0.9)], []], iou=0.5) == [False]


def test_what_a_background_may_hide_is_neither_right_nor_wrong() -> None:
    hides = [
        entry(unknown=frozenset({OPACITY}), image_id="a"),
        entry(Label(OPACITY, 0, 0, 10, 10), unknown=frozenset({OPACITY}), image_id="b"),
    ]
    found = [
        [finding(50, 0.9, OPACITY)],
        [finding(0, 0.8, OPACITY), finding(0, 0.7, OPACITY)],
    ]
    matched = match_findings(hides, found)
    assert matched.true_positives[0].tolist() == [False, True, False]
    assert matched.false_positives[0].tolist() == [False, False, False]
    assert not matched.fully_labelled[:, OPACITY].any()
    assert mean_average_precision(hides, found, 0.5) == pytest.approx(1.0)


def test_a_box_knows_how_surely_it_was_met() -> None:
    matched = match_findings(TWO, [[finding(0, 0.9), finding(1, 0.8)], [finding(0, 0.7)]])
    assert matched.box_score[0, 0] == pytest.approx(0.9)
    assert np.isnan(matched.box_score[0, 1])
    assert matched.box_image.tolist() == [0, 0]
    assert matched.box_label.tolist() == [0, 1]


def test_average_precision_by_hand() -> None:
    found = [[finding(0, 0.9), finding(100, 0.5)], [finding(50, 0.7)]]
    # 51 of the 101 recalls are reached at precision 1, 50 at precision 2/3.
    assert mean_average_precision(TWO, found, 0.5) == pytest.approx((51 + 50 * 2 / 3) / 101)


def accumulated(entries: list[LabelledImage], found: FindingsPerImage) -> NDArray[np.float64]:
    """The library's own average precision, (T, C), -1 for a class without a box."""
    from pycocotools.cocoeval import COCOeval

    from training.evaluation import matching

    order = matching._order_by_id(entries)
    boxes = [*matching._box_annotations(order, entries), *matching._crowd_regions(order, entries)]
    judge = COCOeval(
        matching._coco(len(entries), boxes),
        matching._coco(len(entries), matching._coco_detections(order, found)),
        "bbox",
    )
    judge.params.iouThrs = np.array(IOUS)
    judge.params.maxDets = [1000]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e20]], ["all"]
    judge.evaluate()
    judge.accumulate()
    precision: NDArray[np.float64] = judge.eval["precision"][:, :, :, 0, 0]
    return precision.mean(axis=1)


def averaged(matched: MatchResult) -> NDArray[np.float64]:
    counts = np.ones((1, len(matched.boxes)))
    return average_precision(matched, counts, IOUS)[:, 0]


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_the_librarys_own(seed: int) -> None:
    entries, found = by_chance(30, seed, hidden=0.1)
    expected = accumulated(entries, found)
    ours = averaged(match_findings(entries, found))
    assert ours.shape == (len(IOUS), len(CATALOG))
    np.testing.assert_allclose(np.nan_to_num(ours, nan=-1), expected, atol=1e-12)


def test_a_set_drawn_twice_is_the_set_with_each_image_twice() -> None:
    entries, found = by_chance(20, 5)
    times = np.random.default_rng(1).integers(0, 3, len(entries))
    drawn = [
        (entry(*e.labels, image_id=f"{e.image_id}-{copy}", unknown=e.unknown), findings)
        for e, findings, count in zip(entries, found, times, strict=True)
        for copy in range(count)
    ]
    expected = averaged(match_findings([e for e, _ in drawn], [findings for _, findings in drawn]))
    matched = match_findings(entries, found)
    ours = average_precision(matched, times[None].astype(float), IOUS)[:, 0]
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_no_image_and_no_box_are_said() -> None:
    with pytest.raises(TrainingError, match="no image to evaluate"):
        match_findings([], [])
    with pytest.raises(TrainingError, match="no image has a labelled box"):
        mean_average_precision([entry()], [[finding(0, 0.9)]], 0.5)
    with pytest.raises(ValueError, match="2 images, findings for 1"):
        match_findings(TWO, [[]])
