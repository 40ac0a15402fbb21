"""Invariants of the metrics for any labels and findings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edge_agent.core.findings import Box, Finding
from hilum.catalog import BY_SLUG, CATALOG
from tests.support.training.labelled import entry
from training.data.dataset import LabelledImage
from training.data.labels import Label
from training.evaluation import froc
from training.evaluation.bootstrap import draw_resamples, estimate_interval
from training.evaluation.image_level import compute_auroc, score_images
from training.evaluation.matching import IOUS, match_findings
from training.evaluation.metric_table import all_metrics
from training.evaluation.metrics import average_precision, mean_average_precision
from training.evaluation.operating_points import apply_thresholds, choose_thresholds, sensitivity

pytestmark = pytest.mark.filterwarnings("error")

Set = tuple[list[LabelledImage], list[list[Finding]]]

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
places = st.integers(0, 40)
sides = st.integers(5, 40)
classes = st.sampled_from((0, 3, 8))
scores = st.integers(1, 100).map(lambda n: n / 100)
POINTS = dict.fromkeys(BY_SLUG, 0.5)


@st.composite
def labels(draw: st.DrawFn) -> Label:
    x, y, width, height = draw(places), draw(places), draw(sides), draw(sides)
    return Label(draw(classes), x, y, x + width, y + height)


@st.composite
def findings(draw: st.DrawFn) -> Finding:
    x, y, width, height = draw(places), draw(places), draw(sides), draw(sides)
    return Finding(draw(classes), draw(scores), Box(x, y, x + width, y + height))


@st.composite
def sets(draw: st.DrawFn) -> Set:
    entries, found = [], []
    for k in range(draw(st.integers(1, 6))):
        unknown = frozenset(draw(st.sets(classes, max_size=1)))
        own = draw(st.lists(labels(), max_size=3))
        entries.append(entry(*own, image_id=f"{k}", unknown=unknown))
        found.append(draw(st.lists(findings(), max_size=5)))
    assume(any(e.labels for e in entries))
    return entries, found


@given(sets(), st.randoms(use_true_random=False))
@quick
def test_the_order_of_images_and_findings_does_not_matter(given_set: Set, random: object) -> None:
    entries, found = given_set
    order = np.random.default_rng(0).permutation(len(entries))
    shuffled = [entries[k] for k in order]
    reversed_findings = [found[k][::-1] for k in order]
    original = all_metrics(match_findings(entries, found), np.ones((1, len(entries))), POINTS)
    reordered = all_metrics(
        match_findings(shuffled, reversed_findings), np.ones((1, len(entries))), POINTS
    )
    for name, column in original.items():
        np.testing.assert_allclose(column, reordered[name], atol=1e-12, err_msg=name)


@given(sets())
@quick
def test_perfect_detections_have_perfect_metrics(given_set: Set) -> None:
    entries, _ = given_set
    perfect = [
        [Finding(b.index, 1.0, Box(b.x_min, b.y_min, b.x_max, b.y_max)) for b in e.labels]
        for e in entries
    ]
    figures = all_metrics(match_findings(entries, perfect), np.ones((1, len(entries))), POINTS)
    for name in ("map40", "map50", "map50_95", "sensitivity", "froc/0.125", "auroc/mean"):
        value = figures[name][0]
        assert value == pytest.approx(1.0) or (name == "auroc/mean" and np.isnan(value))
    assert figures["false_positives"][0] == 0
    assert figures["ece"][0] == 0


@given(sets())
@quick
def test_every_metric_is_in_its_range(given_set: Set) -> None:
    entries, found = given_set
    counts = draw_resamples(entries, resamples=5)
    for name, column in all_metrics(match_findings(entries, found), counts, POINTS).items():
        defined = column[~np.isnan(column)]
        most = np.inf if name.startswith("false_positives") else 1 + 1e-12
        assert (defined >= 0).all(), name
        assert (defined <= most).all(), name


@given(sets())
@quick
def test_an_interval_contains_its_value(given_set: Set) -> None:
    entries, found = given_set
    counts = draw_resamples(entries, resamples=20)
    for column in all_metrics(match_findings(entries, found), counts, POINTS).values():
        interval = estimate_interval(column)
        assert interval is None or interval.low <= interval.value <= interval.high


@given(sets())
@quick
def test_sensitivity_never_falls_as_more_false_positives_are_allowed(given_set: Set) -> None:
    entries, found = given_set
    matched, counts = match_findings(entries, found), draw_resamples(entries, resamples=5)
    rates = (0.0, 0.1, 0.25, 0.5, 1.0, 3.0)
    for table in (
        froc.pooled_sensitivity(matched, counts, rates),
        froc.per_class_sensitivity(matched, counts, rates),
    ):
        defined = table[~np.isnan(table).any(axis=-1)]
        assert (np.diff(defined, axis=-1) >= 0).all()


@given(sets(), scores, scores)
@quick
def test_a_lower_threshold_finds_no_less(given_set: Set, a: float, b: float) -> None:
    entries, found = given_set
    low, high = (sensitivity(entries, found, dict.fromkeys(BY_SLUG, s)) for s in sorted((a, b)))
    assert all(low[slug] >= high[slug] for slug in high)


@given(sets())
@quick
def test_a_stricter_overlap_finds_no_more_at_any_rank(given_set: Set) -> None:
    entries, found = given_set
    hits = match_findings(entries, found).true_positives
    matched_boxes = hits.sum(axis=1)
    assert list(IOUS) == sorted(IOUS)
    assert (np.diff(matched_boxes) <= 0).all()


@given(sets(), st.sampled_from((0.0, 0.2, 0.5, 1.0)))
@quick
def test_a_chosen_threshold_keeps_to_the_allowed_false_positives(
    given_set: Set, allowed: float
) -> None:
    entries, found = given_set
    points = choose_thresholds(entries, found, false_positives=allowed, floor=0.1)
    rates = apply_thresholds(match_findings(entries, found), points).false_positives_per_image(
        np.ones((1, len(entries)))
    )
    # At 1.0, the highest threshold, a score of 1.0 still counts.
    for finding, rate in zip(CATALOG, rates[0], strict=True):
        assert np.isnan(rate) or rate <= allowed + 1e-9 or points[finding.slug] == 1.0


@given(sets(), st.sampled_from((0.3, 0.5, 1.0)))
@quick
def test_a_chosen_threshold_reaches_its_sensitivity_if_any_does(
    given_set: Set, wanted: float
) -> None:
    entries, found = given_set
    points = choose_thresholds(entries, found, sensitivity=wanted, floor=0.05)
    reached = sensitivity(entries, found, dict.fromkeys(BY_SLUG, 1.0) | points)
    most = sensitivity(entries, found, dict.fromkeys(BY_SLUG, 0.05))
    assert set(points) == set(most)
    assert all(reached[slug] >= min(wanted, most[slug]) - 1e-9 for slug in points)


@given(sets())
@quick
def test_a_hidden_class_makes_no_image_worse(given_set: Set) -> None:
    entries, found = given_set
    hiding = [
        entry(*e.labels, image_id=e.image_id, unknown=frozenset(range(len(CATALOG))))
        for e in entries
    ]
    matched, hidden = match_findings(entries, found), match_findings(hiding, found)
    ones = np.ones((1, len(entries)))
    open_ap = average_precision(matched, ones, IOUS)
    hidden_ap = average_precision(hidden, ones, IOUS)
    assert not hidden.false_positives.any()
    assert (hidden_ap >= open_ap - 1e-12)[~np.isnan(open_ap)].all()
    assert mean_average_precision(hiding, found, 0.5) >= 0


@given(sets())
@quick
def test_auroc_of_inverted_scores_is_one_minus_the_auroc(given_set: Set) -> None:
    entries, found = given_set
    images = score_images(match_findings(entries, found))
    ones = np.ones((1, len(entries)))
    areas = compute_auroc(images, ones)
    images.scores[:] = 1 - images.scores
    np.testing.assert_allclose(compute_auroc(images, ones), 1 - areas, atol=1e-12)
