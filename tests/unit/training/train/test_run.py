"""A run from its configuration: refusals, warnings, and when it stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.training

torch = pytest.importorskip("torch")

from tests.support.training.toy_sets import configured, discs  # noqa: E402  # torch may be absent
from training.config import load_config  # noqa: E402
from training.data.splits import Split  # noqa: E402
from training.errors import TrainingError  # noqa: E402
from training.models.network import load_model  # noqa: E402
from training.train.distributed import SINGLE_PROCESS, choose_device, digest_state  # noqa: E402
from training.train.loop import EpochReport, train  # noqa: E402
from training.train.run import load_training_data, run  # noqa: E402


def frozen(path: Path, **images: tuple[str, ...]) -> None:
    path.write_text(json.dumps(Split(0, images).to_document()), encoding="utf-8")


@pytest.mark.slow
def test_a_run_stops_when_it_does_not_become_better_and_ships_the_best(tmp_path: Path) -> None:
    config = load_config(
        configured(tmp_path, train={"epochs": 5, "patience": 1, "metric": "map40"})
    )
    messages: list[str] = []
    reports: list[EpochReport] = []
    weights = run(
        config, SINGLE_PROCESS, track=False, on_message=messages.append, on_epoch=reports.append
    )
    assert [report.metric for report in reports] == [0.0, 0.0]  # it has learnt nothing yet
    assert [report.is_best for report in reports] == [True, False]
    assert messages[0].startswith("warning: no training example of: Aortic enlargement, ")
    assert "Nodule" not in messages[0]
    assert [line.split(":")[0] for line in messages[1:]] == ["epoch 1/5", "epoch 2/5"]
    stored = torch.load(config.out / "checkpoint.pt", weights_only=True)
    shipped = load_model(weights).state_dict()
    average = {k.removeprefix("module."): v for k, v in stored["ema"].items() if k != "n_averaged"}
    assert average.keys() == shipped.keys()
    assert digest_state(shipped) != digest_state(average)
    assert stored["history"]["best_epoch"] == 0

    with pytest.raises(TrainingError, match="already holds a run"):
        run(config, SINGLE_PROCESS, track=False)
    run(config, SINGLE_PROCESS, track=False, resume=True, on_epoch=reports.append)
    assert len(reports) == 2  # it stays stopped


def test_splits_are_read_as_frozen_and_an_unknown_image_is_refused(tmp_path: Path) -> None:
    config = load_config(configured(tmp_path))
    data = load_training_data(config)
    assert [len(data.train), len(data.valid), len(data.digest)] == [10, 3, 64]
    file = tmp_path / "set" / "split.json"
    frozen(file, train=("000",), valid=())
    with pytest.raises(TrainingError, match="'valid' is empty"):
        load_training_data(config)
    frozen(file, train=("000", "nobody", "others"), valid=("001",))
    with pytest.raises(TrainingError, match="names nobody and 1 more"):
        load_training_data(config)
    other = tmp_path / "other.json"
    frozen(other, train=("002",), valid=("001",))
    data = config.data.model_copy(update={"split_file": other})
    assert [
        e.image_id for e in load_training_data(config.model_copy(update={"data": data})).train
    ] == ["002"]


def test_missing_image_files_are_counted_before_the_run_starts(tmp_path: Path) -> None:
    config = load_config(configured(tmp_path))
    images = tmp_path / "set" / "images"
    for name in ("003.png", "007.png", "011.png"):
        (images / name).unlink()
    with pytest.raises(TrainingError) as caught:
        run(config, SINGLE_PROCESS, track=False)
    assert (
        caught.value.message
        == f"3 of 13 image files are missing; the first is {images / '003.png'}"
    )
    assert not config.out.exists()


def test_the_threads_of_a_training_are_restored_afterwards(tmp_path: Path) -> None:
    config = load_config(configured(tmp_path, train={"epochs": 1}))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []
    try:
        run(
            config,
            SINGLE_PROCESS,
            track=False,
            on_epoch=lambda _: seen.append(torch.get_num_threads()),
        )
        assert (seen, torch.get_num_threads()) == ([1], 2)
        (config.out / "checkpoint.pt").write_bytes(b"damaged")
        with pytest.raises(TrainingError):
            run(config, SINGLE_PROCESS, track=False, resume=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_validation_split_that_gives_no_metric_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    config = load_config(configured(tmp_path)).train
    entries = discs(tmp_path / "more", 4)
    empty = [replace(entry, labels=()) for entry in entries]
    with pytest.raises(TrainingError, match="no labelled box"):
        train(entries, config, tmp_path / "out", valid=empty)
    patient = config.model_copy(update={"patience": 1})
    with pytest.raises(TrainingError, match="patience needs"):
        train(entries, patient, tmp_path / "out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_device_that_is_not_there_is_messages() -> None:
    assert choose_device("auto").type == "cpu"
    with pytest.raises(TrainingError, match="CUDA device 0"):
        choose_device("cuda")
