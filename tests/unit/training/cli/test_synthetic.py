"""What the commands write beside a set, and the settings that they state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest

from training.cli.actions import synthetic
from training.config import TrainConfig
from training.data import dataset
from training.workflow import starter

pytestmark = pytest.mark.training


def paint(folder: Path, preview: Path) -> int:
    asked: dict[str, Any] = {"count": 2, "seed": 3, "backgrounds": None, "studies": False}
    return synthetic.synthetic(out=folder, preview=preview, workers=1, **asked)


def test_a_preview_shows_the_set(tmp_path: Path) -> None:
    assert paint(tmp_path / "set", tmp_path / "sheets" / "sheet.png") == 0
    sheet = cv2.imread(str(tmp_path / "sheets" / "sheet.png"))
    assert sheet is not None
    assert sheet.shape == (384, 6 * 384, 3)
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["sheet.png"]
    assert len(dataset.load_dataset(tmp_path / "set")) == 2


@pytest.mark.parametrize("name", ["sheet", "sheet.odd"])
def test_a_preview_that_is_no_picture_is_refused_before_anything_is_painted(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert paint(tmp_path / "set", tmp_path / name) == 1
    assert name in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_starter_states_what_is_not_done_unless_asked() -> None:
    first = TrainConfig.model_validate(starter.TRAIN)
    assert [first.input_size_in(epoch) for epoch in range(first.epochs)] == [256] * 4 + [416] * 8
    assert first.restart_epoch == 7
    further = TrainConfig.model_validate({**starter.TRAIN, **starter.TRAIN_FURTHER})
    assert {further.input_size_in(epoch) for epoch in range(further.epochs)} == {416}
    assert further.restart_epoch is None
