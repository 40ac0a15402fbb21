"""Splits keep patients together, spread classes, and cannot be changed unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from training.data import splits
from training.errors import TrainingError


def some(count: int = 300, patients: int = 120) -> tuple[list[str], np.ndarray, list[str]]:
    rng = np.random.default_rng(4)
    ids = [f"i{k:04d}" for k in range(count)]
    groups = [f"p{k}" for k in rng.integers(0, patients, count)]
    return ids, rng.random((count, 5)) < [0.5, 0.2, 0.1, 0.05, 0.03], groups


def test_patients_stay_together_and_nothing_is_lost() -> None:
    ids, labels, groups = some()
    split = splits.make_split(ids, labels, groups, seed=1)
    side = {image: name for name, images in split.images.items() for image in images}
    assert sorted(side) == ids
    for patient in set(groups):
        assert len({side[i] for i, group in zip(ids, groups, strict=True) if group == patient}) == 1


def test_every_class_gets_its_share() -> None:
    ids, labels, _ = some(2000)
    split = splits.make_split(ids, labels, ids, seed=1)
    for name, share in zip(splits.NAMES, (0.8, 0.1, 0.1), strict=True):
        chosen = np.isin(ids, split.images[name])
        assert chosen.mean() == pytest.approx(share, abs=0.02)
        for column in labels.T:
            assert column[chosen].sum() == pytest.approx(share * column.sum(), abs=1.5)


def test_the_same_seed_divides_the_same_in_any_order() -> None:
    ids, labels, groups = some()
    split = splits.make_split(ids, labels, groups, seed=1)
    turned = splits.make_split(ids[::-1], labels[::-1], groups[::-1], seed=1)
    assert turned.digest == split.digest
    assert splits.make_split(ids, labels, groups, seed=2).digest != split.digest


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"'(valid|test)' would be empty: 4 images of 1 patient"
    ):
        splits.make_split(list("abcd"), np.ones((4, 1), bool), ["p"] * 4, seed=0)


@pytest.mark.parametrize("seed", range(8))
def test_a_few_images_are_divided_too(seed: int) -> None:
    ids, labels, _ = some(16)
    labels[:, seed % 5] = True  # a class on every image: train wants them all
    split = splits.make_split(ids, labels, ids, seed=seed)
    assert all(split.images.values())
    assert split == splits.make_split(ids, labels, ids, seed=seed)


def test_a_split_without_a_share_may_be_empty_until_it_is_asked_for() -> None:
    ids, labels, groups = some()
    split = splits.make_split(ids, labels, groups, seed=1, shares=(0.9, 0.1, 0.0))
    assert split.images["test"] == ()
    with pytest.raises(TrainingError, match="'test' is empty"):
        split.image_ids("test")
    with pytest.raises(TrainingError, match="no split 'holdout', only train, valid, test"):
        split.image_ids("holdout")


def test_frozen_and_loaded_again(tmp_path: Path) -> None:
    split = splits.make_split(*some(), seed=1)
    splits.save_split(split, tmp_path / splits.FILE)
    assert splits.load_split(tmp_path) == splits.load_split(tmp_path / splits.FILE) == split


def test_a_changed_split_is_refused(tmp_path: Path) -> None:
    document = splits.make_split(*some(), seed=1).to_document()
    document["images"]["train"].append(document["images"]["test"].pop())
    (tmp_path / splits.FILE).write_text(json.dumps(document))
    with pytest.raises(TrainingError, match="changed after it was frozen"):
        splits.load_split(tmp_path)


def test_an_image_on_two_sides_is_refused(tmp_path: Path) -> None:
    splits.save_split(splits.Split(0, {"train": ("a",), "test": ("a",)}), tmp_path / splits.FILE)
    with pytest.raises(TrainingError, match="in two splits"):
        splits.load_split(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "images": 3}'])
def test_what_is_no_split_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / splits.FILE).write_text(text)
    with pytest.raises(TrainingError, match=r"split\.json"):
        splits.load_split(tmp_path)
    with pytest.raises(TrainingError, match="is not there"):
        splits.load_split(tmp_path / "nowhere")
