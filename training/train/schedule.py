"""The learning rate over a run: linear warm-up, cosine decay, and at most one warm restart."""

from __future__ import annotations

import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from training.config import TrainConfig


def learning_rate_factor(config: TrainConfig, step: int, epoch_steps: int) -> float:
    """Return the learning rate of a step, as a share of `config.learning_rate`.

    The rate rises linearly in the warm-up and then falls along half a cosine to `final_share`.
    From `restart_epoch` on it starts once more, at `restart_share` of its height (a warm restart:
    Loshchilov and Hutter, "SGDR", ICLR 2017), so that a finished run can continue.

    Args:
        config: the run's settings.
        step: steps done since the start of the run.
        epoch_steps: steps in an epoch.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    first, last, peak = config.warmup_steps, config.epochs * epoch_steps, 1.0
    restart = config.restart_epoch
    if restart is not None and restart < config.epochs:
        if step < restart * epoch_steps:
            last = restart * epoch_steps
        else:
            first, peak = restart * epoch_steps, config.restart_share
    progress = (step - first) / max(1, last - first)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (config.final_share + (1 - config.final_share) * cosine)


def make_scheduler(
    optimizer: torch.optim.Optimizer, config: TrainConfig, *, epoch_steps: int, steps_done: int
) -> LambdaLR:
    """Return the scheduler of a run that has done `steps_done` steps; call `step` after each.

    The rate depends on the step's number alone, so a checkpoint stores nothing of the scheduler.
    """
    for group in optimizer.param_groups:
        group["initial_lr"] = config.learning_rate
    return LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(config, step, epoch_steps),
        last_epoch=steps_done - 1,
    )
