"""Records a run in MLflow while it trains; a server that is down never stops the training.

`sqlite:///runs/mlflow.db` needs no server, `http://...` names one. Metrics that cannot be sent are
kept and sent with the next epoch. `metrics.jsonl` holds all of them in any case.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from training.config import Config
from training.train.distributed import ProcessGroup

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS: Final = "metrics.jsonl"
RUN: Final = "mlflow-run.json"
_PACKAGES: Final = ("hilum", "torch", "torchvision", "ultralytics", "numpy", "mlflow-skinny")
_SQLITE: Final = "sqlite:///"


class Tracker(Protocol):
    """Records the metrics and the end of a run."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record the metrics of an epoch."""

    def finish(self, status: str) -> None:
        """Record the final status: FINISHED, FAILED or KILLED."""


class NullTracker:
    """Records nothing: for processes that do not lead, and for trials of a search."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def finish(self, status: str) -> None:
        """Do nothing."""


class MlflowTracker:
    """Records one MLflow run; a resumed run continues the MLflow run that its folder names.

    Args:
        config: names the server, and is logged as parameters.
        tags: from `make_run_tags`.
        warn: called once if the server cannot be reached.
    """

    def __init__(
        self, config: Config, tags: Mapping[str, str], warn: Callable[[str], None]
    ) -> None:
        self._config = config
        self._tags = dict(tags)
        self._warn = warn
        self._warned = False
        self._client: MlflowClient | None = None
        self._run = ""
        self._unsent: list[tuple[str, float, int, int]] = []
        # MLflow's defaults wait for minutes at every call.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self._guarded(self._open)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record the metrics of an epoch, and those that could not be sent before."""
        now_ms = int(time.time() * 1000)
        line = {"step": step, "time_ms": now_ms, **values}
        with (self._config.out / METRICS).open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        self._unsent += [(name, value, now_ms, step) for name, value in values.items()]
        self._guarded(self._send)

    def finish(self, status: str) -> None:
        """Record the final status of the run."""
        self._guarded(lambda: self._terminate(status))

    def _open(self) -> None:
        from mlflow import MlflowClient  # noqa: PLC0415 - imports for seconds; only where needed

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        tracking = self._config.tracking
        client = MlflowClient(tracking_uri=prepare_uri(tracking.uri))
        experiment = get_or_create_experiment(client, tracking.experiment, tracking.uri)
        stored = self._config.out / RUN
        known = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
        if known.get("uri") == tracking.uri:
            self._run = str(known["run"])
            client.update_run(self._run, status="RUNNING")
        else:
            run = client.create_run(experiment, run_name=self._config.out.name)
            self._run = run.info.run_id
            stored.write_text(json.dumps({"uri": tracking.uri, "run": self._run}), encoding="utf-8")
            for name, value in _flatten(self._config.model_dump(mode="json")):
                client.log_param(self._run, name, value)
            client.log_dict(self._run, self._config.model_dump(mode="json"), "config.json")
            client.log_dict(self._run, describe_environment(), "environment.json")
        for name, value in self._tags.items():
            client.set_tag(self._run, name, value)
        self._client = client

    def _send(self) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - as above

        if self._client is None:
            self._open()
        assert self._client is not None  # noqa: S101 - _open has set it or raised
        self._client.log_batch(self._run, metrics=[Metric(*metric) for metric in self._unsent])
        self._unsent.clear()

    def _terminate(self, status: str) -> None:
        if self._unsent:
            self._send()
        if self._client is not None:
            self._client.set_terminated(self._run, status=status)

    def _guarded(self, act: Callable[[], None]) -> None:
        """Turn any error of MLflow into one warning, so that the training goes on."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - network, database or version: handled alike
            if not self._warned:
                self._warn(
                    f"MLflow at {self._config.tracking.uri} cannot be reached: {error}. The "
                    f"training goes on; its metrics are in {self._config.out / METRICS}"
                )
            self._warned = True


def prepare_uri(uri: str) -> str:
    """Return the address unchanged; create the folder of a SQLite file."""
    if uri.startswith(_SQLITE):
        Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    return uri


def get_or_create_experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Return the experiment's id; a new one stores its artifacts beside the SQLite file.

    Args:
        client: of the tracking server.
        name: of the experiment.
        uri: of the tracking server.
    """
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    if not uri.startswith(_SQLITE):
        return str(client.create_experiment(name))
    folder = Path(uri.removeprefix(_SQLITE)).resolve().parent / "artifacts"
    return str(client.create_experiment(name, artifact_location=folder.as_uri()))


def make_run_tags(split_digest: str, group: ProcessGroup) -> dict[str, str]:
    """Return the tags that a run is found by: split, source revision, processes, device."""
    return {
        "split_digest": split_digest,
        "git_revision": git_revision(),
        "processes": str(group.world_size),
        "device": torch.cuda.get_device_name(group.device) if group.on_cuda else "cpu",
    }


def git_revision() -> str:
    """Return the source's commit, with `-dirty` if it was changed; empty where there is none."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware that the metrics depend on; no name of a host or a user."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = ""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "packages": packages,
    }


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the settings by their dotted keys, without those that are None."""
    flat: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            flat += _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            flat.append((prefix + name, str(value)))
    return flat
