"""Operating points that can be worked out by hand."""

from __future__ import annotations

import pytest

from hilum.catalog import BY_SLUG
from tests.support.training.labelled import ITSELF, NODULE, OPACITY, TWO, entry, finding
from training.data.labels import Label
from training.evaluation.matching import match_findings
from training.evaluation.operating_points import (
    ThresholdRule,
    apply_thresholds,
    choose_thresholds,
    sensitivity,
)


def test_the_threshold_keeps_false_positives_down_and_respects_the_floor() -> None:
    found = [[finding(0, 0.9)], [finding(50, 0.7), finding(80, 0.3)]]

    def chosen(false_positives: float) -> float:
        return choose_thresholds(TWO, found, false_positives=false_positives, floor=0.2)[
            "nodule_mass"
        ]

    assert chosen(0.0) == pytest.approx(0.7001)
    assert chosen(0.5) == pytest.approx(0.3001)
    assert chosen(1.0) == 0.2


def test_the_threshold_reaches_a_stated_sensitivity_where_that_can_be() -> None:
    found = [[finding(0, 0.9), finding(100, 0.45678)], []]

    def chosen(of: float) -> float:
        return choose_thresholds(TWO, found, sensitivity=of, floor=0.1)["nodule_mass"]

    assert chosen(0.5) == 0.9
    assert chosen(0.51) == pytest.approx(0.4567)
    assert (
        choose_thresholds(TWO, [found[0][:1], []], sensitivity=1.0, floor=0.1)["nodule_mass"] == 0.1
    )


def test_a_class_without_a_box_has_no_threshold_for_a_sensitivity() -> None:
    assert set(choose_thresholds(TWO, [[], []], sensitivity=0.5, floor=0.1)) == {"nodule_mass"}
    assert set(choose_thresholds(TWO, [[], []], false_positives=0.5, floor=0.1)) == set(BY_SLUG)


def test_one_aim_is_stated_not_two() -> None:
    for aims in ({}, {"false_positives": 0.1, "sensitivity": 0.5}):
        with pytest.raises(ValueError, match="not both"):
            choose_thresholds(TWO, [[], []], floor=0.1, **aims)


def test_a_rule_gives_every_class_a_threshold_and_says_what_for() -> None:
    found = [[finding(0, 0.9), finding(100, 0.45678)], [finding(50, 0.7, OPACITY)]]
    usual = ThresholdRule()
    assert usual.choose(TWO, found) == choose_thresholds(
        TWO, found, false_positives=0.05, floor=0.1
    )
    assert str(usual) == "at most 0.05 false positives per class and image"
    assert str(ThresholdRule(0.2)) == "at most 0.2 false positives per class and image"
    half = ThresholdRule(sensitivity=0.5)
    points = half.choose(TWO, found)
    assert set(points) == set(BY_SLUG)
    assert points["nodule_mass"] == 0.9
    # Without a box nothing tells its sensitivity: it is kept from marking too much.
    assert points["lung_opacity"] == usual.choose(TWO, found)["lung_opacity"] > 0.7
    assert str(half).startswith("a sensitivity of 0.5 per class")
    with pytest.raises(ValueError, match="not both"):
        ThresholdRule(0.05, 0.5)


def test_what_a_threshold_does() -> None:
    found = [[finding(0, 0.9), finding(100, 0.4)], [finding(50, 0.7)]]
    points = dict.fromkeys(BY_SLUG, 0.5)
    assert sensitivity(TWO, found, points) == {"nodule_mass": 0.5}
    done = apply_thresholds(match_findings(TWO, found), points)
    assert done.false_positives_per_image(ITSELF)[0, NODULE] == 0.5


def test_false_positives_are_counted_only_where_they_can_be_told() -> None:
    hides = [
        entry(unknown=frozenset({OPACITY}), image_id="a"),
        entry(Label(OPACITY, 0, 0, 10, 10), image_id="b"),
    ]
    found = [[finding(50, 0.9, OPACITY)], [finding(0, 0.8, OPACITY), finding(40, 0.8, OPACITY)]]
    done = apply_thresholds(match_findings(hides, found), dict.fromkeys(BY_SLUG, 0.5))
    assert done.false_positives_per_image(ITSELF)[0, OPACITY] == 1.0
    assert done.sensitivity(ITSELF)[0, OPACITY] == 1.0
