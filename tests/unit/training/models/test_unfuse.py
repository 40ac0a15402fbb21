"""A bundle's network taken apart again says what it said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

from edge_agent.engines.bundle import Bundle, starter_bundle_path
from tests.support.engines.variants import bundle_with, transparent_onnx, variant
from tests.support.training.models import blobs
from training.config import Activation
from training.errors import TrainingError
from training.export.onnx import export_onnx
from training.models.network import ACTIVATIONS, new_network
from training.models.unfuse import activation_of, unfused

pytestmark = pytest.mark.training

SIZE = 64


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(starter_bundle_path())


def pictures(bundle: Bundle, count: int = 6) -> list[np.ndarray]:
    import cv2

    files = [case.image for case in bundle.golden.cases[:count]]
    decoded = [cv2.imdecode(np.frombuffer(bundle.read(it), np.uint8), 0) for it in files]
    return [np.asarray(it, np.uint8)[None, None] for it in decoded]


def assert_same(model: DetectionModel, graph: bytes, shown: list[np.ndarray]) -> None:
    """The network says of each picture what the ONNX graph says."""
    session = onnxruntime.InferenceSession(graph)
    with torch.no_grad():
        for picture in shown:
            (wanted,) = session.run(None, {"images": picture})
            got = model(torch.from_numpy(picture).float() / 255)[0].numpy()
            assert np.abs(got[:, 4:] - wanted[:, 4:]).max() < 1e-3
            assert np.abs(got[:, :4] - wanted[:, :4]).max() < 0.1


def test_it_says_what_the_bundle_says_in_evaluation_and_nearly_so_in_training(
    bundle: Bundle,
) -> None:
    shown = pictures(bundle)
    model = unfused(bundle, "yolo11n", shown)
    path = next(it.model for it in bundle.manifest.engines if it.runtime == "onnxruntime")
    assert_same(model, bundle.read(path), shown)
    norms = [it for it in model.modules() if isinstance(it, torch.nn.BatchNorm2d)]
    assert all((it.running_var > 0).all() for it in norms)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["hardswish", "relu"])
def test_the_activation_is_the_bundles(tmp_path: Path, activation: Activation) -> None:
    shown = [blobs(k, SIZE, SIZE)[None, None] for k in range(4)]
    network = new_network("yolo11n", activation).train()
    network(torch.from_numpy(np.concatenate(shown)).float() / 255)  # statistics that are not zero
    graph = export_onnx(network.eval(), SIZE, SIZE)
    made = bundle_with(tmp_path / "a.bundle", variant("onnxruntime-fp32"), onnx=graph)
    assert activation_of(made) == activation
    model = unfused(made, "yolo11n", shown)
    kinds = {type(it).__name__ for it in model.modules()}
    assert {name for name in ("SiLU", "Hardswish", "ReLU") if name in kinds} == {
        ACTIVATIONS[activation].removeprefix("torch.nn.").removesuffix("()")
    }
    assert_same(model, graph, shown)


def test_an_activation_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    made = bundle_with(tmp_path / "a.bundle", variant("onnxruntime-fp32"), onnx=transparent_onnx())
    with pytest.raises(TrainingError, match="not known here"):
        activation_of(made)


def test_another_architecture_is_refused(bundle: Bundle) -> None:
    with pytest.raises(TrainingError, match="yolo11s"):
        unfused(bundle, "yolo11s", pictures(bundle, 1))


def test_without_a_picture_nothing_can_be_measured(bundle: Bundle) -> None:
    with pytest.raises(TrainingError, match="no picture"):
        unfused(bundle, "yolo11n", [])
