"""The files of a run: a checkpoint to resume from, and the weights to ship.

Both hold tensors and plain values only and are loaded with `weights_only=True`. They are written
beside their place and renamed, so a full disk or a killed process leaves the files of before.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from ultralytics.nn.tasks import DetectionModel

from edge_agent.system.files import replace_files
from training.config import TrainConfig
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.models.network import make_weights_content

CHECKPOINT: Final = "checkpoint.pt"
WEIGHTS: Final = "weights.pt"
FORMAT: Final = 3
_WARMUP_UPDATES: Final = 300
"""Updates after which the moving average has 63 % of its full decay."""


class WeightEma(AveragedModel):
    """Exponential moving average of weights and buffers, which is evaluated and shipped.

    The decay rises with the number of updates, so that the random first weights are soon forgotten.

    Args:
        model: is copied.
        decay: share of the average that an update keeps in the long run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        def average(
            averages: tuple[torch.Tensor, ...] | list[torch.Tensor],
            values: tuple[torch.Tensor, ...] | list[torch.Tensor],
            updates: torch.Tensor | int,
        ) -> None:
            kept = decay * (1 - math.exp(-(int(updates) + 1) / _WARMUP_UPDATES))
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, values, 1 - kept)
            else:
                torch._foreach_copy_(averages, values)

        super().__init__(model, multi_avg_fn=average, use_buffers=True)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """Return the averaged state of the network, by the network's own names."""
        state: dict[str, torch.Tensor] = self.module.state_dict()
        return state


@dataclass(slots=True)
class TrainingHistory:
    """The progress of a run: epochs done, the metric of each that was measured, the best one."""

    epochs_done: int = 0
    metrics: dict[int, float] = field(default_factory=dict)
    best_epoch: int | None = None

    def record(self, epoch: int, metric: float) -> bool:
        """Record a metric and return whether it is the best so far."""
        self.metrics[epoch] = metric
        is_best = self.best_epoch is None or metric > self.metrics[self.best_epoch]
        if is_best:
            self.best_epoch = epoch
        return is_best

    def has_stalled(self, patience: int | None) -> bool:
        """Return whether `patience` epochs have passed without a better metric."""
        if patience is None or self.best_epoch is None:
            return False
        return self.epochs_done - 1 - self.best_epoch >= patience


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """Everything that a checkpoint stores but the optimizer; the loop changes it in place."""

    config: TrainConfig
    data_digest: str
    model: DetectionModel
    ema: WeightEma
    history: TrainingHistory


def digest_data(entries: Sequence[LabelledImage]) -> str:
    """Return the SHA-256 of the ids and labels of a training split."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr((entry.image_id, sorted(entry.unknown), entry.labels)).encode())
    return digest.hexdigest()


def save_checkpoint(
    out: Path, run: TrainingState, optimizer: torch.optim.Optimizer, *, weights: bool
) -> None:
    """Write the checkpoint.

    Args:
        out: folder of the run.
        run: what is stored.
        optimizer: its state is stored too.
        weights: write the averaged weights first, because they are to be shipped.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written; earlier files are whole.
    """
    if weights:
        write_tensors(make_weights_content(run.ema.weights, run.config), out / WEIGHTS)
    content = {
        "format": FORMAT,
        "config": run.config.model_dump_json(),
        "data": run.data_digest,
        "history": asdict(run.history),
        "model": run.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": run.ema.state_dict(),
    }
    write_tensors(content, out / CHECKPOINT)


def write_tensors(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values to a file, completely or not at all.

    Raises:
        TrainingError: the file cannot be written; an earlier file of this name is unchanged.
    """
    try:
        with (
            replace_files(path.parent) as temporary_path,
            temporary_path(path.name).open("wb") as out,
        ):
            torch.save(content, out)
    except (OSError, RuntimeError) as error:  # torch wraps a failed write in a RuntimeError
        reason = error if isinstance(error, OSError) else error.__context__ or error
        raise TrainingError(
            f"cannot write {path}: {reason}; the earlier file is unchanged",
            hint="Free some space and continue with --resume.",
        ) from error


def load_checkpoint(path: Path, config: TrainConfig, data_digest: str) -> dict[str, Any] | None:
    """Return the content of a run's checkpoint, or None where there is no file.

    Args:
        path: of the checkpoint.
        config: the settings that it must have been written with.
        data_digest: the training split that it must have been written for.

    Raises:
        TrainingError: the file is no checkpoint, or is of a run with other settings or other data.
    """
    if not path.is_file():
        return None
    try:
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        is_known = stored["format"] == FORMAT
        is_same = is_known and TrainConfig.model_validate_json(stored["config"]).is_same_run(config)
    except Exception as error:
        raise TrainingError(f"{path} is no checkpoint: {error}; use another folder") from error
    if not is_same:
        raise TrainingError(f"{path} was written by a run with other settings; use another folder")
    if stored["data"] != data_digest:
        raise TrainingError(f"{path} was written by a run on other data; use another folder")
    return stored


def load_metrics(path: Path) -> dict[int, float]:
    """Return a checkpoint's metrics by epoch; none where there is no file.

    Raises:
        TrainingError: the file is no checkpoint.
    """
    if not path.is_file():
        return {}
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        return {int(k): float(v) for k, v in stored["history"]["metrics"].items()}
    except Exception as error:
        raise TrainingError(f"{path} is no checkpoint: {error}; use another folder") from error


def restore_state(
    run: TrainingState, stored: dict[str, Any], optimizer: torch.optim.Optimizer
) -> None:
    """Load a checkpoint's content into a run.

    Args:
        run: its model and average already have the checkpoint's widths (`shrink_to`).
        stored: from `load_checkpoint`.
        optimizer: takes its state from the checkpoint.
    """
    run.model.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    run.ema.load_state_dict(stored["ema"])
    history = stored["history"]
    run.history.epochs_done = history["epochs_done"]
    run.history.metrics = {int(k): v for k, v in history["metrics"].items()}
    run.history.best_epoch = history["best_epoch"]
