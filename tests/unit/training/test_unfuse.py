"""A bundle's network taken apart again says what it said."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from edge_agent.engines.bundle import Bundle, starter_bundle_path
from training.errors import TrainingError
from training.unfuse import unfused

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(starter_bundle_path())


def pictures(bundle: Bundle, count: int = 6) -> list[np.ndarray]:
    import cv2

    files = [case.image for case in bundle.golden.cases[:count]]
    decoded = [cv2.imdecode(np.frombuffer(bundle.read(it), np.uint8), 0) for it in files]
    return [np.asarray(it, np.uint8)[None, None] for it in decoded]


def test_it_says_what_the_bundle_says_in_evaluation_and_nearly_so_in_training(
    bundle: Bundle,
) -> None:
    shown = pictures(bundle)
    model = unfused(bundle, "yolo11n", shown)
    path = next(it.model for it in bundle.manifest.engines if it.runtime == "onnxruntime")
    session = onnxruntime.InferenceSession(bundle.read(path))
    with torch.no_grad():
        for picture in shown:
            (wanted,) = session.run(None, {"images": picture})
            got = model(torch.from_numpy(picture).float() / 255)[0].numpy()
            assert np.abs(got[:, 4:] - wanted[:, 4:]).max() < 1e-3
            assert np.abs(got[:, :4] - wanted[:, :4]).max() < 0.1
    norms = [it for it in model.modules() if isinstance(it, torch.nn.BatchNorm2d)]
    assert all((it.running_var > 0).all() for it in norms)


def test_another_architecture_is_refused(bundle: Bundle) -> None:
    with pytest.raises(TrainingError, match="yolo11s"):
        unfused(bundle, "yolo11s", pictures(bundle, 1))


def test_without_a_picture_nothing_can_be_measured(bundle: Bundle) -> None:
    with pytest.raises(TrainingError, match="no picture"):
        unfused(bundle, "yolo11n", [])
