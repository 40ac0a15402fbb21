"""Runs on a Ray cluster: Ray starts the workers and joins them, `train.run` trains.

Every worker reads the set, and the leading one writes the run's folder. Both must be on storage
that all hosts have under the same path. If a worker dies, Ray restarts the run, which continues
from its last checkpoint.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from training.config import Config
from training.errors import TrainingError
from training.train.distributed import join_process_group
from training.train.run import load_training_data, refuse_second_run, run

# Otherwise Ray reports usage to its makers, and rebuilds the environment under `uv run`.
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

MAX_FAILURES = 3
"""Restarts of a run after a worker died."""


def run_on_ray(config: Config, *, workers: int, resume: bool) -> Path:
    """Train on the cluster that `RAY_ADDRESS` names, or on this host.

    Args:
        config: the run.
        workers: how many processes train together.
        resume: continue from the checkpoint in the run's folder.

    Returns:
        The path of the weights.

    Raises:
        TrainingError: the cluster is too small for the workers, or the training failed.
    """
    refuse_second_run(config, resume=resume)
    load_training_data(config)  # so that bad data fails here, not in every worker
    absolute = _make_paths_absolute(config)
    is_own_cluster = not ray.is_initialized()
    if is_own_cluster:
        _start_ray()
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = config.train.device != "cpu" and resources.get("GPU", 0) > 0
        _check_capacity(workers, "GPU" if gpus else "CPU", resources)
        TorchTrainer(
            _train_in_worker,
            train_loop_config=absolute.model_dump(mode="json"),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
            run_config=RunConfig(
                name="ray",
                storage_path=str(absolute.out),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
            ),
        ).fit()
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        raise TrainingError(f"Ray could not train: {error}") from error
    finally:
        if is_own_cluster:
            ray.shutdown()
    return config.out / "weights.pt"


def _start_ray() -> None:
    try:
        ray.init(log_to_driver=True, configure_logging=False, include_dashboard=False)
    except Exception as error:  # Ray raises bare ones if a part of it does not start
        raise TrainingError(
            f"Ray could not be started or reached: {error}",
            hint="RAY_ADDRESS names a running cluster; without it, one is started on this host.",
        ) from error


def _train_in_worker(settings: dict[str, Any]) -> None:
    """Train in one of Ray's workers, which Ray has already joined."""
    config = Config.model_validate(settings)
    with join_process_group(config.train.device) as group:
        # A run that Ray restarts continues from its checkpoint.
        run(config, group, resume=True, on_message=_write_line)


def _write_line(line: str) -> None:
    sys.stderr.write(line + "\n")  # Ray's replacement of print writes a line twice


def _make_paths_absolute(config: Config) -> Config:
    """Return the configuration with absolute paths, because workers run in other folders."""
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


def _check_capacity(workers: int, kind: str, resources: dict[str, float]) -> None:
    available = int(resources.get(kind, 0))
    if workers > available:
        raise TrainingError(
            f"{workers} workers need {workers} {kind}s, the cluster has {available}"
        )
