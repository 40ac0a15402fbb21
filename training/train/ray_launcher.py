"""The same run on a Ray cluster: Ray places the workers and joins them, `train.run` trains.

Every worker reads the set and the leading one writes the run's folder, so both lie where all
hosts see them under one path. A worker that dies has the run go on from its last checkpoint.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from training.config import Config
from training.errors import TrainingError
from training.train.distributed import joined
from training.train.run import read_sets, refuse_second_run, run

# Ray would report usage to its makers, and build an environment anew where uv started us.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

try:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer
except ImportError as missing:
    raise TrainingError(
        "Ray is not installed", hint="Install the extra: uv sync --extra ray"
    ) from missing

FAILURES = 3
"""How often a run is gone on with after a worker died."""


def run_on_ray(config: Config, *, workers: int, resume: bool) -> Path:
    """Train on the cluster that `RAY_ADDRESS` names, or on this host; the path of the weights.

    Args:
        config: the run.
        workers: how many processes train together.
        resume: go on from the checkpoint in the run's folder.

    Raises:
        TrainingError: the cluster has not room for the workers, or the training failed.
    """
    refuse_second_run(config, resume=resume)
    read_sets(config)  # what is wrong with the data is said here, not by every worker
    placed = _absolute(config)
    started = not ray.is_initialized()
    if started:
        _start()
    try:
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = config.train.device != "cpu" and there.get("GPU", 0) > 0
        _check_room(workers, "GPU" if gpus else "CPU", there)
        TorchTrainer(
            _worker,
            train_loop_config=placed.model_dump(mode="json"),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
            run_config=RunConfig(
                name="ray",
                storage_path=str(placed.out),
                failure_config=FailureConfig(max_failures=FAILURES),
            ),
        ).fit()
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        raise TrainingError(f"Ray could not train: {error}") from error
    finally:
        if started:
            ray.shutdown()
    return config.out / "weights.pt"


def _start() -> None:
    try:
        ray.init(log_to_driver=True, configure_logging=False, include_dashboard=False)
    except Exception as error:  # Ray raises bare ones where a part of it does not come up
        raise TrainingError(
            f"Ray could not be started or reached: {error}",
            hint="RAY_ADDRESS names a running cluster; without it one is started on this host.",
        ) from error


def _worker(told: dict[str, Any]) -> None:
    """What each worker does; Ray has joined them already."""
    config = Config.model_validate(told)
    with joined(config.train.device) as group:
        # A run that Ray begins again goes on from its checkpoint.
        run(config, group, resume=True, say=_say)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")  # Ray has put a print of its own in place, which says it twice


def _absolute(config: Config) -> Config:
    """Workers run in folders of their own."""
    data = config.data
    train = config.train
    uri = config.tracking.uri
    if uri.startswith("sqlite:///"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}"
    return config.model_copy(
        update={
            "out": config.out.resolve(),
            "data": data.model_copy(
                update={
                    "dataset": data.dataset.resolve(),
                    "split_file": data.split_file and data.split_file.resolve(),
                }
            ),
            "train": train.model_copy(
                update={"weights": train.weights and train.weights.resolve()}
            ),
            "tracking": config.tracking.model_copy(update={"uri": uri}),
        }
    )


def _check_room(workers: int, kind: str, there: dict[str, float]) -> None:
    if workers > int(there.get(kind, 0)):
        raise TrainingError(
            f"{workers} workers need {workers} {kind}s, the cluster has {int(there.get(kind, 0))}"
        )
