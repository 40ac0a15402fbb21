"""A real MLflow server receives a run's metrics and a bundle; it starts once, in ten seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.engines.bundle import Bundle, starter_bundle_path
from tests.support.training.mlflow_server import mlflow_server
from tests.support.training.model_registry import check_registry
from tests.support.training.toy_sets import tracked_config
from training.train.distributed import SINGLE_PROCESS
from training.train.tracking import MlflowTracker, make_run_tags

pytestmark = [
    pytest.mark.training,
    pytest.mark.slow,
    # Left to SQLAlchemy's pool by MLflow's own store.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as uri:
        yield uri


def test_a_server_receives_metrics_as_they_are_measured(server: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    config, warnings = tracked_config(tmp_path / "run", server), []
    tracker = MlflowTracker(config, make_run_tags("abc", SINGLE_PROCESS), warnings.append)
    tracker.log_metrics({"map50": 0.25}, 0)
    client = MlflowClient(tracking_uri=server)
    (run,) = client.search_runs([client.get_experiment_by_name("hilum").experiment_id])
    assert run.data.metrics == {"map50": 0.25}  # before it has ended
    assert run.data.tags["split_digest"] == "abc"
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {"config.json", "environment.json"}
    tracker.finish("FINISHED")
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    assert warnings == []


def test_a_bundle_is_published_once_and_can_be_downloaded(server: str, tmp_path: Path) -> None:
    check_registry(server, Bundle.open(starter_bundle_path()), tmp_path / "got")
