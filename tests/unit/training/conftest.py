"""A network of random weights and its graphs, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.support.training.annotated import make_studies
from tests.support.training.models import random_detector
from tests.support.training.whole_runs import WholeRun, whole_run
from training.export.onnx import convert_to_openvino, export_onnx

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov
    from ultralytics.nn.tasks import DetectionModel

SIZE = 128


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Torch's threads wait for each other by spinning: on a busy machine a step takes seconds."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def network() -> DetectionModel:
    """One grey channel, the catalogue's classes; tests leave it as it is."""
    return random_detector()


@pytest.fixture(scope="session")
def onnx_bytes(network: DetectionModel) -> bytes:
    """Its ONNX graph for 128 x 128."""
    return export_onnx(network, SIZE, SIZE)


@pytest.fixture(scope="session")
def float_graph(onnx_bytes: bytes) -> ov.Model:
    """The same for OpenVINO; tests leave it as it is."""
    return convert_to_openvino(onnx_bytes)


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty DICOM studies and their table; tests leave it as it is."""
    return make_studies(tmp_path_factory.mktemp("annotated"), 20)


@pytest.fixture(scope="session")
def whole(network: DetectionModel, tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """A run that went through all steps; tests leave it as it is."""
    return whole_run(tmp_path_factory.mktemp("whole"), network)
