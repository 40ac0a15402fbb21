"""What counts as a drop, a lost box and a bound that was not kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.core.findings import Box, Finding
from hilum.catalog import CATALOG
from training.config import ParityBounds
from training.data.dataset import LabelledImage
from training.data.labels import Label
from training.errors import TrainingError
from training.evaluation.parity import ParitySide, VariantParity, compare_variant, measure_box_shift

MASS = 8
POINTS = {finding.slug: 0.5 for finding in CATALOG}
BOUNDS = ParityBounds()


def entry(number: int, *, labelled: bool = True) -> LabelledImage:
    labels = (Label(MASS, 10, 10, 50, 50),) if labelled else ()
    return LabelledImage(f"{number:03d}", Path("nowhere.png"), "painted", frozenset(), labels)


def mass(score: float = 0.9, shift: float = 0.0) -> Finding:
    return Finding(MASS, score, Box(10 + shift, 10, 50 + shift, 50))


ENTRIES = [entry(k) for k in range(10)]
REFERENCE = ParitySide([(mass(),)] * 10, POINTS)


def judged(found: list[tuple[Finding, ...]], bounds: ParityBounds = BOUNDS) -> VariantParity:
    sides = (REFERENCE, ParitySide(found, POINTS))
    return compare_variant("openvino-int8", "CPU", ENTRIES, sides, bounds, resamples=50)


def test_the_same_findings_are_no_drop() -> None:
    same = judged([(mass(),)] * 10)
    assert same.problems == ()
    assert (same.map50.reference, same.map50.variant, same.map50.drop) == (1, 1, 0)
    assert set(same.sensitivity) == {"nodule_mass"}
    assert (same.box_shift.boxes, same.box_shift.lost, same.box_shift.worst_px) == (10, 0, 0)


def test_a_missed_box_names_bound_and_value_of_both() -> None:
    fallen = judged([(mass(),)] * 9 + [()])
    assert fallen.map50.low <= fallen.map50.drop <= fallen.map50.high
    assert fallen.sensitivity["nodule_mass"].drop == pytest.approx(0.1)
    of_map, of_class = fallen.problems
    assert "openvino-int8: mAP@0.5 is 0." in of_map
    assert "the bound is 0.01 (parity.map50_drop)" in of_map
    assert "the sensitivity for nodule_mass at its operating point is 0.1000 down" in of_class
    assert "the bound is 0.03 (parity.sensitivity_drop)" in of_class


def test_a_score_that_sinks_under_the_point_costs_sensitivity_alone() -> None:
    sunk = judged([(mass(0.45),)] * 10)
    assert sunk.map50.drop == 0
    assert sunk.sensitivity["nodule_mass"].drop == 1
    assert len(sunk.problems) == 1


def test_bounds_are_kept_where_they_allow_it() -> None:
    found = [(mass(),)] * 9 + [()]
    assert judged(found, ParityBounds(map50_drop=0.5, sensitivity_drop=0.1)).problems == ()


def test_being_better_is_no_problem() -> None:
    worse = ParitySide([(mass(),)] * 9 + [()], POINTS)
    better = compare_variant("x", "CPU", ENTRIES, (worse, REFERENCE), BOUNDS, resamples=20)
    assert better.map50.drop < 0
    assert better.problems == ()


def test_box_shift_is_the_edge_that_moved_most_of_findings_that_count() -> None:
    reference = ParitySide([(mass(), mass(0.3, shift=30)), (mass(),), (mass(),)], POINTS)
    variant = ParitySide(
        [(mass(0.2, shift=2),), (mass(0.9, shift=-5.5),), (mass(shift=35),)], POINTS
    )
    shift = measure_box_shift(ENTRIES[:3], reference, variant)
    assert (shift.boxes, shift.lost) == (3, 1)
    assert (shift.worst_px, shift.worst_image) == (5.5, "001")
    assert shift.median_px == 3.75


def test_another_class_in_the_same_place_is_a_lost_box() -> None:
    other = replace(mass(), index=0)
    assert measure_box_shift(ENTRIES[:1], REFERENCE_ONE, ParitySide([(other,)], POINTS)).lost == 1


REFERENCE_ONE = ParitySide([(mass(),)], POINTS)


def test_a_set_without_a_box_has_nothing_to_compare() -> None:
    empty = [entry(k, labelled=False) for k in range(3)]
    side = ParitySide([()] * 3, POINTS)
    with pytest.raises(TrainingError, match="no image of the split has a labelled box"):
        compare_variant("x", "CPU", empty, (side, side), BOUNDS, resamples=10)
