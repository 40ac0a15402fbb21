"""A network of random weights and its graphs, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import openvino as ov

SIZE = 128


@pytest.fixture(scope="session")
def network() -> Any:
    """A torch `DetectionModel` of one grey channel."""
    from tests.support.models import random_detector

    return random_detector()


@pytest.fixture(scope="session")
def onnx_bytes(network: Any) -> bytes:
    """Its ONNX graph for 128 x 128."""
    from training.export import export_onnx

    return export_onnx(network, SIZE, SIZE)


@pytest.fixture(scope="session")
def float_graph(onnx_bytes: bytes) -> ov.Model:
    """The same for OpenVINO; tests leave it as it is."""
    from training.export import to_openvino

    return to_openvino(onnx_bytes)
