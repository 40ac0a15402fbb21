"""The commands `hilum-train run` and `tune`: start the training and show its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from training.cli.console import exit_status, print_line, progress_bars
from training.config import Config, load_config
from training.errors import TrainingError
from training.progress import ProgressCallback
from training.train.distributed import ProcessGroup, join_process_group
from training.train.loop import Progress
from training.train.run import run as run_training

Launcher = Literal["local", "ray"]


@exit_status
def run(*, config: Path, resume: bool, launcher: Launcher, workers: int) -> None:
    """Train as configured, in this process and the others of torchrun, or on Ray."""
    settings = load_config(config)
    if launcher == "ray":
        from training.train.ray_launcher import run_on_ray  # noqa: PLC0415 - an extra of its own

        weights = run_on_ray(settings, workers=workers, resume=resume)
    else:
        with join_process_group(settings.train.device) as group:
            weights = train_in_process(settings, group, resume=resume)
            if not group.is_leader:
                return
    print_line(f"weights: {weights}")


def train_in_process(config: Config, group: ProcessGroup, *, resume: bool) -> Path:
    """Train in this process; the leading one shows a bar and a line per epoch."""
    if not group.is_leader:
        return run_training(config, group, resume=resume)
    with progress_bars() as on_progress:
        return _train_with_progress(group, on_progress, resume, config)


@contextmanager
def single_process_trainer(
    device: Literal["auto", "cpu", "cuda"],
) -> Iterator[tuple[Callable[[Config], Path], ProgressCallback]]:
    """Yield a function that trains or resumes in this process alone, and a callback for progress.

    Raises:
        TrainingError: torchrun started other processes beside this one.
    """
    with join_process_group(device) as group:
        if group.world_size > 1:
            raise TrainingError(
                "all runs in one process",
                hint="Train with torchrun and `hilum-train run`; `all` then does the rest.",
            )
        with progress_bars() as on_progress:
            yield partial(_train_with_progress, group, on_progress, True), on_progress


def _train_with_progress(
    group: ProcessGroup, on_progress: ProgressCallback, resume: bool, config: Config
) -> Path:
    def count_step(progress: Progress) -> None:
        done = progress.epoch * progress.steps + progress.step + 1
        on_progress("train", done, config.train.epochs * progress.steps)

    return run_training(config, group, resume=resume, on_message=print_line, on_step=count_step)


@exit_status
def tune(*, config: Path) -> None:
    """Search the configured space and write a configuration with the best settings."""
    from training.train.tune import search, write_best_config  # noqa: PLC0415 - only where needed

    settings = load_config(config)
    with join_process_group(settings.train.device) as group:
        if group.world_size > 1:
            raise TrainingError("tune runs in one process; start it without torchrun")
        with progress_bars() as on_progress:
            study = search(settings, group, on_message=print_line, on_progress=on_progress)
    print_line(f"best: {study.best_value:.4f} with {study.best_params}")
    print_line(f"configuration: {write_best_config(settings, study)}")
