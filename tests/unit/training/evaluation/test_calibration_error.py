"""Calibration error by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.training.labelled import ITSELF, NODULE, OPACITY, TWO, finding
from training.evaluation.calibration_error import (
    bin_findings,
    bin_images,
    expected_calibration_error,
)
from training.evaluation.image_level import score_images
from training.evaluation.matching import match_findings


def test_the_error_of_findings_by_hand() -> None:
    # In the bin from 0.9: 0.95 and 0.93, one of them right; in that from 0.2: 0.25, wrong.
    found = [[finding(0, 0.95)], [finding(0, 0.93), finding(50, 0.25)]]
    errors = expected_calibration_error(bin_findings(match_findings(TWO, found)), ITSELF)
    assert errors[0, NODULE] == pytest.approx(2 / 3 * (0.94 - 0.5) + 1 / 3 * 0.25)
    assert errors[0, -1] == errors[0, NODULE]
    assert np.isnan(errors[0, OPACITY])


def test_the_error_of_images_by_hand() -> None:
    images = score_images(match_findings(TWO, [[finding(0, 0.9)], []]))
    errors = expected_calibration_error(bin_images(images), ITSELF)
    assert errors[0, NODULE] == pytest.approx((0.1 + 0) / 2)
    assert errors[0, OPACITY] == 0.0


def test_a_sure_score_lies_in_the_last_bin() -> None:
    number, right, score = bin_findings(match_findings(TWO, [[finding(0, 1.0)], []])).reliability()
    assert number.tolist() == [0] * 9 + [1]
    assert right[-1] == score[-1] == 1.0
