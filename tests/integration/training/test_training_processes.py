"""Training as real processes: two that train one network, and one that is killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.training, pytest.mark.slow, pytest.mark.timeout(1800)]

torch = pytest.importorskip("torch")

from tests.support.training.toy_sets import configured  # noqa: E402  # torch may be absent
from training.config import load_config  # noqa: E402
from training.train.distributed import SINGLE_PROCESS  # noqa: E402
from training.train.loop import EpochReport  # noqa: E402
from training.train.run import run  # noqa: E402

ROOT = Path(__file__).parents[3]
HILUM_TRAIN = Path(sys.executable).with_name("hilum-train")
WORKER = ROOT / "tests" / "support" / "training" / "worker.py"


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


def state(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state"]
    return found


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """Weights equal after every epoch, every picture once, gradients the mean, one that writes."""
    config = configured(tmp_path)
    done = torchrun(WORKER, config, tmp_path)
    assert done.returncode == 0, done.stderr
    reports = [json.loads((tmp_path / f"rank-{k}.json").read_text()) for k in range(2)]
    assert reports[0]["weights"] == reports[1]["weights"]
    assert len(set(reports[0]["weights"])) == 2  # it did learn
    for epoch in ("0", "1"):
        seen = Counter(reports[0]["images"][epoch]) + Counter(reports[1]["images"][epoch])
        assert seen == Counter({f"{k:03d}": 1 for k in range(10)})
        assert reports[0]["images"][epoch]
        assert reports[1]["images"][epoch]
    for rank in reports:
        assert rank["gradient_difference"] < 1e-4
        assert rank["other_without_exchange"] > 1e-2
    assert "process 1 of 2 has other weights" in reports[1]["disagreement"]
    # Only the leading process sends messages and tracks.
    assert reports[0]["messages"]
    assert not reports[1]["messages"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("hilum").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert runs[0].data.tags["processes"] == "2"


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    config = configured(killed, train={"epochs": 3})
    process = subprocess.Popen(
        [HILUM_TRAIN, "run", "--config", config],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1/3"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    done = torch.load(killed / "run" / "checkpoint.pt", weights_only=True)["history"]["epochs_done"]
    assert done >= 1

    epochs: list[int] = []

    def note(report: EpochReport) -> None:
        epochs.append(report.epoch)

    resumed = run(load_config(config), SINGLE_PROCESS, resume=True, track=False, on_epoch=note)
    assert epochs == list(range(done, 3))
    expected = run(load_config(configured(whole, train={"epochs": 3})), SINGLE_PROCESS, track=False)
    for key, value in state(expected).items():
        assert torch.equal(value, state(resumed)[key]), key
