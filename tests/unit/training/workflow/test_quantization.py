"""Calibration images are drawn from all of a split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from training.data.dataset import LabelledImage

pytestmark = pytest.mark.training

pytest.importorskip("torch")

from training.workflow.quantization import (  # noqa: E402  # torch may be absent
    select_calibration_images,
)


def images_of(*sites: str, count: int = 50) -> list[LabelledImage]:
    ids = [f"{site}-{number:03d}" for site in sites for number in range(count)]
    return [LabelledImage(name, Path(f"{name}.png"), "", frozenset(), ()) for name in ids]


def test_calibration_images_come_from_every_site() -> None:
    entries = images_of("site-a", "site-b", "site-c", "site-d")
    chosen = [entry.image_id for entry in select_calibration_images(entries, 40)]
    assert len(set(chosen)) == 40
    per_site = Counter(name.rpartition("-")[0] for name in chosen)
    assert len(per_site) == 4
    assert min(per_site.values()) >= 5


def test_the_same_split_gives_the_same_calibration_images() -> None:
    entries = images_of("site-a", "site-b")
    chosen = select_calibration_images(entries, 10)
    assert select_calibration_images(entries[::-1], 10) == chosen
    assert select_calibration_images(entries, 4) == chosen[:4]
    assert len(select_calibration_images(entries, 1000)) == len(entries)
