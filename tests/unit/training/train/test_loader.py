"""Batches: each image once, boxes that follow the pixels, no augmentation but the configured."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.training.toy_sets import TOY_TRAIN, discs
from training.config import TrainConfig
from training.data.dataset import LabelledImage
from training.data.labels import Label
from training.train.loader import iter_batches, plan_steps

pytestmark = pytest.mark.training


def toy(**settings: object) -> TrainConfig:
    return TrainConfig.model_validate({**TOY_TRAIN, **settings})


@pytest.mark.parametrize(
    ("images", "batch", "world_size"), [(10, 4, 1), (9, 4, 2), (10, 4, 3), (3, 4, 2)]
)
def test_every_image_is_used_once_by_any_number_of_processes(
    images: int, batch: int, world_size: int
) -> None:
    config = toy(batch=batch)
    for epoch in range(2):
        parts = plan_steps(images, config, epoch, world_size)
        assert sorted(k for part in parts for k in part) == list(range(images))
        assert all(part[rank::world_size] for part in parts for rank in range(world_size))
    assert plan_steps(images, config, 0, world_size) != plan_steps(images, config, 1, world_size)
    assert plan_steps(images, config, 0, world_size) == plan_steps(images, config, 0, world_size)


def test_processes_share_the_batch_of_one_process(tmp_path: Path) -> None:
    entries, config = discs(tmp_path, 10), toy(augment=True, loaders=2)
    alone = list(iter_batches(entries, config, 0))
    shares = [list(iter_batches(entries, config, 0, rank=rank, world_size=2)) for rank in range(2)]
    for whole, first, second in zip(alone, *shares, strict=True):
        assert whole.global_size == first.global_size == second.global_size == len(whole.indices)
        seen = dict(zip(first.indices, first.pixels, strict=True))
        seen |= dict(zip(second.indices, second.pixels, strict=True))
        assert sorted(whole.indices) == sorted(first.indices + second.indices)
        for k, pixels in zip(whole.indices, whole.pixels, strict=True):
            assert np.array_equal(pixels, seen[k])


def marked(tmp_path: Path) -> tuple[LabelledImage, ...]:
    """Return four images with a white square in the upper left, marked by one of two readers."""
    entries = []
    for k in range(4):
        pixels = np.full((64, 64), 60, np.uint8)
        pixels[8:24, 4:28] = 255
        cv2.imwrite(str(tmp_path / f"{k}.png"), pixels)
        label = Label(k, 4, 8, 28, 24, weight=0.5)
        entries.append(
            LabelledImage(f"{k}", tmp_path / f"{k}.png", "", frozenset({13 - k}), (label,))
        )
    return tuple(entries)


def brightness(pixels: np.ndarray, box: np.ndarray) -> tuple[float, float]:
    """Mean in the box, and outside of it."""
    rows, columns = pixels.shape
    x, y, width, height = box * (columns, rows, columns, rows)
    inside = np.zeros(pixels.shape, bool)
    low, high = (
        (round(y - height / 2), round(x - width / 2)),
        (round(y + height / 2), round(x + width / 2)),
    )
    inside[low[0] : high[0], low[1] : high[1]] = True
    return float(pixels[inside].mean()), float(pixels[~inside].mean())


@pytest.mark.parametrize("options", [{}, {"vertical_flip": 1.0}, {"mosaic": 1.0}])
def test_boxes_follow_the_pixels(tmp_path: Path, options: dict[str, float]) -> None:
    config = toy(augment=True, input_size=128, batch=1, **options)
    for batch in iter_batches(marked(tmp_path), config, 0):
        picture = batch.pixels[0, 0]
        assert len(batch.boxes) == (4 if "mosaic" in options else 1)
        for box in batch.boxes:
            inside, _ = brightness(picture, box)
            assert inside > 150
        assert batch.weights.tolist() == [0.5] * len(batch.boxes)


def test_upside_down_and_mosaic_only_where_configured(tmp_path: Path) -> None:
    entries = marked(tmp_path)
    for epoch in range(5):
        for batch in iter_batches(entries, toy(augment=True, batch=1), epoch):
            assert len(batch.boxes) == 1
            assert batch.boxes[0, 1] < 0.45  # still in the upper part
        for batch in iter_batches(entries, toy(augment=True, batch=1, vertical_flip=1.0), epoch):
            assert batch.boxes[0, 1] > 0.55


def test_a_mosaic_hides_what_any_of_its_pictures_hides(tmp_path: Path) -> None:
    entries, config = marked(tmp_path), toy(augment=True, mosaic=1.0, batch=1)
    for batch in iter_batches(entries, config, 0):
        shown = set(batch.classes.tolist())
        assert set(np.flatnonzero(~batch.known[0]).tolist()) >= {13 - k for k in shown}


def test_readers_are_counted_only_where_configured(tmp_path: Path) -> None:
    (batch,) = iter_batches(marked(tmp_path), toy(reader_weights=False), 0)
    assert batch.weights.tolist() == [1.0] * 4
