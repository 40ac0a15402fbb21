"""Checkpoints are whole or absent; the moving average; when a run has stalled."""

from __future__ import annotations

import math
import resource
from pathlib import Path

import pytest

pytestmark = pytest.mark.training

torch = pytest.importorskip("torch")

from training.errors import TrainingError  # noqa: E402
from training.train.checkpoints import (  # noqa: E402  # torch may be absent
    TrainingHistory,
    WeightEma,
    write_tensors,
)


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_of_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write_tensors({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # as if so much were free
    try:
        with pytest.raises(TrainingError, match=r"checkpoint\.pt.*unchanged"):
            write_tensors({"a": torch.ones(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_is_over_once_it_has_not_become_better_for_long_enough() -> None:
    history = TrainingHistory()
    for epoch, (metric, is_best) in enumerate(
        [(0.1, True), (0.3, True), (0.3, False), (0.2, False)]
    ):
        assert history.record(epoch, metric) is is_best
        history.epochs_done = epoch + 1
        assert history.has_stalled(2) is (epoch == 3)
    assert history.best_epoch == 1
    assert not history.has_stalled(None)


def test_the_average_follows_the_weights_faster_in_the_beginning() -> None:
    """Expected values by the formula, in f64; integer buffers are copied."""
    model = torch.nn.BatchNorm1d(3)
    ema = WeightEma(model, 0.9)
    expected = model.weight.detach().double().numpy().copy()
    for update in range(1, 5):
        with torch.no_grad():
            model.weight += update
            model.running_mean += update  # type: ignore[operator]
            model.num_batches_tracked += 1  # type: ignore[operator]
        ema.update_parameters(model)
        decay = 0.0 if update == 1 else 0.9 * (1 - math.exp(-update / 300))
        expected = decay * expected + (1 - decay) * model.weight.detach().double().numpy()
    weights = ema.weights
    assert set(weights) == set(model.state_dict())
    assert weights["weight"].numpy() == pytest.approx(expected, rel=1e-6)
    assert weights["running_mean"].numpy() == pytest.approx(expected - 1, rel=1e-6)
    assert int(weights["num_batches_tracked"]) == 4

    restored = WeightEma(torch.nn.BatchNorm1d(3), 0.9)
    restored.load_state_dict(ema.state_dict())
    for average in (ema, restored):
        average.update_parameters(model)
    assert torch.equal(restored.weights["weight"], ema.weights["weight"])
