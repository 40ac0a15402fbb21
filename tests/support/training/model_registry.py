"""What a model registry holds after a bundle was published to it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_agent.engines.bundle import Bundle
from training.release.publish import DIGEST_TAG, WEIGHTS_TAG, Published, publish


def check_registry(uri: str, bundle: Bundle, folder: Path) -> None:
    """Published twice it is one version, tagged, aliased, with figures and the very bytes."""
    import mlflow
    from mlflow.artifacts import download_artifacts

    weights = folder.with_name("weights.pt")
    weights.write_bytes(b"weights")
    first, again = publish(bundle, uri, weights=weights), publish(bundle, uri)
    assert first == Published("hilum", "1", "candidate", new=True)
    assert again == Published("hilum", "1", "candidate", new=False)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version_by_alias("hilum", "candidate")
    assert version.tags[DIGEST_TAG] == bundle.digest
    assert version.tags[WEIGHTS_TAG] == hashlib.sha256(b"weights").hexdigest()
    assert version.tags["bundle_version"] == bundle.manifest.version
    assert bundle.manifest.intended_use in version.description
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    logged_metrics = {metric.key: metric.value for metric in logged.metrics}
    metrics = bundle.manifest.provenance.metrics
    assert {name: round(logged_metrics[name], 4) for name in metrics} == metrics
    # The evaluation inside the bundle has more of them.
    assert logged_metrics.keys() > metrics.keys()
    mlflow.set_tracking_uri(uri)
    try:
        got = Path(download_artifacts("models:/hilum@candidate", dst_path=str(folder)))
    finally:
        mlflow.set_tracking_uri("")
    file = next(got.rglob("*.bundle"))
    digests = [hashlib.sha256(it.read_bytes()).hexdigest() for it in (file, bundle.path)]
    assert digests[0] == digests[1]
    assert next(got.rglob("weights.pt")).read_bytes() == b"weights"
    assert next(got.rglob("model-card.md")).read_bytes() == bundle.read("model-card.md")
