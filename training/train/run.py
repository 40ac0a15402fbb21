"""One run from a configuration: data, tracking, training. Whoever starts it calls this function.

`hilum-train run` does so in one process, `torchrun` in many, Ray in its workers, the search in
every trial.
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
from training.train.loop import EpochReport, Progress, classes_without_example, train
from training.train.tracking import MlflowTracker, NullTracker, Tracker, git_revision, tags_of


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run learns from and is steered by, and the digest of the split they come from."""

    train: tuple[LabelledImage, ...]
    valid: tuple[LabelledImage, ...]
    digest: str


def read_sets(config: Config) -> TrainingData:
    """The training and validation split of the configured set.

    Raises:
        TrainingError: as `read_parts` raises it.
    """
    (train, valid), digest = read_parts(config, ("train", "valid"))
    return TrainingData(train, valid, digest)


def read_parts(
    config: Config, names: Iterable[str]
) -> tuple[tuple[tuple[LabelledImage, ...], ...], str]:
    """Parts of the configured set's frozen split, and the split's digest.

    Raises:
        TrainingError: the set or the split is absent or damaged, a part is absent or empty, or
            names an image that the set does not hold or whose picture is not there.
    """
    folder = config.data.dataset
    split = splits.load_split(config.data.split_file or folder)
    entries = dataset.load_dataset(folder)
    parts = tuple(dataset.select_split(folder, entries, split, name) for name in names)
    paths = dict.fromkeys(entry.path for part in parts for entry in part)
    if missing := [path for path in paths if not path.is_file()]:
        raise TrainingError(
            f"{len(missing)} of {len(paths)} pictures are not there; the first is {missing[0]}",
            hint="Restore them, or make the set again.",
        )
    return parts, split.digest


def run(
    config: Config,
    group: ProcessGroup,
    *,
    resume: bool = False,
    tracked: bool = True,
    say: Callable[[str], None] = lambda _: None,
    on_step: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
) -> Path:
    """Train as configured; the path of the weights.

    Args:
        config: the run.
        group: this process's place; only the leading one speaks, tracks and writes.
        resume: go on from the checkpoint in the run's folder, where there is one.
        tracked: whether MLflow is told.
        say: told one line per epoch, and warnings.
        on_step: told after every step.
        on_epoch: told after every epoch.

    Raises:
        TrainingError: the folder holds a run already that is not to be gone on with; or what
            `read_sets` and `train` raise.
    """
    refuse_second_run(config, resume=resume)
    sets = read_sets(config)
    speak = say if group.leads else _silent
    if missing := classes_without_example(sets.train):
        speak(f"warning: no example to learn from: {', '.join(missing)}")
    tracker: Tracker = NullTracker()
    if group.leads:
        gone_on = (config.out / CHECKPOINT).is_file()
        run_manifest.note(config, sets.digest, git_revision(), resume=gone_on)
    if tracked and group.leads:
        tracker = MlflowTracker(config, tags_of(sets.digest, group), speak)

    def done(report: EpochReport) -> None:
        speak(_line(report, config))
        tracker.metrics(_figures(report, config), report.epoch)
        on_epoch(report)

    status = "FAILED"
    try:
        with _own_threads():
            weights = train(
                sets.train,
                config.train,
                config.out,
                valid=sets.valid,
                group=group,
                resume=resume,
                on_step=on_step,
                on_epoch=done,
            )
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)
    return weights


@contextmanager
def _own_threads() -> Iterator[None]:
    """`train.threads` holds while a network is trained; what comes after has as many as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def refuse_second_run(config: Config, *, resume: bool) -> None:
    """Leave a run alone that nobody said to go on with.

    Raises:
        TrainingError: the folder holds a checkpoint.
    """
    if not resume and (config.out / CHECKPOINT).is_file():
        raise TrainingError(
            f"{config.out} holds a run already", hint="Go on with --resume, or name another `out`."
        )


def _silent(_line: str) -> None:
    pass


def _line(report: EpochReport, config: Config) -> str:
    metric = ""
    if report.metric is not None:
        metric = f", {config.train.metric} {report.metric:.3f}" + (" (best)" if report.best else "")
    return (
        f"epoch {report.epoch + 1}/{config.train.epochs}: loss {sum(report.loss):.3f}{metric}, "
        f"{report.images_per_s:.1f} images/s"
    )


def _figures(report: EpochReport, config: Config) -> dict[str, float]:
    box, classes, dfl = report.loss
    figures = {
        "loss/box": box,
        "loss/class": classes,
        "loss/dfl": dfl,
        "learning_rate": report.learning_rate,
        "images_per_s": report.images_per_s,
    }
    if report.metric is not None:
        figures[config.train.metric] = report.metric
    return figures
