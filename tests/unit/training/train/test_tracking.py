"""Runs are recorded in MLflow, and a training survives a server that is down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.training.toy_sets import tracked_config
from training.train.distributed import SINGLE_PROCESS
from training.train.tracking import MlflowTracker, make_run_tags

pytestmark = pytest.mark.training


@pytest.mark.slow
def test_a_run_is_recorded_as_it_happens_and_resumed(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    config, warnings = tracked_config(tmp_path, f"sqlite:///{tmp_path}/deep/mlflow.db"), []
    tracker = MlflowTracker(config, make_run_tags("abc", SINGLE_PROCESS), warnings.append)
    tracker.log_metrics({"map50": 0.25, "loss/box": 1.0}, 0)
    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name("hilum")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == {"map50": 0.25, "loss/box": 1.0}  # before it has ended
    assert run.data.params["train.epochs"] == "2"
    assert run.data.params["data.dataset"] == str(config.data.dataset)
    assert run.data.tags["split_digest"] == "abc"
    assert "git_revision" in run.data.tags
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {"config.json", "environment.json"}
    assert (tmp_path / "deep" / "artifacts").is_dir()

    again = MlflowTracker(
        config, make_run_tags("abc", SINGLE_PROCESS), warnings.append
    )  # after a kill
    again.log_metrics({"map50": 0.5}, 1)
    again.finish("FINISHED")
    (run,) = client.search_runs([experiment.experiment_id])
    assert [m.value for m in client.get_metric_history(run.info.run_id, "map50")] == [0.25, 0.5]
    assert run.info.status == "FINISHED"
    assert warnings == []


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config, warnings = tracked_config(tmp_path, "http://127.0.0.1:9"), []
    tracker = MlflowTracker(config, {}, warnings.append)
    tracker.log_metrics({"map50": 0.25}, 0)
    tracker.log_metrics({"map50": 0.5}, 1)
    tracker.finish("FINISHED")
    (warning,) = warnings
    assert "127.0.0.1:9" in warning
    assert "metrics.jsonl" in warning
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["map50"] for line in lines] == [0.25, 0.5]


@pytest.mark.slow
def test_metrics_that_could_not_be_sent_are_sent_later(tmp_path: Path) -> None:
    """The database's folder is a file at first."""
    from mlflow import MlflowClient

    config, warnings = tracked_config(tmp_path, f"sqlite:///{tmp_path}/late/mlflow.db"), []
    (tmp_path / "late").write_text("in the way")
    tracker = MlflowTracker(config, {}, warnings.append)
    tracker.log_metrics({"map50": 0.25}, 0)
    assert len(warnings) == 1
    (tmp_path / "late").unlink()
    tracker.log_metrics({"map50": 0.5}, 1)
    client = MlflowClient(tracking_uri=config.tracking.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("hilum").experiment_id])
    history = client.get_metric_history(run.info.run_id, "map50")
    assert [(m.step, m.value) for m in history] == [(0, 0.25), (1, 0.5)]
