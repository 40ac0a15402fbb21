"""Intervals: what is drawn, and what two detectors differ by."""

from __future__ import annotations

import numpy as np
import pytest

from hilum.catalog import BY_SLUG
from tests.support.labelled import TWO, by_chance, entry, finding
from training.evaluation.bootstrap import Interval, draws, interval, paired_difference
from training.evaluation.metrics import map_at
from training.evaluation.points import sensitivity_at


def test_the_first_set_is_the_set_itself_and_the_others_are_as_large() -> None:
    entries, _ = by_chance(40)
    counts = draws(entries, resamples=50, seed=3)
    assert counts.shape == (51, 40)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 40).all()
    assert np.array_equal(counts, draws(entries, resamples=50, seed=3))
    assert not np.array_equal(counts, draws(entries, resamples=50, seed=4))


def test_images_of_one_patient_are_drawn_together() -> None:
    entries = [entry(image_id=str(k), patient="P" if k < 3 else "") for k in range(6)]
    counts = draws(entries, resamples=50)
    assert (counts[:, :3] == counts[:, :1]).all()
    assert not (counts[:, 3] == counts[:, 4]).all()


def test_an_interval_holds_its_value_and_says_when_there_is_none() -> None:
    assert interval(np.array([0.5, 0.1, 0.2, 0.3])) == Interval(0.5, pytest.approx(0.105), 0.5)
    assert interval(np.array([0.5, np.nan])) == Interval(0.5, 0.5, 0.5)
    assert interval(np.array([np.nan, 0.5])) is None


def test_a_detector_differs_from_itself_by_nothing() -> None:
    entries, found = by_chance(30)
    same = paired_difference(map_at(0.5), entries, found, found, resamples=100)
    assert same == Interval(0.0, 0.0, 0.0)


def test_pairing_tells_a_small_difference_from_chance() -> None:
    entries, found = by_chance(120, seed=2)
    worse = [said[: -(-len(said) * 4 // 5)] for said in found]
    paired = paired_difference(map_at(0.5), entries, worse, found, resamples=200)
    alone = interval(map_at(0.5)(entries, found)(draws(entries, resamples=200)))
    assert paired is not None
    assert alone is not None
    assert paired.high - paired.low < alone.high - alone.low


def test_the_sensitivity_of_one_class_can_be_compared() -> None:
    points = dict.fromkeys(BY_SLUG, 0.5)
    better, worse = [[finding(0, 0.9), finding(100, 0.9)], []], [[finding(0, 0.9)], []]
    paired = paired_difference(
        sensitivity_at(points, "nodule_mass"), TWO, better, worse, resamples=50
    )
    assert paired is not None
    assert paired.value == 0.5
    nothing = paired_difference(sensitivity_at(points, "ild"), TWO, better, worse, resamples=50)
    assert nothing is None
