"""The content check's images, views, folds and thresholds; a small training; packing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edge_agent.core.content_check import ContentProbabilities, assess_content
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.content_check import OpenVinoContentChecker
from hilum.codes import ErrorCode
from tests.support.engines import bundles
from tests.support.engines.content_checks import SPEC, THRESHOLDS, transparent_content_check
from tests.support.system.disks import room_for
from training.bundle.archive import ContentCheckFiles
from training.bundle.layout import CONTENT_CHECK_HEADING
from training.bundle.repack import replace_content_check
from training.content_check import image_sources, views
from training.content_check import train as content
from training.content_check.image_sources import Content, ContentImage
from training.content_check.network import (
    ContentNetwork,
    ContentTrainingConfig,
    TrainingImages,
    draw_pool,
    predict,
    train_network,
)
from training.content_check.report import (
    count_by_treatment,
    count_verdicts,
    format_table,
    load_other_images,
)
from training.content_check.train import HeldOutResult
from training.errors import TrainingError

pytestmark = [pytest.mark.training, pytest.mark.slow]


def chest_like(seed: int) -> np.ndarray:
    """Two dark ellipses in a bright field, the lower part brighter: has an up and a polarity."""
    rng = np.random.default_rng(seed)
    image = np.full((128, 112), 150, np.uint8)
    image[90:] = 220
    for x in (34, 78):
        centre = (x + int(rng.integers(-3, 4)), 56 + int(rng.integers(-4, 5)))
        cv2.ellipse(image, centre, (16, 34), 0, 0, 360, 40, -1)
    return cv2.GaussianBlur(image, (0, 0), 2)


def chests(count: int) -> tuple[ContentImage, ...]:
    return tuple(
        ContentImage(f"{k}.png", Content.FRONTAL, "radiograph", chest_like(k), f"patient-{k // 2}")
        for k in range(count)
    )


@pytest.mark.parametrize("kind", [*image_sources.OTHER_PAINTERS, "lateral"])
def test_every_painter_paints_something_new_for_every_seed(kind: str) -> None:
    first, again, other = (
        image_sources.paint_image(kind, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert first.dtype == np.uint8
    assert max(first.shape) == image_sources.STORED
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_packaged_images_are_where_they_should_be() -> None:
    images = image_sources.load_packaged()
    assert {image.content for image in images} == {Content.OTHER}
    assert all(image.pixels.std() > 1 for image in images)


def test_turning_goes_clockwise() -> None:
    image = np.zeros((4, 6), np.uint8)
    image[0, 0] = 255
    assert views.rotate(image, 1)[0, -1] == 255
    assert views.rotate(image, 2)[-1, -1] == 255
    assert views.rotate(image, 3)[-1, 0] == 255


@pytest.mark.parametrize("seed", range(30))
def test_augmentation_neither_turns_nor_inverts(seed: int) -> None:
    pixels = chest_like(1)
    augmented = views.to_input(views.augment(pixels, np.random.default_rng(seed), 0.4))

    def likeness(other: np.ndarray) -> float:
        pair = [image.astype(float).ravel() for image in (augmented, views.to_input(other))]
        return float(np.corrcoef(*pair)[0, 1])

    assert likeness(pixels) > max(0, *(likeness(views.rotate(pixels, k)) for k in (1, 2, 3)))


def test_shuffling_loses_no_tile() -> None:
    image = chest_like(1)[:108, :108]
    mixed = views.shuffle_tiles(image, np.random.default_rng(2))
    assert not np.array_equal(mixed, image)
    assert np.array_equal(np.sort(mixed, axis=None), np.sort(image, axis=None))


def test_no_patient_is_in_two_folds() -> None:
    images = chests(22)
    groups = content.split_patients(images, 4, seed=1)
    assert sorted(patient for group in groups for patient in group) == sorted(
        {image.patient for image in images}
    )
    assert groups == content.split_patients(images, 4, seed=1)
    with pytest.raises(TrainingError, match="cannot be split"):
        content.split_patients(chests(4), 3, seed=1)


def seen(**of: float) -> ContentProbabilities:
    other, lateral = of.get("other", 0.0), of.get("lateral", 0.0)
    turned = of.get("turned", 0.0)
    return ContentProbabilities(
        1 - other - lateral, lateral, other, (1 - turned, turned, 0, 0), of.get("inverted", 0.0)
    )


@pytest.mark.parametrize("worst", [0.001, 0.3, 0.85, 0.97, 0.9999])
def test_thresholds_are_beyond_all_that_was_seen(worst: float) -> None:
    image = chests(1)[0]
    judged = [
        HeldOutResult(image, "unchanged", seen(other=worst / 2, lateral=worst / 2)),
        HeldOutResult(image, "unchanged", seen(turned=worst / 2)),
        HeldOutResult(image, "augmented", seen(other=worst)),
        HeldOutResult(image, "augmented", seen(turned=worst)),
        HeldOutResult(image, "augmented", seen(inverted=worst)),
        HeldOutResult(image, "rotated 90", seen(turned=1.0)),
    ]
    thresholds = content.choose_thresholds(judged)
    verdicts = {j: assess_content(j.probabilities, thresholds) for j in judged}
    assert not any(verdicts[j].warnings for j in judged if j.treatment == "unchanged")
    assert not any(verdicts[j].refusal for j in judged if j.treatment != "rotated 90")
    assert thresholds.refuse_other >= 0.9
    assert thresholds.warn_lateral >= 0.5


def test_a_small_training_learns_which_way_is_up(tmp_path: Path) -> None:
    material = TrainingImages(
        radiographs=chests(12),
        painted_chests=(),
        laterals=tuple(image_sources.paint_laterals(0, 3)),
        painted_others=tuple(image_sources.paint_others([0], 2)),
        real_others=(),
    )
    config = ContentTrainingConfig(samples=512, epochs=8, batch=64)
    pool = draw_pool(material, config)
    without = pool.without(frozenset({"patient-0"}))
    assert 0 < len(without) < config.samples
    one, other = (train_network(pool, replace(config, epochs=1)).parameters() for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    network = train_network(pool, config)
    unseen = chest_like(77)
    upright, upside_down, inverted = predict(
        network,
        [
            views.to_input(pixels)
            for pixels in (unseen, views.rotate(unseen, 2), views.invert(unseen))
        ],
    )
    assert upright.turned < 0.5 < upside_down.turned
    assert upright.inverted < 0.5 < inverted.inverted
    # The file, and the clinic's own path, give the same answers.
    parts = content.export_files(network, THRESHOLDS, f"{CONTENT_CHECK_HEADING}\n\nA test.")
    content.save_files(parts, tmp_path / "content-check.zip")
    loaded = content.load_files(tmp_path / "content-check.zip")
    assert loaded == parts
    spec = SPEC.model_copy(update={"input": loaded.input})
    checker = OpenVinoContentChecker(loaded.xml, loaded.weights, spec)
    assert checker.judge(unseen).probabilities.inverted == pytest.approx(upright.inverted, abs=0.02)
    assert checker.judge(unseen).probabilities.turns == pytest.approx(upright.turns, abs=0.02)


def test_a_content_check_that_the_disk_does_not_take_leaves_the_previous_one(
    tmp_path: Path,
) -> None:
    parts = ContentCheckFiles(b"x" * 2000, b"w", SPEC.input, THRESHOLDS, "A test.")
    path = tmp_path / "content-check.zip"
    content.save_files(parts, path)
    before = path.read_bytes()
    with room_for(1000), pytest.raises(TrainingError, match="cannot write"):
        content.save_files(parts, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_no_other_images_is_an_error() -> None:
    with pytest.raises(TrainingError, match="frontal chests and other images"):
        draw_pool(TrainingImages(chests(2), (), (), (), ()), ContentTrainingConfig(samples=2))
    with pytest.raises(TrainingError, match="holds no content check"):
        content.load_files(Path(__file__))
    with pytest.raises(TrainingError, match="not a folder"):
        image_sources.load_radiographs(Path("nowhere"))


def test_a_network_is_small() -> None:
    assert sum(p.numel() for p in ContentNetwork().parameters()) < 100_000


@cache
def accepting() -> ContentCheckFiles:
    """A transparent content check; to it the transparent bundle's golden images are chests."""
    return ContentCheckFiles(
        *transparent_content_check(), SPEC.input, THRESHOLDS, f"{CONTENT_CHECK_HEADING}\n\nA test."
    )


def test_adding_a_content_check_changes_nothing_else(tmp_path: Path) -> None:
    members = bundles.contents()
    old = Bundle.open(bundles.pack(tmp_path / "old.bundle", members))
    made = replace_content_check(old, accepting(), "0.0.2", tmp_path / "new.bundle")
    for name in set(members) - {"model-card.md"}:
        assert made.read(name) == members[name]
    assert made.manifest.content_check is not None
    assert made.manifest.engines == old.manifest.engines
    assert made.golden == old.golden
    card = made.read("model-card.md").decode()
    assert card.startswith("A transparent model for tests")
    assert card.count(CONTENT_CHECK_HEADING) == 1
    assert content.load_files(made.path) == accepting()
    with pytest.raises(TrainingError, match="holds no content check"):
        content.load_files(old.path)
    twice = replace_content_check(made, accepting(), "0.0.3", tmp_path / "third.bundle")
    assert twice.read("model-card.md").decode() == card
    again = replace_content_check(old, accepting(), "0.0.2", tmp_path / "again.bundle")
    assert again.path.read_bytes() == made.path.read_bytes()


def test_a_content_check_that_refuses_a_golden_image_is_not_packed(tmp_path: Path) -> None:
    members = bundles.contents()
    dark = np.zeros((bundles.SIZE, bundles.SIZE), np.uint8)
    dark[:3, 21:24] = 250  # the content check's eighth pixel: inverted
    members["golden/clear.png"] = bundles.png(dark)
    old = Bundle.open(bundles.pack(tmp_path / "old.bundle", members))
    with pytest.raises(TrainingError, match="refuses the golden case clear: inverted"):
        replace_content_check(old, accepting(), "0.0.2", tmp_path / "new.bundle")
    assert not (tmp_path / "new.bundle").exists()


def test_tables_count_verdicts() -> None:
    counted = count_verdicts(
        "x", [seen(), seen(other=1.0), seen(turned=0.6), seen(inverted=1.0)], THRESHOLDS
    )
    assert counted.passed == 1
    assert counted.refused == {ErrorCode.NOT_A_CHEST: 1, ErrorCode.INVERTED: 1}
    assert "| x | 4 | 1 | 1 `looks_rotated` | 1 `inverted`, 1 `not_a_chest` |" in format_table(
        [counted], "shown"
    )
    image = chests(1)[0]
    rows = count_by_treatment(
        [HeldOutResult(image, treatment, seen()) for treatment in ("unchanged", "augmented")],
        THRESHOLDS,
    )
    assert [r.kind for r in rows] == ["unchanged", "augmented"]


def test_other_images_are_found_once_and_rg1_is_left_out(tmp_path: Path) -> None:
    image = chest_like(3)
    for name in ("a.png", "b.png", "RG1_fake.png"):
        cv2.imwrite(str(tmp_path / name), image)
    cv2.imwrite(str(tmp_path / "c.png"), 60 + image // 2)
    training_image = image_sources.load_packaged()[0]
    cv2.imwrite(str(tmp_path / "training.png"), training_image.pixels)
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert [p.name for p in load_other_images([tmp_path])] == ["a.png"]
