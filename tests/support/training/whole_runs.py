"""A run that went through all steps at toy size, made once for all tests that use it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from ultralytics.nn.tasks import DetectionModel

from tests.support.training.exported_runs import SIZE, exportable
from tests.support.training.models import blobs
from training.config import Config, load_config
from training.train import run_manifest
from training.train.run import load_training_data
from training.workflow import run_all

PICTURES = {f"case-{k}": blobs(500 + k, SIZE, SIZE) for k in range(32)}
"""Of the kind that the network of random weights marks; in painted chests it sees nothing."""
SHIPPED = ["openvino-int8", "openvino-fp32", "onnxruntime-fp32"]


class Trained:
    """A stand-in for the training: puts weights that find something into the run's folder.

    The training has tests of its own. A toy that was trained for seconds finds nothing, and a
    network that finds nothing cannot become a bundle.
    """

    def __init__(self, network: DetectionModel) -> None:
        self.times = 0
        self._network = network

    def __call__(self, config: Config) -> None:
        self.times += 1
        run_manifest.create_or_check(config, load_training_data(config).digest, "abc")
        torch.save(self._network.state_dict(), config.out / "weights.pt")


@dataclass(frozen=True)
class WholeRun:
    """Its configuration's path, its result and its messages; tests leave it as it is."""

    path: Path
    done: run_all.PipelineResult
    messages: list[str]
    training: Trained


def whole_run(folder: Path, network: DetectionModel) -> WholeRun:
    """Do all steps in a folder."""
    path = exportable(
        folder,
        network,
        # Few marks per picture, so that INT8 rounded in another way still says the same.
        evaluate={"resamples": 50, "floor": 0.8},
        export={"calibration_images": 4, "fast_bias_correction": True, "capabilities": []},
        bundle={
            "name": "toy",
            "version": "1.2.3",
            "variants": SHIPPED,
            "limits": ["Knows no patient."],
        },
        tracking={"uri": f"sqlite:///{folder}/mlflow.db"},
    )
    shutil.rmtree(folder / "run")
    messages: list[str] = []
    training = Trained(network)
    done = run_all.run_all(
        load_config(path), training, pictures=PICTURES, on_message=messages.append
    )
    return WholeRun(path, done, messages, training)
