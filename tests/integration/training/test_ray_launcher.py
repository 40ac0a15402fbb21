"""The same run on two workers of a local Ray cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.training import patient_ray
from tests.support.training.toy_sets import configured

pytestmark = [pytest.mark.training, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[3]


@pytest.fixture
def short() -> Iterator[str]:
    """A folder whose path leaves room for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        yield folder


def test_two_workers_train_and_one_writes(tmp_path: Path, short: str) -> None:
    config = configured(tmp_path)
    command = [sys.executable, "-m", patient_ray.__name__]
    environment = {
        **os.environ,
        **patient_ray.ENVIRONMENT,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
        "RAY_TMPDIR": short,
        "RAY_ADDRESS": "local",
    }
    done = subprocess.run(
        [*command, "run", "--config", config, "--launcher", "ray", "--workers", "2"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1740,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "weights.pt").is_file()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("hilum").experiment_id])
    assert run.data.tags["processes"] == "2"
    assert run.info.status == "FINISHED"
