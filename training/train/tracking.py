"""What a run tells MLflow as it happens; a server that is down never stops a training.

`sqlite:///runs/mlflow.db` needs no server, `http://...` is one. What cannot be told now is kept and
told with the next epoch; what could not be told in the end is in `metrics.jsonl` all the same.
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
    """Takes down what a run does."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Figures of an epoch."""

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""


class NullTracker:
    """For processes that do not lead, and for trials that nobody wants to see."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Nothing is taken down."""

    def end(self, status: str) -> None:
        """Nothing is taken down."""


class MlflowTracker:
    """One MLflow run, gone on with where the folder says that it was begun.

    Args:
        config: where to, and what is logged as parameters.
        tags: see `tags_of`.
        warn: told, once, that the server cannot be reached.
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
        self._kept: list[tuple[str, float, int, int]] = []
        # Its own defaults wait for minutes at every call.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self._guarded(self._open)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Tell figures of an epoch, and those that could not be told before."""
        now_ms = int(time.time() * 1000)
        line = {"step": step, "time_ms": now_ms, **values}
        with (self._config.out / METRICS).open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        self._kept += [(name, value, now_ms, step) for name, value in values.items()]
        self._guarded(self._tell)

    def end(self, status: str) -> None:
        """Tell how the run ended."""
        self._guarded(lambda: self._end(status))

    def _open(self) -> None:
        from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds; only where wanted

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        tracking = self._config.tracking
        client = MlflowClient(tracking_uri=prepared(tracking.uri))
        experiment = experiment_of(client, tracking.experiment, tracking.uri)
        kept = self._config.out / RUN
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        if known.get("uri") == tracking.uri:
            self._run = str(known["run"])
            client.update_run(self._run, status="RUNNING")
        else:
            run = client.create_run(experiment, run_name=self._config.out.name)
            self._run = run.info.run_id
            kept.write_text(json.dumps({"uri": tracking.uri, "run": self._run}), encoding="utf-8")
            for name, value in _flat(self._config.model_dump(mode="json")):
                client.log_param(self._run, name, value)
            client.log_dict(self._run, self._config.model_dump(mode="json"), "config.json")
            client.log_dict(self._run, environment(), "environment.json")
        for name, value in self._tags.items():
            client.set_tag(self._run, name, value)
        self._client = client

    def _tell(self) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415 - as above

        if self._client is None:
            self._open()
        assert self._client is not None  # noqa: S101 - _open has set it or raised
        self._client.log_batch(self._run, metrics=[Metric(*kept) for kept in self._kept])
        self._kept.clear()

    def _end(self, status: str) -> None:
        if self._kept:
            self._tell()
        if self._client is not None:
            self._client.set_terminated(self._run, status=status)

    def _guarded(self, act: Callable[[], None]) -> None:
        """Whatever MLflow raises becomes one warning; the training goes on."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - network, database, version: all the same here
            if not self._warned:
                self._warn(
                    f"MLflow at {self._config.tracking.uri} cannot be told: {error}. The training "
                    f"goes on; its figures are in {self._config.out / METRICS}"
                )
            self._warned = True


def prepared(uri: str) -> str:
    """The same address, with a folder for a SQLite file that is not there yet."""
    if uri.startswith(_SQLITE):
        Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    return uri


def experiment_of(client: MlflowClient, name: str, uri: str) -> str:
    """The experiment's id; a new one keeps its artifacts beside the SQLite file."""
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    if not uri.startswith(_SQLITE):
        return str(client.create_experiment(name))
    folder = Path(uri.removeprefix(_SQLITE)).resolve().parent / "artifacts"
    return str(client.create_experiment(name, artifact_location=folder.as_uri()))


def tags_of(split_digest: str, group: ProcessGroup) -> dict[str, str]:
    """What a run can be found by: the split, the source's revision, the machines."""
    return {
        "split_digest": split_digest,
        "git_revision": git_revision(),
        "processes": str(group.world),
        "device": torch.cuda.get_device_name(group.device) if group.on_cuda else "cpu",
    }


def git_revision() -> str:
    """The commit of the source; `-dirty` where it was changed since, "" where there is none."""
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


def environment() -> dict[str, Any]:
    """What the run's numbers depend on beside its settings; no host's or user's name."""
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


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings by their dotted keys; None is left out."""
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found.append((prefix + name, str(value)))
    return found
