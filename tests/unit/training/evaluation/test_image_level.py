"""Image by image: AUROC by hand and as scikit-learn has it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.training.labelled import ITSELF, NODULE, OPACITY, TWO, by_chance, entry, finding
from training.data.labels import Label
from training.evaluation.bootstrap import draw_resamples
from training.evaluation.image_level import ANY_FINDING, compute_auroc, roc_curve, score_images
from training.evaluation.matching import match_findings


def test_the_surest_finding_is_the_images_score_wherever_it_lies() -> None:
    images = score_images(match_findings(TWO, [[finding(0, 0.2), finding(300, 0.6)], []]))
    assert images.scores[:, NODULE].tolist() == [0.6, 0.0]
    assert images.scores[:, ANY_FINDING].tolist() == [0.6, 0.0]
    assert compute_auroc(images, ITSELF)[0, NODULE] == 1.0


def test_equal_scores_are_worth_a_half_and_one_kind_alone_nothing() -> None:
    areas = compute_auroc(
        score_images(match_findings(TWO, [[finding(0, 0.5)], [finding(0, 0.5)]])), ITSELF
    )
    assert areas[0, NODULE] == 0.5
    assert np.isnan(areas[0, OPACITY])


def test_an_image_that_may_hide_the_class_is_no_image_without_it() -> None:
    entries = [
        entry(Label(NODULE, 0, 0, 9, 9), image_id="a"),
        entry(image_id="b"),
        entry(unknown=frozenset({NODULE}), image_id="c"),
    ]
    images = score_images(match_findings(entries, [[finding(0, 0.5)], [], [finding(0, 0.9)]]))
    areas = compute_auroc(images, np.ones((1, 3)))
    assert areas[0, NODULE] == 1.0
    assert areas[0, ANY_FINDING] == 1.0


@pytest.mark.parametrize("seed", range(2))
def test_the_area_is_scikit_learns_on_every_set(seed: int) -> None:
    from sklearn.metrics import roc_auc_score

    entries, found = by_chance(60, seed)
    images, counts = (
        score_images(match_findings(entries, found)),
        draw_resamples(entries, resamples=5),
    )
    areas = compute_auroc(images, counts)
    for row, weights in enumerate(counts):
        for k in (NODULE, OPACITY, ANY_FINDING):
            certain = images.is_certain[:, k]
            expected = roc_auc_score(
                images.is_present[certain, k],
                images.scores[certain, k],
                sample_weight=weights[certain],
            )
            assert areas[row, k] == pytest.approx(expected)


def test_the_curve_runs_from_nothing_to_everything() -> None:
    false, true = roc_curve(score_images(match_findings(TWO, [[finding(0, 0.5)], []])), NODULE)
    assert false.tolist() == [0.0, 0.0, 1.0]
    assert true.tolist() == [0.0, 1.0, 1.0]
