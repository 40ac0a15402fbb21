"""The training loop: YOLO11 on one grey channel, readable from top to bottom.

The network, its loss and the assignment of targets are ultralytics'; the loop, the data and the
checkpoints are Hilum's. One process or many run the same lines: a single process is a
`distributed.ProcessGroup` of one, and many processes compute what one would.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from hilum.catalog import CATALOG
from training.config import TrainConfig
from training.data.dataset import LabelledImage
from training.errors import Diverged, TrainingError
from training.models.network import build_model, load_initial_weights
from training.models.prune import prune, shrink_to
from training.train import checkpoints
from training.train.checkpoints import (
    CHECKPOINT,
    WEIGHTS,
    TrainingHistory,
    TrainingState,
    WeightEma,
)
from training.train.distributed import SINGLE_PROCESS, ProcessGroup, digest_state, is_bf16_fast
from training.train.loader import Batch, iter_batches, plan_steps, prefetch
from training.train.losses import Criterion, count_boxes, weigh_classes
from training.train.schedule import make_scheduler
from training.train.validate import measure

_MAX_GRADIENT_NORM: Final = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """The step that was just done.

    Attributes:
        epoch: number of the epoch, from 0.
        step: number of the step in the epoch, from 0.
        steps: steps in an epoch.
        loss: box, class and DFL part, per image.
        images_per_s: images of all processes per second.
        images: ids of the images that this process used.
    """

    epoch: int
    step: int
    steps: int
    loss: tuple[float, float, float]
    images_per_s: float
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EpochReport:
    """An epoch whose checkpoint is on disk.

    Attributes:
        epoch: number of the epoch, from 0.
        loss: box, class and DFL part, mean per image over the epoch and all processes.
        learning_rate: of the epoch's last step.
        images_per_s: images of all processes per second.
        metric: None where none was measured.
        is_best: the metric is the best so far.
        weights: digest of this process's weights, the same in all processes.
    """

    epoch: int
    loss: tuple[float, float, float]
    learning_rate: float
    images_per_s: float
    metric: float | None
    is_best: bool
    weights: str


@dataclass(frozen=True, slots=True, eq=False)
class _Trainer:
    """The objects that every step uses."""

    run: TrainingState
    network: nn.Module
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    group: ProcessGroup


def train(
    entries: Sequence[LabelledImage],
    config: TrainConfig,
    out: Path,
    *,
    valid: Sequence[LabelledImage] = (),
    group: ProcessGroup = SINGLE_PROCESS,
    resume: bool = False,
    on_step: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
) -> Path:
    """Train, and write `checkpoint.pt` and `weights.pt` in the leading process.

    Args:
        entries: the training split.
        config: the run's settings; a resumed run must state the same ones.
        out: folder of the run.
        valid: the split that the metric is measured on; without it the last epoch is shipped.
        group: this process's place among those that train together.
        resume: continue from `out/checkpoint.pt`, where there is one.
        on_step: called after every step, in every process.
        on_epoch: called after every epoch, in every process.

    Returns:
        The path of the averaged weights: of the best epoch where there is a metric.

    Raises:
        TrainingError: fewer images than one batch, the checkpoint belongs to other settings or
            data, or the disk is full.
        Diverged: the loss is not finite any more.
    """
    _check_inputs(entries, valid, config, group)
    _seed_generators(config)
    trainer = _make_trainer(entries, config, out, group, resume=resume)
    run, history = trainer.run, trainer.run.history
    while history.epochs_done < config.epochs and not history.has_stalled(config.patience):
        epoch = history.epochs_done
        loss, rate, speed = _train_epoch(trainer, entries, epoch, on_step)
        digest = digest_state(run.model.state_dict())
        group.check_agreement(digest)
        metric = _measure_metric(run, valid, epoch, group)
        is_best = history.record(epoch, metric) if metric is not None else False
        history.epochs_done = epoch + 1
        if group.is_leader:
            # Without any metric so far, the newest weights are the ones to ship.
            ship = is_best or history.best_epoch is None
            checkpoints.save_checkpoint(out, run, trainer.optimizer, weights=ship)
        on_epoch(EpochReport(epoch, loss, rate, speed, metric, is_best, digest))
    return out / WEIGHTS


def _check_inputs(
    entries: Sequence[LabelledImage],
    valid: Sequence[LabelledImage],
    config: TrainConfig,
    group: ProcessGroup,
) -> None:
    if len(entries) < config.batch:
        raise TrainingError(f"{len(entries)} images do not fill one batch of {config.batch}")
    if config.batch < group.world_size:
        raise TrainingError(
            f"a batch of {config.batch} images is too small for {group.world_size} processes"
        )
    if valid and not any(entry.labels for entry in valid):
        raise TrainingError("the validation split has no labelled box: nothing can be measured")
    if config.patience is not None and not valid:
        raise TrainingError("patience needs a validation split")


def _seed_generators(config: TrainConfig) -> None:
    """Seed every random generator, in every process alike, and set torch's threads."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002 - third-party code draws from this one
    random.seed(config.seed)


def _make_trainer(
    entries: Sequence[LabelledImage],
    config: TrainConfig,
    out: Path,
    group: ProcessGroup,
    *,
    resume: bool,
) -> _Trainer:
    """Build the network and its optimizer: random, from given weights, or from a checkpoint."""
    data = checkpoints.digest_data(entries)
    stored = checkpoints.load_checkpoint(out / CHECKPOINT, config, data) if resume else None
    model = build_model(config)
    if stored is not None:
        shrink_to(model, stored["model"])
    elif config.weights is not None and config.weights_sha256 is not None:
        load_initial_weights(model, config.weights, config.weights_sha256)
        prune(model, config.prune)
    model.to(device=group.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(_parameter_groups(model, config), lr=config.learning_rate)
    run = TrainingState(config, data, model, WeightEma(model, config.ema_decay), TrainingHistory())
    if stored is not None:
        checkpoints.restore_state(run, stored, optimizer)
    if group.is_leader:
        out.mkdir(parents=True, exist_ok=True)
    weights = weigh_classes(config, entries).to(group.device)
    epoch_steps = len(plan_steps(len(entries), config, 0, group.world_size))
    steps_done = run.history.epochs_done * epoch_steps
    return _Trainer(
        run=run,
        criterion=Criterion(model, group, weights),
        network=group.wrap(model),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, config, epoch_steps=epoch_steps, steps_done=steps_done),
        group=group,
    )


def _train_epoch(
    trainer: _Trainer,
    entries: Sequence[LabelledImage],
    epoch: int,
    on_step: Callable[[Progress], None],
) -> tuple[tuple[float, float, float], float, float]:
    """Train one epoch.

    Returns:
        The mean loss of all processes per image, the learning rate of the last step, and images
        per second of all processes.
    """
    run, group = trainer.run, trainer.group
    config = run.config
    count = len(plan_steps(len(entries), config, epoch, group.world_size))
    run.model.train()
    sum_of_losses = torch.zeros(3, device=group.device)
    epoch_start = time.monotonic()
    rate = 0.0
    source = iter_batches(entries, config, epoch, rank=group.rank, world_size=group.world_size)
    with closing(prefetch(source)) as batches:
        for step, batch in enumerate(batches):
            step_start = time.monotonic()
            rate = trainer.optimizer.param_groups[0]["lr"]
            loss = _train_step(trainer, batch, epoch, step)
            sum_of_losses += loss
            box, classes, dfl = (loss * group.world_size / batch.global_size).tolist()
            speed = batch.global_size / (time.monotonic() - step_start)
            images = tuple(entries[k].image_id for k in batch.indices)
            on_step(Progress(epoch, step, count, (box, classes, dfl), speed, images))
    box, classes, dfl = (group.all_reduce_sum(sum_of_losses) / len(entries)).tolist()
    return (box, classes, dfl), rate, len(entries) / (time.monotonic() - epoch_start)


def _train_step(trainer: _Trainer, batch: Batch, epoch: int, step: int) -> torch.Tensor:
    """Do one step and return this process's share of the loss, f32 (3,)."""
    run, group, optimizer = trainer.run, trainer.group, trainer.optimizer
    loss = trainer.criterion(
        _predict(trainer.network, batch, run.config, group.device),
        batch,
        unlabelled_weight=run.config.unlabelled_negative_weight_in(epoch),
        images=batch.global_size,
    )
    if not bool(torch.isfinite(loss).all()):
        raise Diverged(f"the loss is not finite in epoch {epoch}, step {step}")
    # DDP takes the mean over processes; times their number it is the sum, the whole batch's loss.
    torch.autograd.backward(loss.sum() * group.world_size)
    nn.utils.clip_grad_norm_(run.model.parameters(), _MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    trainer.scheduler.step()
    group.average_statistics(run.model)
    run.ema.update_parameters(run.model)
    return loss.detach()


def _predict(
    network: nn.Module, batch: Batch, config: TrainConfig, device: torch.device
) -> dict[str, Any]:
    """Return raw outputs for this process's images, computed in BF16 where that is quicker."""
    pixels = torch.from_numpy(batch.pixels).to(device, non_blocking=True)
    pixels = pixels.to(memory_format=torch.channels_last).float() / 255
    use_bf16 = config.bfloat16 and is_bf16_fast(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=use_bf16):
        predictions: dict[str, Any] = network(pixels)
    return predictions


def _measure_metric(
    run: TrainingState, valid: Sequence[LabelledImage], epoch: int, group: ProcessGroup
) -> float | None:
    """Measure the averaged weights with all processes; return None where no metric is due."""
    is_last = epoch + 1 == run.config.epochs
    if not valid or not (is_last or (epoch + 1) % run.config.validate_every == 0):
        return None
    return measure(run.ema.module.eval(), valid, run.config, group)


def _parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups: weight decay on matrices and kernels, none on the rest."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def find_absent_classes(entries: Sequence[LabelledImage]) -> list[str]:
    """Return the names of the findings that no image has an example of."""
    return [f.name for f, n in zip(CATALOG, count_boxes(entries), strict=True) if not n]
