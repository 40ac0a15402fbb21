"""What `hilum-train run` and `tune` do: start it here or elsewhere, show how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from training.cli.console import exit_status, progress_bars, stderr
from training.config import Config, load_config
from training.errors import TrainingError
from training.progress import ProgressCallback
from training.train.distributed import ProcessGroup, joined
from training.train.loop import Progress
from training.train.run import run as run_once

Launcher = Literal["local", "ray"]


@exit_status
def run(*, config: Path, resume: bool, launcher: Launcher, workers: int) -> None:
    """Train as configured, in this process and those that torchrun started beside it, or on Ray."""
    stated = load_config(config)
    if launcher == "ray":
        from training.train.ray_launcher import run_on_ray  # noqa: PLC0415 - an extra of its own

        weights = run_on_ray(stated, workers=workers, resume=resume)
    else:
        with joined(stated.train.device) as group:
            weights = here(stated, group, resume=resume)
            if not group.leads:
                return
    say(f"weights: {weights}")


def here(config: Config, group: ProcessGroup, *, resume: bool) -> Path:
    """Train in this process; the leading one shows a bar and a line per epoch."""
    if not group.leads:
        return run_once(config, group, resume=resume)
    with progress_bars() as told:

        def step(progress: Progress) -> None:
            done = progress.epoch * progress.steps + progress.step + 1
            told("train", done, config.train.epochs * progress.steps)

        return run_once(config, group, resume=resume, say=say, on_step=step)


@contextmanager
def alone(
    device: Literal["auto", "cpu", "cuda"],
) -> Iterator[tuple[Callable[[Config], Path], ProgressCallback]]:
    """What trains in this process alone, going on where a run was, and bars for that and all else.

    Raises:
        TrainingError: torchrun started other processes beside this one.
    """
    with joined(device) as group:
        if group.world > 1:
            raise TrainingError(
                "all runs in one process",
                hint="Train with torchrun and `hilum-train run`; `all` then does the rest.",
            )
        with progress_bars() as told:
            yield partial(_train, group, told), told


def _train(group: ProcessGroup, told: ProgressCallback, config: Config) -> Path:
    def step(progress: Progress) -> None:
        done = progress.epoch * progress.steps + progress.step + 1
        told("train", done, config.train.epochs * progress.steps)

    return run_once(config, group, resume=True, say=say, on_step=step)


@exit_status
def tune(*, config: Path) -> None:
    """Search the configured space; the best settings become a configuration of their own."""
    from training.train.tune import best_config, search  # noqa: PLC0415 - only where wanted

    stated = load_config(config)
    with joined(stated.train.device) as group:
        if group.world > 1:
            raise TrainingError("tune runs in one process; start it without torchrun")
        with progress_bars() as told:
            study = search(stated, group, say=say, told=lambda n: told("trials", *n))
    say(f"best: {study.best_value:.4f} with {study.best_params}")
    say(f"configuration: {best_config(stated, study)}")


def say(line: str) -> None:
    """One line to the terminal, above the bars."""
    stderr.print(line, markup=False, highlight=False, soft_wrap=True)
