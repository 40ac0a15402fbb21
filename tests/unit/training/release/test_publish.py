"""Publishing to a SQLite file: all of it, once; a clear error where that is impossible."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.engines.bundle import Bundle, starter_bundle_path
from tests.support.system.ports import free_port
from tests.support.training.model_registry import check_registry
from training.errors import TrainingError
from training.release.publish import publish

pytestmark = [
    pytest.mark.training,
    # Left to SQLAlchemy's pool by MLflow's own store.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(starter_bundle_path())


@pytest.mark.slow
def test_to_a_sqlite_file(bundle: Bundle, tmp_path: Path) -> None:
    check_registry(f"sqlite:///{tmp_path}/runs/mlflow.db", bundle, tmp_path / "got")


@pytest.mark.slow
def test_a_server_that_is_gone_is_named(bundle: Bundle) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
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
