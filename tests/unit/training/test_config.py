"""The configuration: defaults, and messages that name file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import load_config
from training.errors import TrainingError


def stated(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_little_needs_to_be_said(tmp_path: Path) -> None:
    config = load_config(stated(tmp_path, "data: {dataset: set}\ntrain: {architecture: yolo11s}\n"))
    assert config.data.dataset == Path("set")
    assert config.train.architecture == "yolo11s"
    assert config.parity.map50_drop == 0.01
    assert config.tracking.uri == "sqlite:///runs/mlflow.db"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: {dataset: a}\ntrain: {epoch: 3}", "unknown key train.epoch; did you mean train.ep"),
        ("data: {dataset: a}\ntrian: {}", "unknown key trian; did you mean train?"),
        ("data: {dataset: a}\ntrain: {batch: 0}", "train.batch: Input should be greater"),
        ("data: {dataset: a}\ntrain: {weights: w.pt}", "train: weights and weights_sha256 go"),
        (
            "data: {dataset: a}\ntracking: {uri: 'http://me:secret@host'}",
            "tracking.uri: holds a name or password",
        ),
        ("train: {}", "data: Field required"),
        ("", "states no settings"),
        ("data: [", "is no YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TrainingError) as caught:
        load_config(stated(tmp_path, text))
    assert says in caught.value.message
    assert "c.yaml" in caught.value.message
    assert "secret" not in caught.value.message


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no\.yaml"):
        load_config(tmp_path / "no.yaml")
