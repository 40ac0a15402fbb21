"""A network of random weights and its graphs, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.annotated import make_studies
from tests.support.models import random_detector
from training.export import export_onnx, to_openvino

if TYPE_CHECKING:
    from pathlib import Path

    import openvino as ov
    from ultralytics.nn.tasks import DetectionModel

SIZE = 128


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
    return to_openvino(onnx_bytes)


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty DICOM studies and their table; tests leave it as it is."""
    return make_studies(tmp_path_factory.mktemp("annotated"), 20)
