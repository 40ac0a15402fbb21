"""The network, ultralytics' YOLO11 on one grey channel, and the loading of its weights.

A weights file of Hilum holds tensors and plain values: the network's description and its state.
Loading a file never runs code from it. Initial weights are loaded only if the configuration states
their digest, so that a changed file cannot change the model unnoticed.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel, torch_safe_load, yaml_model_load

from hilum.catalog import CATALOG
from training.config import TrainConfig
from training.errors import TrainingError
from training.models.prune import shrink_to

State = Mapping[str, torch.Tensor]

FORMAT: Final = 1
ACTIVATIONS: Final = {
    "silu": "torch.nn.SiLU()",
    "hardswish": "torch.nn.Hardswish()",
    "relu": "torch.nn.ReLU()",
}
_FIRST: Final = "model.0.conv.weight"
_MIN_SHARE: Final = 0.5
"""Share of the network's tensors that initial weights must have; fewer: another architecture."""


def create_network(
    architecture: str,
    activation: str = "silu",
    *,
    channels: int = 1,
    classes: int = len(CATALOG),
) -> DetectionModel:
    """Return a network with random weights, as ultralytics builds it.

    Args:
        architecture: ultralytics' name, such as `yolo11n`.
        activation: a key of `ACTIVATIONS`, used in every layer.
        channels: of the input.
        classes: of the head.
    """
    layout = yaml_model_load(f"{architecture}.yaml")
    layout |= {"activation": ACTIVATIONS[activation], "nc": classes}
    return DetectionModel(layout, ch=channels, nc=classes, verbose=False)


def build_model(config: TrainConfig) -> DetectionModel:
    """Return a network with random weights and the loss gains of a run's settings."""
    model = create_network(config.architecture, config.activation)
    model.args = get_cfg(
        overrides={"box": config.box_gain, "cls": config.class_gain, "dfl": config.dfl_gain}
    )
    return model


def make_weights_content(state: State, config: TrainConfig) -> dict[str, Any]:
    """Return the content of a weights file: the network's description and its state."""
    return {
        "format": FORMAT,
        "architecture": config.architecture,
        "activation": config.activation,
        "input_size": config.input_size,
        "state": dict(state),
    }


def load_model(path: Path, architecture: str = "yolo11n") -> DetectionModel:
    """Load a network from one of Hilum's own weights files, in evaluation mode.

    Channels, classes and pruned widths are taken from the weights.

    Args:
        path: a file that the training loop wrote, or a plain state_dict of tensors.
        architecture: of a plain state_dict; a file of the training loop names its own.

    Raises:
        TrainingError: the file is absent or no weights file, or is for another architecture.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        about = stored if "state" in stored else {"architecture": architecture, "state": stored}
        state = about["state"]
        model = create_network(
            about["architecture"],
            about.get("activation", "silu"),
            channels=state[_FIRST].shape[1],
            classes=next(v for k, v in reversed(state.items()) if ".cv3." in k).shape[0],
        )
        shrink_to(model, state)
        model.load_state_dict(state)
    except Exception as error:
        raise TrainingError(f"{path} holds no weights of {architecture}: {error}") from error
    return model.eval()


def describe_weights(path: Path) -> dict[str, str]:
    """Return the digest of a weights file and the activation that it was trained with.

    The keys are settings of `train`: `weights_sha256`, and `activation` where the file names one.

    Raises:
        TrainingError: the file is absent, or is not one that the training loop wrote.
    """
    try:
        content = path.read_bytes()
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        settings = {"activation": stored["activation"]} if "activation" in stored else {}
    except Exception as error:
        raise TrainingError(f"{path} is no weights file: {error}") from error
    return {"weights_sha256": hashlib.sha256(content).hexdigest(), **settings}


def load_initial_weights(model: DetectionModel, path: Path, sha256: str) -> float:
    """Load another run's weights and return the share of the model's tensors that they filled.

    Tensors of another shape (a head for other classes) keep their random values. Weights for three
    colour channels are summed into the one grey channel, which is exact for a grey image. The
    activation is not compared: weights trained with another one are a worse start, not an error.

    Args:
        model: receives the weights, and the widths of a pruned network.
        path: a weights file of Hilum, or a `.pt` of ultralytics.
        sha256: the digest that the configuration states.

    Raises:
        TrainingError: the file is absent, has another digest, would run code if it were loaded, or
            belongs to another architecture.
    """
    state = _read_state(path, sha256)
    first = state.get(_FIRST)
    if first is not None and first.shape[1] == 3 and model.model[0].conv.in_channels == 1:  # noqa: PLR2004
        state[_FIRST] = first.sum(dim=1, keepdim=True)
    shrink_to(model, state)
    own = model.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    share = len(fitting) / len(own)
    if share < _MIN_SHARE:
        raise TrainingError(
            f"{path} fits {len(fitting)} of the network's {len(own)} tensors: "
            "it belongs to another architecture"
        )
    model.load_state_dict(fitting, strict=False)
    return share


def _read_state(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a file with the right digest, f32; nothing in it is executed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"cannot read the initial weights {path}: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise TrainingError(
            f"{path} has the digest {digest}, train.weights_sha256 is {sha256}: not loaded",
            hint="State the digest only of a file that you trust.",
        )
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - the file holds more than tensors and plain values
        stored = {"state": _ultralytics_state(path, content)}
    state = stored.get("state", stored) if isinstance(stored, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise TrainingError(f"{path} holds no state of a network")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _ultralytics_state(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    """Return the state in an ultralytics checkpoint, which pickles whole modules.

    The bytes whose digest was checked are read by ultralytics' restricted reader, which allows the
    classes of its own layers and refuses any other name.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "checked.pt"
            copy.write_bytes(content)
            checkpoint, _ = torch_safe_load(str(copy), safe_only=True)
        module = checkpoint.get("ema") or checkpoint["model"]
        if isinstance(module, nn.Module):
            return dict(module.float().state_dict())
    except Exception as error:
        raise TrainingError(
            f"{path} is a pickle that names more than tensors and YOLO layers; loading it could "
            "run any code, so it is refused",
            hint="Save the state_dict alone, with torch.save, where you trust the file.",
        ) from error
    raise TrainingError(f"{path} holds no network")
