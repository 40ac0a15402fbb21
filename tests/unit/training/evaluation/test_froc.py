"""FROC by hand: what is found where so many false marks are put up with."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.training.labelled import ITSELF, NODULE, OPACITY, TWO, by_chance, entry, finding
from training.data.labels import Label
from training.evaluation import froc
from training.evaluation.bootstrap import draw_resamples
from training.evaluation.matching import match_findings

FOUND = [[finding(0, 0.9), finding(100, 0.5)], [finding(50, 0.7)]]


def test_sensitivity_rises_with_the_false_marks_put_up_with() -> None:
    matched = match_findings(TWO, FOUND)
    assert froc.pooled_sensitivity(matched, ITSELF, (0.0, 0.4, 0.5, 8.0))[0].tolist() == [
        0.5,
        0.5,
        1.0,
        1.0,
    ]
    alone = froc.per_class_sensitivity(matched, ITSELF, (0.0, 0.5))
    assert alone[0, NODULE].tolist() == [0.5, 1.0]
    assert np.isnan(alone[0, OPACITY]).all()


def test_equal_scores_come_together() -> None:
    found = [[finding(0, 0.9), finding(50, 0.9)], []]
    assert froc.pooled_sensitivity(match_findings(TWO, found), ITSELF, (0.0, 0.5))[0].tolist() == [
        0.0,
        0.5,
    ]


def test_false_marks_count_per_image_in_which_they_can_be_told() -> None:
    entries = [
        entry(unknown=frozenset({OPACITY}), image_id="a"),
        entry(Label(OPACITY, 0, 0, 10, 10), image_id="b"),
    ]
    found = [[], [finding(50, 0.9, OPACITY), finding(0, 0.8, OPACITY)]]
    assert froc.pooled_sensitivity(match_findings(entries, found), ITSELF, (0.5, 1.0))[
        0
    ].tolist() == [0.0, 1.0]


def test_the_curve_ends_where_the_detector_does() -> None:
    curve = froc.froc_curve(match_findings(TWO, FOUND))
    assert curve.thresholds.tolist() == [0.9, 0.7, 0.5]
    assert curve.false_positives_per_image.tolist() == [0.0, 0.5, 0.5]
    assert curve.sensitivity.tolist() == [0.5, 0.5, 1.0]
    assert froc.froc_curve(match_findings(TWO, [[], []])).false_positives_per_image.size == 0


def test_one_set_at_a_time_is_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    entries, found = by_chance(25, 4)
    matched, counts = match_findings(entries, found), draw_resamples(entries, resamples=8)
    at_once = froc.pooled_sensitivity(matched, counts)
    monkeypatch.setattr("training.evaluation.metrics._CELLS", 1)
    np.testing.assert_array_equal(froc.pooled_sensitivity(matched, counts), at_once)
