"""Publishes a bundle as a version of a registered MLflow model, with metrics, tags and an alias.

`sqlite:///runs/mlflow.db` needs no server, `http://...` is one. Publishing the same bundle again
finds the version that is there and makes no other.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from edge_agent.engines.bundle import Bundle
from training.bundle.layout import EVALUATION_MEMBER, PARITY_MEMBER, RUN_MEMBER
from training.errors import TrainingError
from training.evaluation.parity import ParityResult
from training.evaluation.results import Evaluation
from training.train.checkpoints import WEIGHTS
from training.train.tracking import get_or_create_experiment, prepare_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS: Final = "candidate"
DIGEST_TAG: Final = "bundle_digest"
WEIGHTS_TAG: Final = "weights_sha256"
_SCHEMES: Final = ("sqlite:///", "http://", "https://")
_RESERVED: Final = re.compile(r"latest|v\d+", re.IGNORECASE)
_READY: Final = "READY"
_BATCH: Final = 1000
"""Metrics that MLflow takes at once."""


@dataclass(frozen=True, slots=True)
class Published:
    """Where a bundle is in the registry; `new` unless it was there already."""

    model: str
    version: str
    alias: str
    new: bool


def publish(
    bundle: Bundle,
    uri: str,
    *,
    model: str = "hilum",
    experiment: str = "hilum",
    alias: str = ALIAS,
    run_id: str | None = None,
    weights: Path | None = None,
) -> Published:
    """Register a bundle and let the alias point at it.

    Args:
        bundle: opened, so verified.
        uri: `sqlite:///FILE`, `http://...` or `https://...`.
        model: name of the registered model.
        experiment: where a run of its own is made, unless `run_id` names one.
        alias: moves here from whichever version has it.
        run_id: the training run in the same MLflow, where it is known.
        weights: the trained weights, uploaded beside the bundle so that a later run can start from
            them; their SHA-256 becomes the tag `weights_sha256`.

    Raises:
        TrainingError: the address or alias cannot be, or MLflow cannot be reached or refuses.
    """
    if not uri.startswith(_SCHEMES):
        raise TrainingError(
            f"cannot publish to {uri!r}",
            hint="Name a server (http://host:5000) or a file (sqlite:///runs/mlflow.db).",
        )
    if "@" in urlsplit(uri).netloc:
        raise TrainingError(
            "the address of MLflow holds a name or password, which would end up in logs",
            hint="Put them into ~/.mlflow/credentials, or MLFLOW_TRACKING_USERNAME and _PASSWORD.",
        )
    if _RESERVED.fullmatch(alias):
        raise TrainingError(f"MLflow keeps the alias {alias!r} for itself; choose another")
    # Its own defaults wait for minutes at every call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds; only where wanted

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri=prepare_uri(uri), registry_uri=uri)
        with _tracking_uri(uri):
            version = _version_of(client, model, bundle.digest)
            new = version is None
            if version is None:
                version = _register(
                    client,
                    bundle,
                    uri,
                    model=model,
                    experiment=experiment,
                    run_id=run_id,
                    weights=weights,
                )
            client.set_registered_model_alias(model, alias, version)
    except TrainingError:
        raise
    except Exception as error:
        raise TrainingError(
            f"MLflow at {uri} cannot take {bundle.path.name}: {_first_line(error)}",
            hint="Nothing is lost: see that it runs and can be reached, then publish again.",
        ) from error
    return Published(model, version, alias, new)


@contextmanager
def _tracking_uri(uri: str) -> Iterator[None]:
    """Set MLflow's global tracking URI, where a SQLite registry looks up the logged model."""
    import mlflow  # noqa: PLC0415 - takes seconds; only where wanted

    known = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    before = mlflow.get_tracking_uri() if known else ""
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _version_of(client: MlflowClient, model: str, digest: str) -> str | None:
    """Return the version with this bundle's digest, None without one."""
    versions = client.search_model_versions(f"name = '{model}'")
    mine = [it for it in versions if it.tags.get(DIGEST_TAG) == digest and it.status == _READY]
    return str(mine[0].version) if mine else None


def _register(
    client: MlflowClient,
    bundle: Bundle,
    uri: str,
    *,
    model: str,
    experiment: str,
    run_id: str | None,
    weights: Path | None,
) -> str:
    """Upload, then name: what has a version is whole."""
    from mlflow.entities import Metric  # noqa: PLC0415 - as above
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - as above

    manifest, tags = bundle.manifest, tags_of(bundle)
    if weights is not None:
        tags |= {WEIGHTS_TAG: hashlib.sha256(weights.read_bytes()).hexdigest()}
    experiment_id = get_or_create_experiment(client, experiment, uri)
    run = run_id or _own_run(client, experiment_id, bundle)
    logged = client.create_logged_model(
        experiment_id, name=manifest.name, source_run_id=run, tags=tags, model_type="bundle"
    )
    with tempfile.TemporaryDirectory() as folder:
        _write_artifacts(bundle, Path(folder))
        if weights is not None:
            shutil.copyfile(weights, Path(folder) / WEIGHTS)
        client.log_model_artifacts(logged.model_id, folder)
    client.finalize_logged_model(logged.model_id, "READY")
    now_ms = int(time.time() * 1000)
    metrics = [
        Metric(name, value, now_ms, 0, model_id=logged.model_id)
        for name, value in metrics_of(bundle).items()
    ]
    for first in range(0, len(metrics), _BATCH):
        client.log_batch(run, metrics=metrics[first : first + _BATCH])
    if run_id is None:
        client.set_terminated(run)
    try:
        client.create_registered_model(model, description="Chest X-ray detectors, as bundles.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        model,
        source=f"models:/{logged.model_id}",
        run_id=run,
        model_id=logged.model_id,
        tags=tags,
        description=f"{manifest.name} {manifest.version}. {manifest.intended_use}",
    )
    return str(made.version)


def _own_run(client: MlflowClient, experiment_id: str, bundle: Bundle) -> str:
    name = f"publish {bundle.manifest.name} {bundle.manifest.version}"
    return str(client.create_run(experiment_id, run_name=name).info.run_id)


def _write_artifacts(bundle: Bundle, folder: Path) -> None:
    """Write the archive, and next to it the members that are of interest without unpacking."""
    manifest = bundle.manifest
    shutil.copyfile(bundle.path, folder / f"{manifest.name}-{manifest.version}.bundle")
    readable = [manifest.model_card, manifest.sbom, EVALUATION_MEMBER, PARITY_MEMBER, RUN_MEMBER]
    for member in readable:
        if member in manifest.files:
            (folder / Path(member).name).write_bytes(bundle.read(member))


def tags_of(bundle: Bundle) -> dict[str, str]:
    """Return the tags of a version, by which it can be found."""
    manifest, change = bundle.manifest, bundle.manifest.change_control
    tags = {
        DIGEST_TAG: bundle.digest,
        "bundle_name": manifest.name,
        "bundle_version": manifest.version,
        "intended_use": manifest.intended_use,
        "engines": " ".join(engine.name for engine in manifest.engines),
    }
    if change:
        tags |= {
            "split_digest": change.protocol.split_digest,
            "declared": change.protocol.declared,
            "replaces": change.replaces or "",
            "plan": change.plan,
        }
    return {name: value for name, value in tags.items() if value}


def metrics_of(bundle: Bundle) -> dict[str, float]:
    """Return the metrics of the bundle's evidence, or those of its provenance without evidence.

    Raises:
        TrainingError: its evidence is not of this schema version.
    """
    found: dict[str, float] = {}
    try:
        if EVALUATION_MEMBER in bundle.manifest.files:
            evaluation = Evaluation.model_validate_json(bundle.read(EVALUATION_MEMBER))
            for name, estimate in evaluation.named_metrics().items():
                if estimate is not None:
                    found[name] = estimate.value
        if PARITY_MEMBER in bundle.manifest.files:
            parity = ParityResult.model_validate_json(bundle.read(PARITY_MEMBER))
            for it in parity.variants:
                found[f"{it.name}/map50"] = it.map50.variant
                found[f"{it.name}/map50_drop"] = it.map50.drop
    except ValueError as error:
        raise TrainingError(f"{bundle.path}: its evidence is not understood: {error}") from error
    return found or dict(bundle.manifest.provenance.metrics)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
