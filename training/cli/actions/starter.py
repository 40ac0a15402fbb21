"""Runs `hilum-train starter`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from training.cli.actions.train import single_process_trainer
from training.cli.console import exit_status, print_line
from training.config import TrainConfig
from training.errors import TrainingError
from training.models.network import describe_weights
from training.workflow import starter as workflow


@exit_status
def starter(
    *,
    out: Path,
    work: Path,
    backgrounds: Path | None,
    content_check: Path | None,
    weights: Path | None,
    replaces: Path | None,
    name: str,
    version: str,
    modifications: str,
    train_images: int,
    held_out_images: int,
    workers: int,
    settings: Mapping[str, object],
) -> None:
    """Make the starter bundle."""
    usual = workflow.TRAIN
    if weights is not None:
        start = {"weights": weights, **describe_weights(weights)}
        usual = {**usual, **workflow.TRAIN_FURTHER, **start}
    train = _to_train_config({**usual, **settings})
    plan = workflow.StarterPlan(
        out=out,
        work=work,
        backgrounds=backgrounds,
        content_check=content_check,
        name=name,
        version=version,
        modifications=modifications,
        replaces=replaces,
        seed=train.seed,
        train_images=train_images,
        held_out_images=held_out_images,
        workers=workers,
        train=train,
    )
    with single_process_trainer(train.device) as (train_one, on_progress):
        bundle = workflow.make_starter(
            plan, train_one, on_message=print_line, on_progress=on_progress
        )
    print_line(f"{bundle.path}: {bundle.digest}")


def _to_train_config(settings: Mapping[str, object]) -> TrainConfig:
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise TrainingError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
