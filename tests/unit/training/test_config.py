"""The configuration: defaults, and messages that name file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import EvaluateConfig, load_config
from training.errors import TrainingError


def write_config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_little_needs_to_be_said(tmp_path: Path) -> None:
    config = load_config(
        write_config(tmp_path, "data: {dataset: set}\ntrain: {architecture: yolo11s}\n")
    )
    assert config.data.dataset == Path("set")
    assert config.train.architecture == "yolo11s"
    assert config.parity.map50_drop == 0.01
    assert {config.train.input_size_in(epoch) for epoch in range(12)} == {config.train.input_size}
    assert config.train.restart_epoch is None
    assert config.tracking.uri == "sqlite:///runs/mlflow.db"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {dataset: a}\ntrain: {epoch: 3}", "unknown key train.epoch; did you mean train.ep"),
        ("data: {dataset: a}\ntrian: {}", "unknown key trian; did you mean train?"),
        ("data: {dataset: a}\ntrain: {batch: 0}", "train.batch: Input should be greater"),
        ("data: {dataset: a}\ntrain: {weights: w.pt}", "train: weights and weights_sha256 go"),
        (
            "data: {dataset: a}\ntracking: {uri: 'http://me:secret@host'}",
            "tracking.uri: must hold no name or password",
        ),
        (
            "data: {dataset: a}\nevaluate: {sensitivity: 0.9, false_positives: 0.1}",
            "evaluate: state false_positives or sensitivity, not both",
        ),
        (
            "data: {dataset: a}\nevaluate: {false_positives: null}",
            "evaluate: state one of false_positives and sensitivity",
        ),
        ("train: {}", "data: Field required"),
        ("", "has no settings"),
        ("data: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        load_config(write_config(tmp_path, text))
    assert message in caught.value.message
    assert "c.yaml" in caught.value.message
    assert "secret" not in caught.value.message


def test_a_sensitivity_takes_the_place_of_the_usual_rate(tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, "data: {dataset: a}\nevaluate: {sensitivity: 0.9}"))
    assert (config.evaluate.sensitivity, config.evaluate.false_positives) == (0.9, None)
    again = write_config(tmp_path, config.model_dump_json())  # JSON is YAML.
    assert load_config(again) == config


def test_steps_know_the_usual_evaluation_by_what_they_always_did() -> None:
    assert EvaluateConfig().model_dump(mode="json") == {
        "split": "test",
        "choose_on": "valid",
        "false_positives": 0.05,
        "floor": 0.1,
        "resamples": 1000,
        "seed": 0,
        "rules": None,
    }


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no\.yaml"):
        load_config(tmp_path / "no.yaml")
