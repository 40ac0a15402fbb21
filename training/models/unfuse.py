"""From a bundle's network back to one that can be trained on.

A bundle's ONNX graph has each batch normalisation folded into its convolution. Here they are taken
apart again, so that the network says what it said before, in evaluation as in training: statistics
are measured on pictures, and scale and shift are set to undo exactly them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel

from edge_agent.engines.bundle import Bundle
from training.config import Activation
from training.errors import TrainingError
from training.models.network import new_network

_PREFIX: Final = "model."
_HALF: Final = "/f16"
_ACTIVATIONS: Final[dict[str, Activation]] = {
    "HardSwish": "hardswish",
    "HardSigmoid": "hardswish",  # with a product: how older graphs spell it
    "Relu": "relu",
}


def unfused(
    bundle: Bundle, architecture: str, pictures: Sequence[NDArray[np.uint8]]
) -> DetectionModel:
    """The bundle's network with its batch normalisations apart again.

    Args:
        bundle: has a variant with an ONNX graph that `training.export.onnx` wrote.
        architecture: the ultralytics model's name, such as `yolo11n`.
        pictures: u8 (1, 1, H, W) each, of the kind the network is for; tens of them.

    Raises:
        TrainingError: no ONNX graph, one of another architecture or of no activation that is
            known, or no picture.
    """
    if not pictures:
        raise TrainingError("no picture to measure the network's statistics on")
    model = new_network(architecture, activation_of(bundle)).eval()
    try:
        _fill(model, _folded_weights(bundle))
    except (KeyError, RuntimeError) as error:
        raise TrainingError(f"{bundle.path} holds no weights of {architecture}: {error}") from error
    _measure(model, pictures)
    return model


def activation_of(bundle: Bundle) -> Activation:
    """The activation that a bundle's network has throughout.

    A training that goes on from its weights may have another one; then they are a worse beginning.

    Raises:
        TrainingError: no ONNX graph, or one without an activation that is known.
    """
    found = Counter(_activations(_graph(bundle)))
    if not found:
        raise TrainingError(f"{bundle.path} has an activation that is not known here")
    return found.most_common(1)[0][0]


def _activations(graph: onnx.GraphProto) -> Iterator[Activation]:
    """One for each layer. The head's Sigmoid is none: SiLU is a product of it and its input."""
    products = {frozenset(node.input) for node in graph.node if node.op_type == "Mul"}
    for node in graph.node:
        if node.op_type == "Sigmoid" and {node.input[0], node.output[0]} in products:
            yield "silu"
        elif node.op_type in _ACTIVATIONS:
            yield _ACTIVATIONS[node.op_type]


def _graph(bundle: Bundle) -> onnx.GraphProto:
    engines = [it for it in bundle.manifest.engines if it.precision == "fp32"]
    path = next((it.model for it in engines if it.model.endswith(".onnx")), None)
    if path is None:
        raise TrainingError(f"{bundle.path} has no ONNX graph to take weights from")
    return onnx.load_from_string(bundle.read(path)).graph


def _folded_weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    """Parameters by their names in torch, f32."""
    return {
        tensor.name.removesuffix(_HALF).removeprefix(_PREFIX): torch.from_numpy(
            np.array(numpy_helper.to_array(tensor), np.float32)
        )
        for tensor in _graph(bundle).initializer
        if tensor.name.startswith(_PREFIX)
    }


def _fill(model: DetectionModel, folded: dict[str, torch.Tensor]) -> None:
    """Load the weights; what was folded into a bias becomes the normalisation's shift."""
    state = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, Conv):
            scale, bias = torch.sqrt(1 + torch.tensor(module.bn.eps)), folded[f"{name}.conv.bias"]
            state[f"{name}.conv.weight"] = folded[f"{name}.conv.weight"]
            state[f"{name}.bn.weight"] = scale.expand_as(bias).clone()
            state[f"{name}.bn.bias"] = bias
        elif isinstance(module, nn.Conv2d) and f"{name}.bn.weight" not in state:
            for part in ("weight", "bias"):
                if f"{name}.{part}" in state and f"{name}.{part}" in folded:
                    state[f"{name}.{part}"] = folded[f"{name}.{part}"]
    model.load_state_dict(state)


@torch.no_grad()
def _measure(model: DetectionModel, pictures: Sequence[NDArray[np.uint8]]) -> None:
    """Set each normalisation's statistics to what it meets, and scale and shift to undo them."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    sums = {
        norm: [torch.zeros(norm.num_features), torch.zeros(norm.num_features)] for norm in norms
    }

    def note(norm: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        first, second = sums[norm]  # type: ignore[index]  # only normalisations are hooked
        first += inputs[0].mean(dim=(0, 2, 3))
        second += inputs[0].square().mean(dim=(0, 2, 3))

    hooks = [norm.register_forward_hook(note) for norm in norms]
    for picture in pictures:
        model(torch.from_numpy(picture).float() / 255)
    for hook in hooks:
        hook.remove()
    for norm, (first, second) in sums.items():
        mean = first / len(pictures)
        variance = (second / len(pictures) - mean.square()).clamp(min=0)
        norm.running_mean, norm.running_var = mean, variance
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.add_(mean)
