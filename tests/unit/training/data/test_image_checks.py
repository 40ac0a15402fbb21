"""Odd pictures are flagged; copies are found, other patients are not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.images.studies import chest
from training.data import image_checks


def picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (12, 12)).astype(np.uint8)
    return cv2.resize(coarse, (400, 400), interpolation=cv2.INTER_CUBIC)


def test_flags() -> None:
    bright = (chest(600, 500) >> 4).astype(np.uint8)
    assert image_checks.find_flags(bright, 600, 500) == ()
    assert image_checks.find_flags(255 - bright, 600, 500) == ("inverted",)
    assert image_checks.find_flags(np.full((300, 300), 90, np.uint8), 300, 300) == ("constant",)
    assert image_checks.find_flags(bright, 200, 250) == ("small",)
    assert image_checks.find_flags(bright, 1000, 400) == ("elongated",)


def test_copies_are_near_and_others_far() -> None:
    one = picture()
    copies = [
        one,
        cv2.resize(one, (150, 150), interpolation=cv2.INTER_AREA),
        np.clip(one * 0.8 + 20, 0, 255).astype(np.uint8),
        np.asarray(
            cv2.imdecode(cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0), np.uint8
        ),
    ]
    others = [picture(seed) for seed in range(1, 6)]
    hashes = [image_checks.compute_fingerprint(pixels) for pixels in copies + others]
    pairs = {(i, j) for i, j, _ in image_checks.find_near_duplicates(hashes)}
    assert pairs == {(i, j) for i in range(4) for j in range(i + 1, 4)}


def test_groups_join_over_names_and_pairs() -> None:
    names = ["p1", "p1", "p2", "p3", "p4"]
    assert image_checks.merge_groups(names, [(1, 2, 0), (2, 4, 3)]) == [
        "p1",
        "p1",
        "p1",
        "p3",
        "p1",
    ]


@pytest.mark.radiographs
@pytest.mark.slow
def test_real_patients_are_told_apart(radiographs: list[Path]) -> None:
    pixels = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in radiographs]
    hashes = [image_checks.compute_fingerprint(np.asarray(p, np.uint8)) for p in pixels]
    assert image_checks.find_near_duplicates(hashes) == []
    small = [cv2.resize(p, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA) for p in pixels[:9]]
    again = [image_checks.compute_fingerprint(np.asarray(p, np.uint8)) for p in small]
    found = image_checks.find_near_duplicates(hashes + again)
    assert [(i, j) for i, j, _ in found] == [(k, len(hashes) + k) for k in range(9)]
