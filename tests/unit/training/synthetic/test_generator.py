"""Synthetic radiographs: repeatable, labelled where they were changed, all 14 findings."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from hilum.catalog import BY_SLUG, CATALOG
from training.errors import TrainingError
from training.synthetic import backgrounds, box_statistics, lungs, phantom
from training.synthetic.generator import PAINTERS, SIZE, Generator, Sample
from training.synthetic.lesions_pleura import paint_pneumothorax

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(lungs.load_shape_model(), box_statistics.load_statistics())


@pytest.fixture(scope="module")
def samples(generator: Generator) -> list[Sample]:
    return [generator.sample(seed) for seed in range(90)]


def test_a_seed_is_a_sample(generator: Generator, samples: list[Sample]) -> None:
    again = generator.sample(7)
    assert np.array_equal(again.pixels, samples[7].pixels)
    assert again.labels == samples[7].labels
    assert not np.array_equal(samples[7].pixels, samples[8].pixels)


def test_pictures_have_contrast_and_boxes_lie_inside(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.pixels.dtype == np.uint8
        assert sample.pixels.shape == (SIZE, SIZE)
        assert sample.pixels.std() > 5
        for label in sample.labels:
            assert 0 <= label.x_min < label.x_max <= SIZE
            assert 0 <= label.y_min < label.y_max <= SIZE


def test_all_findings_appear_and_some_pictures_show_none(samples: list[Sample]) -> None:
    shown = {label.index for sample in samples for label in sample.labels}
    assert shown == {finding.index for finding in CATALOG}
    assert 5 <= sum(not sample.labels for sample in samples) <= 35


@pytest.mark.parametrize("slug", [CATALOG[index].slug for index in sorted(PAINTERS)])
def test_a_box_holds_what_changed(generator: Generator, slug: str) -> None:
    index = BY_SLUG[slug].index
    placed = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        stage = phantom.paint_chest(SIZE, generator.shapes, rng)
        before = stage.pixels.copy()
        for label in generator._place(stage, index, rng):
            placed += 1
            change = np.abs(stage.pixels - before)
            box = (
                slice(int(label.y_min), int(np.ceil(label.y_max))),
                slice(int(label.x_min), int(np.ceil(label.x_max))),
            )
            assert change[box].sum() > 0.6 * change.sum()
            assert change[box].max() > 0.08 * stage.contrast
    assert placed >= 3


def test_a_pneumothorax_is_darker_than_the_lung_it_left(generator: Generator) -> None:
    darker = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        stage = phantom.paint_chest(SIZE, generator.shapes, rng)
        before = stage.pixels.copy()
        x, y, width, height = stage.frame.to_pixels((-0.3, 0.3, 0.38, 1.0))
        if (box := paint_pneumothorax(stage, (x, y, width, height), rng)) is None:
            continue
        change = (stage.pixels - before)[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])]
        darker += float(change.min()) < -0.03 * stage.contrast
        assert box[2] <= stage.frame.middle
    assert darker >= 3


def test_an_enlarged_heart_is_wider_than_half_the_thorax(generator: Generator) -> None:
    for ratio in (0.42, 0.6):
        rng = np.random.default_rng(1)
        stage = phantom.paint_chest(SIZE, generator.shapes, rng, heart_ratio=ratio)
        measured = (stage.heart[2] - stage.heart[0]) / stage.frame.thorax
        assert measured == pytest.approx(ratio, abs=0.08)


def _folder(tmp_path: Path, generator: Generator) -> Path:
    folder = tmp_path / "radiographs"
    folder.mkdir()
    rows = ["filename,patientid,finding,view,license,location,doi,url"]
    for k, finding in enumerate(["No Finding", "COVID-19", "No Finding", "No Finding"]):
        painted = phantom.paint_chest(512, generator.shapes, np.random.default_rng(k))
        pixels = np.clip(painted.pixels * 255, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{k}.png"), pixels)
        rows.append(f"{k}.png,p{k},{finding},{'PA' if k else 'AP'},CC BY,here,,")
    (folder / "attribution.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_backgrounds_say_what_they_may_hide(tmp_path: Path, generator: Generator) -> None:
    found = backgrounds.load_backgrounds(_folder(tmp_path, generator), generator.shapes)
    ill = next(b for b in found if not b.clear)
    assert BY_SLUG["lung_opacity"].index in ill.unknown
    assert BY_SLUG["nodule_mass"].index not in ill.unknown
    assert all(not b.unknown for b in found if b.clear)
    on_real = Generator(generator.shapes, generator.statistics, (ill,), real_share=1.0)
    sample = on_real.sample(0)
    assert sample.unknown == ill.unknown
    assert sample.background == ill.name


def test_no_patient_is_on_both_sides_and_clear_ones_are_kept_back(
    tmp_path: Path, generator: Generator
) -> None:
    found = backgrounds.load_backgrounds(_folder(tmp_path, generator), generator.shapes)
    training, held_out = backgrounds.split_by_patient(found, seed=3)
    assert not {b.patient for b in training} & {b.patient for b in held_out}
    assert len(training) + len(held_out) == len(found)
    assert sum(b.clear for b in held_out) >= 1


def test_a_folder_without_radiographs_is_refused(tmp_path: Path, generator: Generator) -> None:
    with pytest.raises(TrainingError, match="is not a folder"):
        backgrounds.load_backgrounds(tmp_path / "absent", generator.shapes)
    with pytest.raises(TrainingError, match="no frontal radiograph"):
        backgrounds.load_backgrounds(tmp_path, generator.shapes)
