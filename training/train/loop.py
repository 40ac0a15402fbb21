"""The training loop: YOLO11 on one grey channel, readable from top to bottom.

The network, its loss and the assignment of targets are ultralytics'; the loop, the data and the
checkpoints are ours. One process or many run the same lines: alone, `distributed.ProcessGroup` is a
group of one, and many processes compute what one would.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
from torch import nn

from hilum.catalog import CATALOG
from training.config import TrainConfig
from training.data.dataset import LabelledImage
from training.errors import Diverged, TrainingError
from training.models.network import build_model, load_initial
from training.models.prune import prune
from training.train import checkpoints
from training.train.checkpoints import (
    CHECKPOINT,
    WEIGHTS,
    TrainingHistory,
    TrainingState,
    WeightEma,
)
from training.train.distributed import ALONE, ProcessGroup, computes_bf16, digest_of
from training.train.loader import Batch, batches, steps
from training.train.losses import Criterion, class_weights, count
from training.train.validate import measure


@dataclass(frozen=True, slots=True)
class Progress:
    """What happened in the step just done.

    `loss` is the box, class and DFL part per image; `images` the ids of what this process saw.
    """

    epoch: int
    step: int
    steps: int
    loss: tuple[float, float, float]
    images_per_s: float
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What happened in an epoch, once its checkpoint is on disk.

    `loss` is the mean over the whole epoch and all processes; `metric` is None where none was
    measured; `weights` is the digest of this process's weights, the same in all.
    """

    epoch: int
    loss: tuple[float, float, float]
    learning_rate: float
    images_per_s: float
    metric: float | None
    best: bool
    weights: str


def train(
    entries: Sequence[LabelledImage],
    config: TrainConfig,
    out: Path,
    *,
    valid: Sequence[LabelledImage] = (),
    group: ProcessGroup = ALONE,
    resume: bool = False,
    on_step: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
) -> Path:
    """Train and return the path of the averaged weights: of the best epoch where there is a metric.

    Writes `checkpoint.pt` after every epoch and `weights.pt` beside it, in the leading process.

    Args:
        entries: the training split.
        config: the run's settings; a resumed run must state the same ones.
        out: folder of the run.
        valid: the split that the metric is measured on; without it the last epoch is shipped.
        group: this process's place among those that train together.
        resume: go on from `out/checkpoint.pt`, where there is one.
        on_step: told after every step, in every process.
        on_epoch: told after every epoch, in every process.

    Raises:
        TrainingError: fewer images than one batch, the checkpoint belongs to other settings or
            data, or the disk is full.
        Diverged: the loss is no number any more.
    """
    _check(entries, valid, config, group)
    _set_up(config)
    run, optimizer = _begin(entries, config, out, group, resume=resume)
    criterion = Criterion(run.model, group, class_weights(config, entries).to(group.device))
    network = group.wrap(run.model)
    while run.history.done < config.epochs and not run.history.over(config.patience):
        epoch = run.history.done
        loss, speed = _epoch(
            run, network, criterion, optimizer, entries, epoch=epoch, group=group, told=on_step
        )
        digest = digest_of(run.model.state_dict())
        group.check_agreement(digest)
        metric = _metric(run, valid, epoch, group)
        best = run.history.note(epoch, metric) if metric is not None else False
        run.history.done = epoch + 1
        if group.leads:
            # Without any metric so far, the newest weights are the ones to ship.
            ship = best or run.history.best_epoch is None
            checkpoints.save(out, run, optimizer, weights=ship)
        rate = optimizer.param_groups[0]["lr"]
        on_epoch(EpochReport(epoch, loss, rate, speed, metric, best, digest))
    return out / WEIGHTS


def _check(
    entries: Sequence[LabelledImage],
    valid: Sequence[LabelledImage],
    config: TrainConfig,
    group: ProcessGroup,
) -> None:
    if len(entries) < config.batch:
        raise TrainingError(f"{len(entries)} images do not fill one batch of {config.batch}")
    if config.batch < group.world:
        raise TrainingError(f"a batch of {config.batch} does not reach {group.world} processes")
    if valid and not any(entry.labels for entry in valid):
        raise TrainingError("the validation split has no labelled box: nothing can be measured")
    if config.patience is not None and not valid:
        raise TrainingError("patience needs a validation split")


def _set_up(config: TrainConfig) -> None:
    """Seed all that draws random numbers, in every process alike."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002 - third-party code draws from this one
    random.seed(config.seed)


def _begin(
    entries: Sequence[LabelledImage],
    config: TrainConfig,
    out: Path,
    group: ProcessGroup,
    *,
    resume: bool,
) -> tuple[TrainingState, torch.optim.Optimizer]:
    """The network and all that goes with it: new, from given weights, or from a checkpoint."""
    data = checkpoints.data_digest(entries)
    stored = checkpoints.read(out / CHECKPOINT, config, data) if resume else None
    model = build_model(config)
    if stored is not None:
        checkpoints.widths_from(model, stored)
    elif config.weights is not None and config.weights_sha256 is not None:
        load_initial(model, config.weights, config.weights_sha256)
        prune(model, config.prune)
    model.to(device=group.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(_parameter_groups(model, config), lr=config.learning_rate)
    run = TrainingState(config, data, model, WeightEma(model, config.ema_decay), TrainingHistory())
    if stored is not None:
        checkpoints.restore(run, stored, optimizer)
    if group.leads:
        out.mkdir(parents=True, exist_ok=True)
    return run, optimizer


def _epoch(
    run: TrainingState,
    network: nn.Module,
    criterion: Criterion,
    optimizer: torch.optim.Optimizer,
    entries: Sequence[LabelledImage],
    *,
    epoch: int,
    group: ProcessGroup,
    told: Callable[[Progress], None],
) -> tuple[tuple[float, float, float], float]:
    """One epoch; the mean loss of all processes per image, and images per second of all."""
    config = run.config
    count = len(steps(len(entries), config, epoch, group.world))
    run.model.train()
    seen = torch.zeros(3, device=group.device)
    began = time.monotonic()
    source = batches(entries, config, epoch, rank=group.rank, world=group.world)
    with closing(_ahead(source)) as stream:
        for step, batch in enumerate(stream):
            step_began = time.monotonic()
            for parameters in optimizer.param_groups:
                parameters["lr"] = learning_rate(config, epoch * count + step, count)
            loss = criterion(
                _predict(network, batch, config, group.device),
                batch,
                hidden_weight=config.hidden_in(epoch),
                images=batch.together,
            )
            if not bool(torch.isfinite(loss).all()):
                raise Diverged(f"the loss is no number in epoch {epoch}, step {step}")
            # The mean over processes that DDP takes becomes the sum, which is the whole batch's.
            torch.autograd.backward(loss.sum() * group.world)
            nn.utils.clip_grad_norm_(run.model.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            group.average_statistics(run.model)
            run.average.update(run.model)
            seen += loss.detach()
            box, classes, dfl = (loss.detach() * group.world / batch.together).tolist()
            speed = batch.together / (time.monotonic() - step_began)
            images = tuple(entries[k].image_id for k in batch.chosen)
            told(Progress(epoch, step, count, (box, classes, dfl), speed, images))
    box, classes, dfl = (group.total(seen) / len(entries)).tolist()
    return (box, classes, dfl), len(entries) / (time.monotonic() - began)


def _predict(
    network: nn.Module, batch: Batch, config: TrainConfig, device: torch.device
) -> dict[str, Any]:
    """Raw outputs for this process's images, in BF16 where that is quicker."""
    pixels = torch.from_numpy(batch.pixels).to(device, non_blocking=True)
    pixels = pixels.to(memory_format=torch.channels_last).float() / 255
    bfloat16 = config.bfloat16 and computes_bf16(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
        predictions: dict[str, Any] = network(pixels)
    return predictions


def _metric(
    run: TrainingState, valid: Sequence[LabelledImage], epoch: int, group: ProcessGroup
) -> float | None:
    """The metric of the averaged weights, measured by all processes; None where it is not due."""
    last = epoch + 1 == run.config.epochs
    if not valid or not (last or (epoch + 1) % run.config.validate_every == 0):
        return None
    shadow = copy.deepcopy(run.model)
    shadow.load_state_dict(run.average.state)
    return measure(shadow.eval(), valid, run.config, group)


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


def _ahead(source: Iterator[Batch]) -> Generator[Batch]:
    """Prepare the next batches in a thread (decoding and warping release the interpreter)."""
    queue: Queue[Batch | BaseException | None] = Queue(maxsize=3)
    stopped = Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                queue.put(item, timeout=0.2)
            except Full:
                continue
            return True
        return False

    def fill() -> None:
        try:
            for batch in source:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is awaited
            put(error)

    Thread(target=fill, daemon=True, name="batches").start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def classes_without_example(entries: Sequence[LabelledImage]) -> list[str]:
    """Names of the findings that cannot be learnt from these images."""
    return [f.name for f, n in zip(CATALOG, count(entries), strict=True) if not n]
