"""What a run leaves on disk: a checkpoint to go on from, and the weights to ship.

Both hold tensors and plain values only, are loaded with `weights_only=True`, and are written
beside and renamed: a full disk or a killed process leaves what was there.
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
from ultralytics.nn.tasks import DetectionModel

from edge_agent.system.files import replace_files
from training.config import TrainConfig
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.models.network import described
from training.models.prune import shrink_to

CHECKPOINT: Final = "checkpoint.pt"
WEIGHTS: Final = "weights.pt"
FORMAT: Final = 2


class WeightEma:
    """Exponential moving average of the weights; what is evaluated and shipped."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's present weights; faster in the beginning."""
        self.updates += 1
        decay = self.decay * (1 - math.exp(-self.updates / 300))
        for key, value in model.state_dict().items():
            kept = self.state[key]
            if kept.dtype.is_floating_point:
                kept.lerp_(value, 1 - decay)
            else:
                kept.copy_(value)


@dataclass(slots=True)
class TrainingHistory:
    """How far a run has come: epochs done, the metric of each that was measured, the best one."""

    done: int = 0
    metrics: dict[int, float] = field(default_factory=dict)
    best_epoch: int | None = None

    def note(self, epoch: int, metric: float) -> bool:
        """Take a metric down; whether it is the best so far."""
        self.metrics[epoch] = metric
        best = self.best_epoch is None or metric > self.metrics[self.best_epoch]
        if best:
            self.best_epoch = epoch
        return best

    def over(self, patience: int | None) -> bool:
        """Whether it has not become better for too long."""
        if patience is None or self.best_epoch is None:
            return False
        return self.done - 1 - self.best_epoch >= patience


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """All that a checkpoint keeps, changed in place by the loop."""

    config: TrainConfig
    data: str
    model: DetectionModel
    average: WeightEma
    history: TrainingHistory


def data_digest(entries: Sequence[LabelledImage]) -> str:
    """SHA-256 over ids and labels: what a run has learnt from."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr((entry.image_id, sorted(entry.unknown), entry.labels)).encode())
    return digest.hexdigest()


def save(out: Path, run: TrainingState, optimizer: torch.optim.Optimizer, *, weights: bool) -> None:
    """Write the checkpoint, and the averaged weights before it where they are to be shipped.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written; earlier files are whole.
    """
    if weights:
        write(described(run.average.state, run.config), out / WEIGHTS)
    content = {
        "format": FORMAT,
        "config": run.config.model_dump_json(),
        "data": run.data,
        "history": asdict(run.history),
        "model": run.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": run.average.state,
        "updates": run.average.updates,
    }
    write(content, out / CHECKPOINT)


def write(content: dict[str, Any], path: Path) -> None:
    """Store tensors and plain values under a name, whole or not at all.

    Raises:
        TrainingError: it cannot be written; what had this name is untouched.
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
            f"cannot write {path}: {reason}; what was there before is untouched",
            hint="Make room and go on with --resume.",
        ) from error


def read(path: Path, config: TrainConfig, data: str) -> dict[str, Any] | None:
    """A run's checkpoint; None where there is none.

    Raises:
        TrainingError: it is not one of ours, or of a run with other settings or other data.
    """
    if not path.is_file():
        return None
    try:
        stored: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known = stored["format"] == FORMAT
        same = known and TrainConfig.model_validate_json(stored["config"]).same_run(config)
    except Exception as error:
        raise TrainingError(f"{path} is no checkpoint: {error}; use another folder") from error
    if not same:
        raise TrainingError(f"{path} was written by a run with other settings; use another folder")
    if stored["data"] != data:
        raise TrainingError(f"{path} was written by a run on other data; use another folder")
    return stored


def metrics_in(path: Path) -> dict[int, float]:
    """The metrics that a checkpoint's run has measured, by epoch; none where there is no file.

    Raises:
        TrainingError: it is not one of ours.
    """
    if not path.is_file():
        return {}
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        return {int(k): float(v) for k, v in stored["history"]["metrics"].items()}
    except Exception as error:
        raise TrainingError(f"{path} is no checkpoint: {error}; use another folder") from error


def restore(run: TrainingState, stored: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Take a checkpoint up; the model already has its widths (`shrink_to`)."""
    run.model.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    device = next(run.model.parameters()).device
    run.average.state = {k: v.to(device) for k, v in stored["average"].items()}
    run.average.updates = stored["updates"]
    kept = stored["history"]
    run.history.done = kept["done"]
    run.history.metrics = {int(k): v for k, v in kept["metrics"].items()}
    run.history.best_epoch = kept["best_epoch"]


def widths_from(model: DetectionModel, stored: dict[str, Any]) -> None:
    """Give a fresh model the widths that a pruned run's checkpoint has."""
    shrink_to(model, stored["model"])
