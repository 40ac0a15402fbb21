"""YOLO11-n networks in torch for tests: with random weights, and with the starter's.

The random network detects nothing real, but its scores cover the whole range. The starter's
weights are read from the ONNX graph in its bundle.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel

from edge_agent.engines.bundle import Bundle
from hilum.catalog import CATALOG


def blobs(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """A soft grey picture with a few round masses, u8 (H, W)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    picture = 70 + 50 * np.sin(columns / width * 3.1) + rng.normal(0, 3, (height, width))
    for _ in range(4):
        y, x = rng.uniform(0.15, 0.85, 2) * (height, width)
        radius = rng.uniform(0.04, 0.12) * height
        distance = np.hypot(rows - y, columns - x) / radius
        picture += rng.uniform(40, 110) / (1 + np.exp(8 * (distance - 1)))
    return picture.clip(0, 255).astype(np.uint8)


def by_onnx_runtime(model: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The outputs of a graph, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs: NDArray[np.float32] = session.run(["outputs"], {"images": pixels})[0]
    return outputs


def detector(channels: int = 1) -> DetectionModel:
    """A YOLO11-n as ultralytics builds it."""
    return DetectionModel("yolo11n.yaml", ch=channels, nc=len(CATALOG), verbose=False)


def random_detector(seed: int = 0, channels: int = 1) -> DetectionModel:
    """Random weights whose batch normalisation and head are set by what passes through them."""
    pictures = np.stack([blobs(100 + k, 256, 256) for k in range(4)])[:, None]
    batch = torch.from_numpy(pictures.repeat(channels, axis=1)).float() / 255
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = detector(channels)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # The plain average of all batches.
        model.train()
        for _ in range(2):
            model(batch)
        model.eval()
        head = model.model[-1]
        raw = model(batch)[1]
        _spread([conv[-1] for conv in head.cv3], raw["scores"], mean=-4, deviation=1.2)
        _spread([conv[-1] for conv in head.cv2], raw["boxes"], mean=0, deviation=1)
    return model


def _spread(
    convolutions: list[torch.nn.Conv2d], outputs: torch.Tensor, *, mean: float, deviation: float
) -> None:
    """Scale last convolutions so that their `outputs` (N, channels, anchors) have these moments."""
    now = outputs.mean(dim=(0, 2))
    gain = deviation / outputs.std(dim=(0, 2))
    for convolution in convolutions:
        convolution.weight *= gain[:, None, None, None]
        convolution.bias.copy_((convolution.bias - now) * gain + mean)


def detector_of(bundle: Bundle) -> DetectionModel:
    """Return the network in a bundle's ONNX graph, which has batch normalisation folded in.

    Its normalisations have mean 0 and variance 1, so that they only add the folded bias.
    """
    graph = onnx.load_from_string(bundle.read("model.onnx")).graph
    stored = {
        tensor.name.removeprefix("model.").removesuffix("/f16"): torch.from_numpy(
            np.array(numpy_helper.to_array(tensor), np.float32)
        )
        for tensor in graph.initializer
    }
    model = detector().eval()
    state = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, Conv):
            state[f"{name}.conv.weight"] = stored[f"{name}.conv.weight"]
            state[f"{name}.bn.weight"] = torch.full_like(
                state[f"{name}.bn.weight"], (1 + module.bn.eps) ** 0.5
            )
            # The graph leaves out a bias of zeros.
            state[f"{name}.bn.bias"] = stored.get(
                f"{name}.conv.bias", torch.zeros_like(state[f"{name}.bn.bias"])
            )
        elif isinstance(module, torch.nn.Conv2d) and f"{name}.bias" in state:
            state[f"{name}.weight"] = stored[f"{name}.weight"]
            bias = state[f"{name}.bias"]
            state[f"{name}.bias"] = stored.get(f"{name}.bias", torch.zeros_like(bias))
    model.load_state_dict(state)
    return model
