"""Weights in the loss; and the shares of a batch add up to the loss of the whole."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.training

torch = pytest.importorskip("torch")

from ultralytics.nn.tasks import DetectionModel  # noqa: E402  # torch may be absent

from hilum.catalog import CATALOG  # noqa: E402
from tests.support.training.models import random_detector  # noqa: E402
from tests.support.training.toy_sets import NODULE, TOY_TRAIN, discs  # noqa: E402
from training.config import TrainConfig  # noqa: E402
from training.models.network import build_model  # noqa: E402
from training.train.distributed import SINGLE_PROCESS, ProcessGroup  # noqa: E402
from training.train.loader import Batch, iter_batches  # noqa: E402
from training.train.losses import Criterion, weigh_classes  # noqa: E402

TOY = TrainConfig.model_validate(TOY_TRAIN)


@cache
def network() -> DetectionModel:
    """Return a network that all tests share."""
    model = random_detector()
    model.args = build_model(TOY).args
    return model.eval()


def loss_of(
    batch: Batch, weights: torch.Tensor, group: ProcessGroup = SINGLE_PROCESS
) -> list[float]:
    """Box, class and DFL loss of a network that is the same at every call."""
    model = network()
    with torch.no_grad():
        predictions = model(torch.from_numpy(batch.pixels).float() / 255)[1]
    criterion = Criterion(model, group, weights)
    parts = criterion(predictions, batch, unlabelled_weight=1.0, images=batch.global_size)
    losses: list[float] = parts.tolist()
    return losses


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return next(iter(iter_batches(discs(tmp_path, 4), TOY, 0)))


EVEN = torch.ones(len(CATALOG))


def test_the_shares_of_a_batch_add_up_to_the_whole(batch: Batch) -> None:
    """Uneven shares, with different sums of target scores."""
    whole = loss_of(batch, EVEN)

    def share(rows: slice, score_sum: float | None) -> tuple[list[float], float]:
        mine = np.isin(batch.image_index, np.arange(4)[rows])
        part = replace(
            batch,
            indices=batch.indices[rows],
            pixels=batch.pixels[rows],
            image_index=batch.image_index[mine] - (rows.start or 0),
            classes=batch.classes[mine],
            boxes=batch.boxes[mine],
            weights=batch.weights[mine],
            known=batch.known[rows],
        )
        group = _FixedSumGroup(score_sum)
        return loss_of(part, EVEN, group), group.own_sum

    sums = [share(rows, None)[1] for rows in (slice(0, 1), slice(1, 4))]
    parts = [share(rows, sum(sums))[0] for rows in (slice(0, 1), slice(1, 4))]
    assert np.sum(parts, axis=0) == pytest.approx(whole, rel=1e-4)


class _FixedSumGroup(ProcessGroup):
    """A process among several, whose sum of target scores over all processes is given."""

    def __init__(self, score_sum: float | None) -> None:
        super().__init__()
        object.__setattr__(self, "score_sum", score_sum)
        object.__setattr__(self, "own_sum", 0.0)

    __slots__ = ("own_sum", "score_sum")

    def all_reduce_sum(self, value: torch.Tensor) -> torch.Tensor:
        object.__setattr__(self, "own_sum", float(value))
        return value if self.score_sum is None else torch.tensor(self.score_sum)


def test_a_class_has_its_weight_in_the_loss(batch: Batch) -> None:
    heavy = EVEN.clone()
    heavy[:] = 2.0
    even, doubled = loss_of(batch, EVEN), loss_of(batch, heavy)
    assert doubled[1] == pytest.approx(2 * even[1], rel=1e-5)
    assert doubled[0] == pytest.approx(even[0], rel=1e-5)


def test_a_box_that_one_reader_marked_pulls_less(batch: Batch) -> None:
    """The one weighted box of four has less part in the mean of the box loss."""
    doubted = replace(batch, weights=np.array([1, 1, 1, 1e-6], np.float32))
    without = replace(
        batch,
        image_index=batch.image_index[:3],
        classes=batch.classes[:3],
        boxes=batch.boxes[:3],
        weights=batch.weights[:3],
    )
    assert loss_of(doubted, EVEN)[0] == pytest.approx(loss_of(without, EVEN)[0], rel=1e-3)
    assert loss_of(doubted, EVEN)[0] != pytest.approx(loss_of(batch, EVEN)[0], rel=1e-3)


def test_no_box_at_all_is_a_loss_like_any_other(batch: Batch) -> None:
    empty = replace(
        batch,
        image_index=batch.image_index[:0],
        classes=batch.classes[:0],
        boxes=batch.boxes[:0],
        weights=batch.weights[:0],
    )
    box, classes, dfl = loss_of(empty, EVEN)
    assert box == dfl == 0
    assert np.isfinite(classes)
    assert classes > 0


def test_weights_of_classes(tmp_path: Path) -> None:
    entries = discs(tmp_path, 3)
    label = entries[0].labels[0]
    many = [replace(entries[0], labels=(replace(label, index=2),)) for _ in range(12)]
    balanced = TOY.model_copy(update={"class_weights": "balanced"})
    weights = weigh_classes(balanced, [*entries, *many])
    assert weights[NODULE] == pytest.approx(2.0)  # 3 against 12: the root of a fourth
    assert weights[2] == weights[0] == 1.0
    assert torch.equal(weigh_classes(TOY, entries), EVEN)
    weighted = TOY.model_copy(update={"class_weights": {CATALOG[5].slug: 7.0}})
    assert weigh_classes(weighted, entries).tolist() == [1.0] * 5 + [7.0] + [1.0] * 8
