"""The network: ultralytics' YOLO11 on one grey channel, and the only ways that weights get in.

A weights file of ours holds tensors and plain values: what the network is, and its state. Files
are loaded without running code from them; initial weights only if the configuration states their
digest, since whoever can change the file must not be able to change the model unseen.
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
_ENOUGH: Final = 0.5
"""Share of the tensors that initial weights must fill; fewer are another architecture's."""


def new_network(
    architecture: str,
    activation: str = "silu",
    *,
    channels: int = 1,
    classes: int = len(CATALOG),
) -> DetectionModel:
    """A network of random weights, as ultralytics builds it, with an activation throughout."""
    layout = yaml_model_load(f"{architecture}.yaml")
    layout |= {"activation": ACTIVATIONS[activation], "nc": classes}
    return DetectionModel(layout, ch=channels, nc=classes, verbose=False)


def build_model(config: TrainConfig) -> DetectionModel:
    """A fresh network with random weights and the gains of the loss in a run's settings."""
    model = new_network(config.architecture, config.activation)
    model.args = get_cfg(
        overrides={"box": config.box_gain, "cls": config.class_gain, "dfl": config.dfl_gain}
    )
    return model


def described(state: State, config: TrainConfig) -> dict[str, Any]:
    """What a weights file holds: which network it is for, and its state."""
    return {
        "format": FORMAT,
        "architecture": config.architecture,
        "activation": config.activation,
        "input_size": config.input_size,
        "state": dict(state),
    }


def load_model(path: Path, architecture: str = "yolo11n") -> DetectionModel:
    """A network with the weights of one of our own files, ready to be evaluated or exported.

    Channels, classes and pruned widths are taken from the weights.

    Args:
        path: a file that the training loop wrote, or a plain state_dict of tensors.
        architecture: of a plain state_dict; a file of ours says so itself.

    Raises:
        TrainingError: the file is absent or no such file, or is for another architecture.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        about = stored if "state" in stored else {"architecture": architecture, "state": stored}
        state = about["state"]
        model = new_network(
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


def load_initial(model: DetectionModel, path: Path, sha256: str) -> float:
    """Begin with another run's weights; the share of the model's tensors that were taken over.

    Tensors of another shape (a head for other classes) keep their random values. Weights for three
    colour channels are summed into the one grey channel, which is exact for a grey picture. The
    activation that they were trained with is not asked for: another one is a worse beginning, not
    an error.

    Args:
        model: takes the weights up, and the widths of a pruned network.
        path: a weights file of ours, or a `.pt` of ultralytics.
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
    if share < _ENOUGH:
        raise TrainingError(
            f"{path} fits {len(fitting)} of the network's {len(own)} tensors: "
            "it belongs to another architecture"
        )
    model.load_state_dict(fitting, strict=False)
    return share


def _read_state(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """The tensors of a file with the right digest, f32; nothing in it is executed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"cannot read the initial weights {path}: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise TrainingError(
            f"{path} has the digest {digest}, train.weights_sha256 says {sha256}: not loaded",
            hint="State the digest only of a file that you know.",
        )
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever it is, it is more than tensors and plain values
        stored = {"state": _ultralytics_state(path, content)}
    state = stored.get("state", stored) if isinstance(stored, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise TrainingError(f"{path} holds no state of a network")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _ultralytics_state(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    """What an ultralytics checkpoint holds, which pickles whole modules.

    Read from the very bytes whose digest was checked, by ultralytics' restricted reader, which
    knows the classes of its own layers and refuses any other name.
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
