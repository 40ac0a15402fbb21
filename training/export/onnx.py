"""From trained weights to graphs that a runtime can hold: ONNX and OpenVINO's IR.

One ONNX graph serves all runtimes: input `images` u8 (1, 1, H, W), output `outputs` f32
(1, 4 + classes, anchors), the division by 255 inside. Batch normalisation is folded into the
convolutions.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import openvino as ov
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from training.errors import TrainingError
from training.models.grey import to_grey

OPSET: Final = 18
_SMALL: Final = 64
"""Constants of fewer values (shapes, scales) keep their precision."""


class _FromBytes(nn.Module):
    """The network as the clinic sees it: u8 in, decoded boxes and scores out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.model(images.to(torch.float32) * (1 / 255))
        return outputs


def export_onnx(model: DetectionModel, height: int, width: int) -> bytes:
    """An f32 ONNX model.

    Args:
        model: weights for one or three channels; left as it is.
        height, width: of the input in pixels, multiples of 32.

    Returns:
        The serialised ONNX model: no names of files, no stack traces in it.
    """
    fused = to_grey(model).fuse(verbose=False)
    fused.model[-1].export = True
    pixels = torch.zeros((1, 1, height, width), dtype=torch.uint8)
    network = _FromBytes(fused).eval()
    with torch.no_grad():
        network(pixels)  # The head now has its anchors for this size, as constants.
    return export_module(network, height, width, "outputs")


def export_module(network: nn.Module, height: int, width: int, output: str) -> bytes:
    """An f32 ONNX model of any network that takes `images` u8 (1, 1, `height`, `width`)."""
    program = torch.onnx.export(
        network,
        (torch.zeros((1, 1, height, width), dtype=torch.uint8),),
        dynamo=True,
        input_names=["images"],
        output_names=[output],
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise TrainingError("torch exported no ONNX program")
    return _plain(program.model_proto.SerializeToString())


def halve_weights(model: bytes) -> bytes:
    """The same ONNX model with its weights stored as f16 and cast to f32 where they are used.

    Half the size; computation stays f32. Rounds each weight to 11 bits of mantissa.

    Raises:
        TrainingError: a weight is beyond the range of f16.
    """
    proto = onnx.load_from_string(model)
    casts = []
    for tensor in proto.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        with np.errstate(over="ignore"):
            half = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(half).all():
            raise TrainingError(f"{tensor.name} has weights that f16 cannot hold")
        name, stored = tensor.name, f"{tensor.name}/f16"
        tensor.CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(
            helper.make_node("Cast", [stored], [name], f"{name}/f32", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.checker.check_model(proto)
    return _serialised(proto)


def to_openvino(model: bytes) -> ov.Model:
    """OpenVINO's graph of an ONNX model; constants folded, each SiLU one Swish."""
    return ov.convert_model(io.BytesIO(model))


def float_ir(model: bytes) -> tuple[bytes, bytes]:
    """OpenVINO IR (xml, bin) of an f32 ONNX model, each `x * Sigmoid(x)` one operation.

    The runtime computes it in f32, or in BF16 where the processor does that natively.
    """
    return ir_bytes(to_openvino(model))


def ir_bytes(model: ov.Model) -> tuple[bytes, bytes]:
    """OpenVINO IR as (xml, bin); weights that are f32 are stored as f16."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(model, path, compress_to_fp16=True)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _plain(exported: bytes) -> bytes:
    """Take out what the exporter says about itself and the machine it ran on."""
    model = onnx.load_from_string(exported)
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name = "hilum"
    graph.doc_string = ""
    for named in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        named.doc_string = ""
        del named.metadata_props[:]
    del graph.value_info[:]
    return _serialised(model)


def _serialised(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))
