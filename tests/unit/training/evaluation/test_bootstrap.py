"""Intervals: what is drawn, and what two detectors differ by."""

from __future__ import annotations

import numpy as np
import pytest

from hilum.catalog import BY_SLUG
from tests.support.training.labelled import TWO, by_chance, entry, finding
from training.data.dataset import LabelledImage
from training.evaluation.bootstrap import (
    Interval,
    MetricFunction,
    draw_resamples,
    estimate_difference,
    estimate_interval,
)
from training.evaluation.matching import FindingsPerImage, match_findings
from training.evaluation.metrics import mean_precision
from training.evaluation.operating_points import apply_thresholds


def test_the_first_set_is_the_set_itself_and_the_others_are_as_large() -> None:
    entries, _ = by_chance(40)
    counts = draw_resamples(entries, resamples=50, seed=3)
    assert counts.shape == (51, 40)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 40).all()
    assert np.array_equal(counts, draw_resamples(entries, resamples=50, seed=3))
    assert not np.array_equal(counts, draw_resamples(entries, resamples=50, seed=4))


def test_images_of_one_patient_are_drawn_together() -> None:
    entries = [entry(image_id=str(k), patient="P" if k < 3 else "") for k in range(6)]
    counts = draw_resamples(entries, resamples=50)
    assert (counts[:, :3] == counts[:, :1]).all()
    assert not (counts[:, 3] == counts[:, 4]).all()


def test_an_interval_holds_its_value_and_says_when_there_is_none() -> None:
    assert estimate_interval(np.array([0.5, 0.1, 0.2, 0.3])) == Interval(
        0.5, pytest.approx(0.105), 0.5
    )
    assert estimate_interval(np.array([0.5, np.nan])) == Interval(0.5, 0.5, 0.5)
    assert estimate_interval(np.array([np.nan, 0.5])) is None


def map50(entries: list[LabelledImage], found: FindingsPerImage) -> MetricFunction:
    return mean_precision(match_findings(entries, found), (0.5,))


def test_a_detector_differs_from_itself_by_nothing() -> None:
    entries, found = by_chance(30)
    figure = map50(entries, found)
    same = estimate_difference(figure, figure, draw_resamples(entries, resamples=100))
    assert same == Interval(0.0, 0.0, 0.0)


def test_pairing_tells_a_small_difference_from_chance() -> None:
    entries, found = by_chance(120, seed=2)
    worse = [findings[: -(-len(findings) * 4 // 5)] for findings in found]
    counts = draw_resamples(entries, resamples=200)
    paired = estimate_difference(map50(entries, worse), map50(entries, found), counts)
    alone = estimate_interval(map50(entries, found)(counts))
    assert paired is not None
    assert alone is not None
    assert paired.high - paired.low < alone.high - alone.low


def test_a_difference_that_cannot_be_told_is_none() -> None:
    points = dict.fromkeys(BY_SLUG, 0.5)
    better, worse = [[finding(0, 0.9), finding(100, 0.9)], []], [[finding(0, 0.9)], []]
    a, b = (apply_thresholds(match_findings(TWO, found), points) for found in (better, worse))
    counts = draw_resamples(TWO, resamples=50)
    known = estimate_difference(
        a.sensitivity_of("nodule_mass"), b.sensitivity_of("nodule_mass"), counts
    )
    assert known is not None
    assert known.value == 0.5
    assert estimate_difference(a.sensitivity_of("ild"), b.sensitivity_of("ild"), counts) is None
