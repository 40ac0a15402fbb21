"""Files that are whole or not there, and when a run is over."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

pytestmark = pytest.mark.training

torch = pytest.importorskip("torch")

from training.errors import TrainingError  # noqa: E402
from training.train.checkpoints import TrainingHistory, write  # noqa: E402  # torch may be absent


def test_a_full_disk_leaves_the_checkpoint_of_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # as if so much were free
    try:
        with pytest.raises(TrainingError, match=r"checkpoint\.pt.*untouched"):
            write({"a": torch.ones(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_is_over_once_it_has_not_become_better_for_long_enough() -> None:
    history = TrainingHistory()
    for epoch, (metric, best) in enumerate([(0.1, True), (0.3, True), (0.3, False), (0.2, False)]):
        assert history.note(epoch, metric) is best
        history.done = epoch + 1
        assert history.over(2) is (epoch == 3)
    assert history.best_epoch == 1
    assert not history.over(None)
