"""A stored set reads back as it was made; an unfinished or damaged one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent.core.geometry import Letterbox
from edge_agent.imaging.letterbox import apply_letterbox
from hilum.catalog import CATALOG
from tests.support.training.toy_sets import TOY_TRAIN
from training.config import TrainConfig
from training.data import dataset
from training.data.labels import Label
from training.errors import TrainingError
from training.synthetic import box_statistics, lungs, writer
from training.synthetic.generator import Generator, Sample
from training.train import loader


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sample]]:
    folder = tmp_path_factory.mktemp("set")
    generator = Generator(lungs.load_shape_model(), box_statistics.load_statistics())
    return folder, list(writer.write_dataset(generator, folder, range(20, 32), workers=1))


def test_round_trip(stored: tuple[Path, list[Sample]]) -> None:
    folder, samples = stored
    entries = dataset.load_dataset(folder)
    assert len(entries) == len(samples)
    for entry, sample in zip(entries, samples, strict=True):
        assert np.array_equal(entry.read_pixels(), sample.pixels)
        assert [label.index for label in entry.labels] == [label.index for label in sample.labels]


def test_a_whole_set_is_not_painted_over(stored: tuple[Path, list[Sample]]) -> None:
    folder, _ = stored
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    generator = Generator(lungs.load_shape_model(), box_statistics.load_statistics())
    with pytest.raises(TrainingError, match="holds a data set already") as caught:
        next(writer.write_dataset(generator, folder, range(2), workers=1))
    assert "another folder" in caught.value.hint
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_unfinished_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="interrupted"):
        dataset.load_dataset(tmp_path)


def test_a_damaged_row_is_named(stored: tuple[Path, list[Sample]], tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("image_id,background,unknown\n000000,painted,\n")
    (tmp_path / "annotations.csv").write_text(
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n000000,ILD,5,S1,1,2,3,x\n"
    )
    with pytest.raises(TrainingError, match="row 2"):
        dataset.load_dataset(tmp_path)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    entry = dataset.LabelledImage("gone", tmp_path / "gone.png", "painted", frozenset(), ())
    with pytest.raises(TrainingError, match=r"gone\.png"):
        entry.read_pixels()


def plain(size: int, **settings: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {**TOY_TRAIN, "input_size": size, "small_epochs": 0, "augment": False, **settings}
    )


def test_batches_without_augmentation_are_the_clinics_pixels(
    stored: tuple[Path, list[Sample]],
) -> None:
    entries = dataset.load_dataset(stored[0])
    batch = next(loader.iter_batches(entries, plain(96, batch=4), 0))
    for row, k in enumerate(batch.indices):
        pixels = entries[k].read_pixels()
        fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], 96, 96)
        assert np.array_equal(batch.pixels[row, 0], apply_letterbox(pixels, fit))
    assert batch.known.shape == (4, len(CATALOG))


def test_augmented_boxes_stay_on_what_they_mark(stored: tuple[Path, list[Sample]]) -> None:
    entries = dataset.load_dataset(stored[0])
    config = plain(128, batch=4, augment=True)
    same, again = (
        list(loader.iter_batches(entries, config, 2)),
        list(loader.iter_batches(entries, config, 2)),
    )
    assert len(same) == len(entries) // 4
    for one, other in zip(same, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.pixels.shape == (4, 1, 128, 128)
        low, high = one.boxes[:, :2] - one.boxes[:, 2:] / 2, one.boxes[:, :2] + one.boxes[:, 2:] / 2
        assert (low > -1e-5).all()
        assert (high < 1 + 1e-5).all()


def test_a_marked_square_is_still_in_its_box_after_augmentation(tmp_path: Path) -> None:
    pixels = np.full((200, 240), 20, np.uint8)
    pixels[80:120, 100:160] = 255
    cv2.imwrite(str(tmp_path / "square.png"), pixels)
    label = Label(8, 100, 80, 160, 120)
    entry = dataset.LabelledImage(
        "square", tmp_path / "square.png", "painted", frozenset(), (label,)
    )
    for epoch in range(12):
        batch = next(loader.iter_batches([entry], plain(160, batch=1, augment=True), epoch))
        ys, xs = np.nonzero(batch.pixels[0, 0] > 170)
        centre = np.array([xs.mean() + 0.5, ys.mean() + 0.5]) / 160
        assert np.abs(centre - batch.boxes[0, :2]).max() < 0.01


def test_parts_of_a_set_have_names_of_their_own(tmp_path: Path) -> None:
    generator = Generator(lungs.load_shape_model(), box_statistics.load_statistics())
    parts = [
        writer.SyntheticPart("train", generator, range(20, 22)),
        writer.SyntheticPart("test", generator, range(31, 32)),
    ]
    samples = list(writer.write_dataset_parts(parts, tmp_path, workers=1))
    entries = dataset.load_dataset(tmp_path)
    assert [it.image_id for it in entries] == ["train-000000", "train-000001", "test-000000"]
    assert np.array_equal(entries[2].read_pixels(), samples[2].pixels)
    assert np.array_equal(samples[2].pixels, generator.sample(31).pixels)
