"""The lung shape model: description, shipped modes, and finding lungs in a picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.system.disks import room_for
from training.errors import TrainingError
from training.synthetic import lung_fit, lungs, phantom


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one > 127, other > 127
    return float((a & b).sum() / (a | b).sum())


def test_a_mask_described_and_drawn_again_is_the_same() -> None:
    drawn = lungs.place_shape(lungs.load_shape_model().mean, 60, 50, 380, 360)
    described = lungs.outline_from_mask(drawn.mask((512, 512)))
    assert described is not None
    assert overlap(described.mask((512, 512)), drawn.mask((512, 512))) > 0.95


def test_one_blob_is_no_pair_of_lungs() -> None:
    mask = np.zeros((256, 256), np.uint8)
    cv2.circle(mask, (128, 128), 60, 255, -1)
    assert lungs.outline_from_mask(mask) is None


def test_modes_are_of_unit_variance_and_ordered() -> None:
    model = lungs.load_shape_model()
    assert model.modes.shape == (lungs.MODES, 4 + 4 * lungs.ROWS)
    strength = np.linalg.norm(model.modes, axis=1)
    assert (np.diff(strength) < 1e-3).all()
    assert np.allclose(model.vector(np.zeros(lungs.MODES)), model.mean)


def test_lungs_of_a_painted_chest_are_found() -> None:
    model = lungs.load_shape_model()
    painted = phantom.paint_chest(512, model, np.random.default_rng(4))
    pixels = np.clip(painted.pixels * 255, 0, 255).astype(np.uint8)
    found, score = lung_fit.fit_lungs(pixels, model, np.random.default_rng(0))
    assert score > 0.5
    assert overlap(found.mask((512, 512)), painted.lungs.mask((512, 512))) > 0.7


def test_what_the_disk_does_not_take_leaves_what_was_there(tmp_path: Path) -> None:
    path, model = tmp_path / "shapes" / "lungs.json", lungs.load_shape_model()
    lungs.save_shape_model(model, path)
    before = path.read_bytes()
    assert np.allclose(lungs.load_shape_model(path).modes, model.modes)
    with room_for(100), pytest.raises(TrainingError, match="cannot write"):
        lungs.save_shape_model(model, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_too_few_masks_are_refused(tmp_path: Path) -> None:
    mask = lungs.place_shape(lungs.load_shape_model().mean, 60, 50, 380, 360).mask((512, 512))
    cv2.imwrite(str(tmp_path / "one.png"), mask)
    with pytest.raises(TrainingError, match="at least 50"):
        lungs.measure_shape_model(tmp_path)
    with pytest.raises(TrainingError, match="neither a folder nor a zip"):
        lungs.measure_shape_model(tmp_path / "one.png")
