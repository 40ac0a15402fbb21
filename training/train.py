"""The training loop: YOLO11 on one grey channel, readable from top to bottom.

The network, its loss and the assignment of targets are ultralytics'; the loop, the data and the
checkpoints are ours. A checkpoint holds tensors and plain values only and is loaded with
`weights_only=True`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.loss import v8DetectionLoss

from hilum.catalog import CATALOG
from training.config import TrainConfig
from training.data.loader import Batch, batches
from training.data.store import Entry
from training.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Progress:
    """What happened in the step just done; `loss` is its box, class and DFL part."""

    epoch: int
    step: int
    steps: int
    loss: tuple[float, float, float]
    images_per_s: float


def build_model(config: TrainConfig) -> DetectionModel:
    """A fresh network with random weights; one input channel, the catalogue's classes."""
    model = DetectionModel(f"{config.architecture}.yaml", ch=1, nc=len(CATALOG), verbose=False)
    model.args = get_cfg(
        overrides={"box": config.box_gain, "cls": config.class_gain, "dfl": config.dfl_gain}
    )
    return model


class WeightedAbsence(nn.Module):
    """Binary cross-entropy that says little about the absence of classes an image may hide.

    `weight` f32 (N, classes) is set for every batch: what the absence of a class counts. Positive
    targets always count in full.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.ones(1, len(CATALOG))

    def forward(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss per anchor and class, (N, anchors, classes)."""
        loss = nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        return loss * torch.where(targets > 0, 1.0, self.weight[:, None, :])


class Average:
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


def train(
    entries: tuple[Entry, ...],
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    on_step: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[int], None] = lambda _: None,
) -> Path:
    """Train and return the path of the averaged weights.

    Writes `checkpoint.pt` after every epoch and `weights.pt` (the average's state_dict) beside it.

    Args:
        entries: the training split.
        config: the run's settings; a resumed run must state the same ones.
        out: folder of the run.
        resume: go on from `out/checkpoint.pt`, where there is one.
        on_step: told after every step.
        on_epoch: told after every epoch, once its checkpoint is on disk.

    Raises:
        TrainingError: fewer images than one batch, the checkpoint belongs to other settings, or
            the loss is no number any more.
    """
    if len(entries) < config.batch:
        raise TrainingError(f"{len(entries)} images do not fill one batch of {config.batch}")
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(config).to(memory_format=torch.channels_last)
    criterion = v8DetectionLoss(model)
    criterion.bce = WeightedAbsence()
    optimizer = torch.optim.AdamW(_parameter_groups(model, config), lr=config.learning_rate)
    average = Average(model, config.ema_decay)
    steps = len(entries) // config.batch
    first = _restore(out / "checkpoint.pt", config, model, optimizer, average) if resume else 0
    for epoch in range(first, config.epochs):
        model.train()
        stream = _ahead(
            batches(
                entries,
                config.size_in(epoch),
                config.batch,
                seed=config.seed,
                epoch=epoch,
                augment=config.augment,
            )
        )
        for step, batch in enumerate(stream):
            began = time.monotonic()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, epoch * steps + step, steps)
            loss = _forward(
                model,
                criterion,
                batch,
                hidden_weight=config.hidden_in(epoch),
                bfloat16=config.bfloat16,
            )
            if not bool(torch.isfinite(loss).all()):
                raise TrainingError(f"the loss is no number in epoch {epoch}, step {step}")
            torch.autograd.backward(loss.sum())
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update(model)
            box, classes, dfl = (loss.detach() / config.batch).tolist()
            seconds = time.monotonic() - began
            on_step(Progress(epoch, step, steps, (box, classes, dfl), config.batch / seconds))
        _save(out, epoch + 1, config=config, model=model, optimizer=optimizer, average=average)
        on_epoch(epoch)
    return out / "weights.pt"


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to `final_share`, once more from `restart_epoch` on.

    One warm restart (Loshchilov and Hutter, "SGDR", ICLR 2017) lets a finished run go on.

    Args:
        config: the run's settings.
        step: steps done since the beginning.
        steps: steps in an epoch.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    first, last, peak = config.warmup_steps, config.epochs * steps, 1.0
    restart = config.restart_epoch
    if restart is not None and restart < config.epochs:
        if step < restart * steps:
            last = restart * steps
        else:
            first, peak = restart * steps, config.restart_share
    done = (step - first) / max(1, last - first)
    share = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * peak * share


def _parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _forward(
    model: DetectionModel,
    criterion: v8DetectionLoss,
    batch: Batch,
    *,
    hidden_weight: float,
    bfloat16: bool,
) -> torch.Tensor:
    """The three parts of the loss, summed over the batch, f32 (3,)."""
    pixels = torch.from_numpy(batch.pixels).to(memory_format=torch.channels_last).float() / 255
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        predictions = model(pixels)
    # Assignment and loss need full precision; only the convolutions run in BF16.
    predictions = {
        key: [v.float() for v in value] if isinstance(value, list) else value.float()
        for key, value in predictions.items()
    }
    criterion.bce.weight = torch.where(torch.from_numpy(batch.known), 1.0, hidden_weight)
    targets = {
        "batch_idx": torch.from_numpy(batch.image).float(),
        "cls": torch.from_numpy(batch.classes).float()[:, None],
        "bboxes": torch.from_numpy(batch.boxes),
    }
    loss: torch.Tensor = criterion(predictions, targets)[0]
    return loss


def _ahead(source: Iterator[Batch]) -> Iterator[Batch]:
    """Prepare the next batches in a thread (decoding and warping release the interpreter)."""
    queue: Queue[Batch | BaseException | None] = Queue(maxsize=3)

    def fill() -> None:
        try:
            for batch in source:
                queue.put(batch)
            queue.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is awaited
            queue.put(error)

    Thread(target=fill, daemon=True, name="batches").start()
    while (item := queue.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


def _save(
    out: Path,
    done: int,
    *,
    config: TrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
) -> None:
    checkpoint = {
        "done": done,
        "config": config.model_dump_json(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state,
        "updates": average.updates,
    }
    _write(checkpoint, out / "checkpoint.pt")
    _write(average.state, out / "weights.pt")


def _write(content: dict[str, Any], path: Path) -> None:
    beside = path.with_suffix(".part")
    with beside.open("wb") as out:
        torch.save(content, out)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(path)


def _restore(
    path: Path,
    config: TrainConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
) -> int:
    """Take up a checkpoint; the number of epochs that are done, 0 where there is none."""
    if not path.is_file():
        return 0
    stored = torch.load(path, weights_only=True)
    if TrainConfig.model_validate_json(stored["config"]) != config:
        raise TrainingError(f"{path} was written by a run with other settings; use another folder")
    model.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    average.state = stored["average"]
    average.updates = stored["updates"]
    return int(stored["done"])


def load_weights(path: Path, config: TrainConfig) -> DetectionModel:
    """The network with weights that `train` wrote, ready to be evaluated or exported.

    Raises:
        TrainingError: the file is absent or does not belong to this architecture.
    """
    model = build_model(config)
    try:
        model.load_state_dict(torch.load(path, weights_only=True))
    except (OSError, RuntimeError) as error:
        raise TrainingError(f"cannot use the weights {path}: {error}") from error
    return model.eval()


def seed_everything(seed: int) -> None:
    """Seed numpy's and torch's global generators, for libraries that draw from them."""
    np.random.seed(seed)  # noqa: NPY002 - third-party code draws from this one
    torch.manual_seed(seed)
