"""Figures that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.core.findings import Box, Finding
from hilum.catalog import BY_SLUG
from training.data.store import Entry
from training.data.synthetic import Label
from training.evaluate import report, score

NODULE = BY_SLUG["nodule_mass"].index
OPACITY = BY_SLUG["lung_opacity"].index


def entry(*labels: Label, unknown: frozenset[int] = frozenset()) -> Entry:
    return Entry("none", Path("none.png"), "painted", unknown, labels)


def nodule(x: float, score: float, index: int = NODULE) -> Finding:
    return Finding(index, score, Box(x, 0, x + 10, 10))


ENTRIES = [entry(Label(NODULE, 0, 0, 10, 10), Label(NODULE, 100, 0, 110, 10)), entry()]


def test_average_precision_by_hand() -> None:
    found = [[nodule(0, 0.9), nodule(100, 0.5)], [nodule(50, 0.7)]]
    of_class = score(ENTRIES, found)[NODULE]
    assert of_class.hits.tolist() == [True, False, True]
    assert of_class.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert of_class.sensitivity(0.0) == 0.5
    assert of_class.sensitivity(0.5) == 1.0


def test_a_second_box_on_the_same_finding_is_false() -> None:
    found = [[nodule(0, 0.9), nodule(1, 0.8)], []]
    assert score(ENTRIES, found)[NODULE].hits.tolist() == [True, False]


def test_overlap_decides() -> None:
    assert score(ENTRIES, [[nodule(4, 0.9)], []], iou=0.4)[NODULE].hits.tolist() == [True]
    assert score(ENTRIES, [[nodule(4, 0.9)], []], iou=0.5)[NODULE].hits.tolist() == [False]


def test_the_threshold_keeps_false_positives_down_and_respects_the_floor() -> None:
    found = [[nodule(0, 0.9)], [nodule(50, 0.7), nodule(80, 0.3)]]
    of_class = score(ENTRIES, found)[NODULE]
    assert of_class.threshold(0.0, 0.2) == pytest.approx(0.701)
    assert of_class.threshold(0.5, 0.2) == pytest.approx(0.301)
    assert of_class.threshold(1.0, 0.2) == 0.2


def test_what_a_background_may_hide_is_not_called_false() -> None:
    hides = [entry(unknown=frozenset({OPACITY})), entry(Label(OPACITY, 0, 0, 10, 10))]
    found = [[nodule(50, 0.9, OPACITY)], [nodule(0, 0.8, OPACITY)]]
    of_class = score(hides, found)[OPACITY]
    assert of_class.hits.tolist() == [True]
    assert of_class.images == 1


def test_report_counts_marks_on_clear_images() -> None:
    found = [[nodule(0, 0.9)], [nodule(50, 0.7)]]
    figures = report(ENTRIES, found, points=dict.fromkeys(BY_SLUG, 0.5))
    assert figures.quiet_share == 0.0
    assert figures.marks_per_clear_image == 1.0
    assert figures.per_class["nodule_mass"]["sensitivity_at_point"] == 0.5
    assert set(figures.per_class) == {"nodule_mass"}
    assert report(ENTRIES, [[nodule(0, 0.9)], []]).quiet_share == 1.0
