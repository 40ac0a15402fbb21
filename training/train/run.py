"""A run from its configuration: data, tracking, training.

`hilum-train run` calls `run` in one process, `torchrun` in many, Ray in its workers, and the search
for settings in every trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from training.config import Config
from training.data import dataset, splits
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.train import run_manifest
from training.train.checkpoints import CHECKPOINT
from training.train.distributed import ProcessGroup
from training.train.loop import EpochReport, Progress, find_absent_classes, train
from training.train.tracking import MlflowTracker, NullTracker, Tracker, git_revision, make_run_tags


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The training and validation images of a run, and the digest of the split they come from."""

    train: tuple[LabelledImage, ...]
    valid: tuple[LabelledImage, ...]
    digest: str


def load_training_data(config: Config) -> TrainingData:
    """Load the training and validation images of the configured set.

    Raises:
        TrainingError: what `load_splits` raises.
    """
    (train, valid), digest = load_splits(config, ("train", "valid"))
    return TrainingData(train, valid, digest)


def load_splits(
    config: Config, names: Iterable[str]
) -> tuple[tuple[tuple[LabelledImage, ...], ...], str]:
    """Load parts of the configured set's frozen split.

    Args:
        config: the run.
        names: of the parts, such as `train`.

    Returns:
        The images of each part, and the split's digest.

    Raises:
        TrainingError: the set or the split is absent or damaged; a part is absent or empty, or
            names an image that the set does not have or whose file is missing.
    """
    folder = config.data.dataset
    split = splits.load_split(config.data.split_file or folder)
    entries = dataset.load_dataset(folder)
    parts = tuple(dataset.select_split(folder, entries, split, name) for name in names)
    paths = dict.fromkeys(entry.path for part in parts for entry in part)
    if missing := [path for path in paths if not path.is_file()]:
        raise TrainingError(
            f"{len(missing)} of {len(paths)} image files are missing; the first is {missing[0]}",
            hint="Restore them, or create the set again.",
        )
    return parts, split.digest


def run(
    config: Config,
    group: ProcessGroup,
    *,
    resume: bool = False,
    track: bool = True,
    on_message: Callable[[str], None] = lambda _: None,
    on_step: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
) -> Path:
    """Train as configured and return the path of the weights.

    Args:
        config: the run.
        group: this process's place; only the leading process writes, tracks and sends messages.
        resume: continue from the checkpoint in the run's folder, where there is one.
        track: record the run in MLflow.
        on_message: called with a line per epoch, and with warnings.
        on_step: called after every step.
        on_epoch: called after every epoch.

    Raises:
        TrainingError: the folder already holds a run and `resume` is false; or what
            `load_training_data` and `train` raise.
    """
    refuse_second_run(config, resume=resume)
    data = load_training_data(config)
    send = on_message if group.is_leader else _ignore_message
    if missing := find_absent_classes(data.train):
        send(f"warning: no training example of: {', '.join(missing)}")
    tracker: Tracker = NullTracker()
    if group.is_leader:
        is_resumed = (config.out / CHECKPOINT).is_file()
        run_manifest.create_or_check(config, data.digest, git_revision(), resume=is_resumed)
    if track and group.is_leader:
        tracker = MlflowTracker(config, make_run_tags(data.digest, group), send)

    def finish_epoch(report: EpochReport) -> None:
        send(_format_report(report, config))
        tracker.log_metrics(_metrics_of(report, config), report.epoch)
        on_epoch(report)

    status = "FAILED"
    try:
        with _restored_threads():
            weights = train(
                data.train,
                config.train,
                config.out,
                valid=data.valid,
                group=group,
                resume=resume,
                on_step=on_step,
                on_epoch=finish_epoch,
            )
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    return weights


@contextmanager
def _restored_threads() -> Iterator[None]:
    """Restore torch's number of threads afterwards: `train.threads` is for training alone."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def refuse_second_run(config: Config, *, resume: bool) -> None:
    """Refuse to write into the folder of an earlier run that is not to be resumed.

    Raises:
        TrainingError: the folder holds a checkpoint and `resume` is false.
    """
    if not resume and (config.out / CHECKPOINT).is_file():
        raise TrainingError(
            f"{config.out} already holds a run",
            hint="Continue it with --resume, or configure another `out`.",
        )


def _ignore_message(_line: str) -> None:
    pass


def _format_report(report: EpochReport, config: Config) -> str:
    metric = ""
    if report.metric is not None:
        metric = f", {config.train.metric} {report.metric:.3f}" + (
            " (best)" if report.is_best else ""
        )
    return (
        f"epoch {report.epoch + 1}/{config.train.epochs}: loss {sum(report.loss):.3f}{metric}, "
        f"{report.images_per_s:.1f} images/s"
    )


def _metrics_of(report: EpochReport, config: Config) -> dict[str, float]:
    box, classes, dfl = report.loss
    metrics = {
        "loss/box": box,
        "loss/class": classes,
        "loss/dfl": dfl,
        "learning_rate": report.learning_rate,
        "images_per_s": report.images_per_s,
    }
    if report.metric is not None:
        metrics[config.train.metric] = report.metric
    return metrics
