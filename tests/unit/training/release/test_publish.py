"""Publishing to a SQLite file and to a real server: whole, once, and clear where it cannot be."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edge_agent.engines.bundle import Bundle, starter_bundle_path
from tests.support.training.mlflow_server import mlflow_server
from training.errors import TrainingError
from training.release.publish import DIGEST_TAG, WEIGHTS_TAG, Published, publish

pytestmark = [
    pytest.mark.training,
    # Left to SQLAlchemy's pool by MLflow's own store.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(starter_bundle_path())


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


@pytest.mark.slow
def test_to_a_sqlite_file(bundle: Bundle, tmp_path: Path) -> None:
    check_registry(f"sqlite:///{tmp_path}/runs/mlflow.db", bundle, tmp_path / "got")


@pytest.mark.slow
def test_to_a_server_and_clear_words_once_it_is_gone(bundle: Bundle, tmp_path: Path) -> None:
    with mlflow_server(tmp_path) as uri:
        check_registry(uri, bundle, tmp_path / "got")
    with pytest.raises(TrainingError) as caught:
        publish(bundle, uri)
    assert "cannot take starter-" in caught.value.message
    assert uri in caught.value.message
    assert "publish again" in caught.value.hint


def test_a_password_in_the_address_is_refused_and_not_repeated(bundle: Bundle) -> None:
    with pytest.raises(TrainingError, match="holds a name or password") as caught:
        publish(bundle, "http://me:secret@127.0.0.1:1")
    assert "secret" not in caught.value.message + (caught.value.hint or "")


@pytest.mark.parametrize(
    ("uri", "alias", "says"),
    [
        ("runs/mlflow.db", "candidate", "cannot publish to 'runs/mlflow.db'"),
        ("ftp://somewhere", "candidate", "cannot publish to"),
        ("sqlite:///x.db", "latest", "alias 'latest'"),
        ("sqlite:///x.db", "v2", "alias 'v2'"),
    ],
)
def test_what_cannot_be_is_said_at_once(bundle: Bundle, uri: str, alias: str, says: str) -> None:
    with pytest.raises(TrainingError) as caught:
        publish(bundle, uri, alias=alias)
    assert says in caught.value.message
