"""The loop learns, resumes after a kill, and refuses unusable input. Toy size, one thread."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.training

torch = pytest.importorskip("torch")

from training.config import TrainConfig  # noqa: E402  # torch may be absent
from training.data.dataset import LabelledImage  # noqa: E402
from training.data.labels import Label  # noqa: E402
from training.errors import TrainingError  # noqa: E402
from training.models.network import load_model  # noqa: E402
from training.train.loop import EpochReport, Progress, train  # noqa: E402
from training.train.losses import PartialLabelBce  # noqa: E402
from training.train.schedule import learning_rate_factor, make_scheduler  # noqa: E402

TOY = TrainConfig(
    input_size=64,
    small_size=64,
    small_epochs=0,
    epochs=2,
    batch=4,
    warmup_steps=2,
    threads=1,
    bfloat16=False,
    augment=False,
)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledImage, ...]:
    """Bright discs on grey: what a detector can learn in a few steps."""
    folder = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    made = []
    for k in range(16):
        pixels = np.full((64, 64), 60, np.uint8)
        x, y = rng.integers(18, 46, 2).tolist()
        cv2.circle(pixels, (x, y), 12, 230, -1)
        cv2.imwrite(str(folder / f"{k}.png"), pixels)
        label = Label(8, x - 12, y - 12, x + 13, y + 13)
        made.append(LabelledImage(f"{k}", folder / f"{k}.png", "painted", frozenset(), (label,)))
    return tuple(made)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_the_loss_falls(entries: tuple[LabelledImage, ...], tmp_path: Path) -> None:
    losses: list[float] = []

    def note(progress: Progress) -> None:
        losses.append(sum(progress.loss))

    train(entries, TOY.model_copy(update={"epochs": 5}), tmp_path, on_step=note)
    assert len(losses) == 20
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_with_the_same_weights(
    entries: tuple[LabelledImage, ...], tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (1, 2):
            raise Killed

    whole = train(entries, TOY, tmp_path / "whole")
    with pytest.raises(Killed):
        train(entries, TOY, tmp_path / "killed", on_step=kill)
    epochs: list[int] = []

    def note(report: EpochReport) -> None:
        epochs.append(report.epoch)

    resumed = train(entries, TOY, tmp_path / "killed", resume=True, on_epoch=note)
    assert epochs == [1]
    one, other = (torch.load(path, weights_only=True) for path in (whole, resumed))
    for key, value in one["state"].items():
        assert torch.equal(value, other["state"][key]), key


def test_bfloat16_weights_are_finite_and_can_be_loaded(
    entries: tuple[LabelledImage, ...], tmp_path: Path
) -> None:
    config = TOY.model_copy(update={"epochs": 1, "bfloat16": True, "augment": True})
    model = load_model(train(entries, config, tmp_path))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert not model.training


def test_other_settings_do_not_resume(entries: tuple[LabelledImage, ...], tmp_path: Path) -> None:
    one = TOY.model_copy(update={"epochs": 1})
    train(entries, one, tmp_path)
    with pytest.raises(TrainingError, match="other settings"):
        train(entries, one.model_copy(update={"seed": 12}), tmp_path, resume=True)


def test_too_few_images_and_foreign_weights_are_refused(
    entries: tuple[LabelledImage, ...], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="do not fill one batch"):
        train(entries[:3], TOY, tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(TrainingError, match=r"foreign\.pt"):
        load_model(tmp_path / "foreign.pt")


def test_an_absence_counts_its_weight_a_presence_in_full() -> None:
    criterion = PartialLabelBce()
    criterion.weight = torch.tensor([[1.0, 0.3]])
    scores, targets = torch.zeros(1, 2, 2), torch.tensor([[[0.0, 0.0], [0.0, 0.9]]])
    loss = criterion(scores, targets)
    full = float(np.log(2))
    assert loss[0, 0].tolist() == pytest.approx([full, 0.3 * full])
    assert loss[0, 1, 1].item() == pytest.approx(full)


def rates(config: TrainConfig, epoch_steps: int = 50) -> list[float]:
    return [
        config.learning_rate * learning_rate_factor(config, step, epoch_steps)
        for step in range(config.epochs * epoch_steps + 1)
    ]


def test_learning_rate_rises_then_falls_to_its_share() -> None:
    found = rates(TOY)
    assert found[0] == pytest.approx(TOY.learning_rate / 2)
    assert max(found) == pytest.approx(TOY.learning_rate)
    assert found[100] == pytest.approx(TOY.learning_rate * TOY.final_share)
    assert all(a >= b for a, b in pairwise(found[2:]))


def test_learning_rate_rises_once_more_where_configured() -> None:
    config = TOY.model_copy(update={"epochs": 4, "restart_epoch": 3, "restart_share": 0.5})
    found = rates(config)
    low = TOY.learning_rate * TOY.final_share
    assert found[149] == pytest.approx(low, rel=0.02)
    assert found[150] == pytest.approx(TOY.learning_rate / 2)
    assert found[200] == pytest.approx(low / 2)
    assert all(a >= b for a, b in pairwise(found[150:]))


@pytest.mark.parametrize("steps_done", [0, 1, 7])
def test_a_resumed_schedule_sets_the_rates_of_an_uninterrupted_one(steps_done: int) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=TOY.learning_rate)
    scheduler = make_scheduler(optimizer, TOY, epoch_steps=5, steps_done=steps_done)
    for step in range(steps_done, 10):
        wanted = TOY.learning_rate * learning_rate_factor(TOY, step, 5)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted, rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_sizes_and_weights_by_epoch() -> None:
    config = TrainConfig(small_epochs=2)
    assert [config.input_size_in(epoch) for epoch in range(4)] == [256, 256, 416, 416]
    weights = [config.unlabelled_negative_weight_in(epoch) for epoch in range(4)]
    assert weights == [0.0, 0.0, 0.3, 0.3]
