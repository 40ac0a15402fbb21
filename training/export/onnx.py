"""Export of trained weights to graphs for the runtimes: ONNX and OpenVINO's IR.

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
    """The network as the agent runs it: u8 in, decoded boxes and scores out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.model(images.to(torch.float32) * (1 / 255))
        return outputs


def export_onnx(model: DetectionModel, height: int, width: int) -> bytes:
    """Export a detector as an f32 ONNX model.

    Args:
        model: weights for one or three channels; not changed.
        height, width: of the input in pixels, multiples of 32.

    Returns:
        The serialised ONNX model, without file names or stack traces.
    """
    fused = to_grey(model).fuse(verbose=False)
    fused.model[-1].export = True
    pixels = torch.zeros((1, 1, height, width), dtype=torch.uint8)
    network = _FromBytes(fused).eval()
    with torch.no_grad():
        network(pixels)  # so that the head has the anchors of this size as constants
    return export_module(network, height, width, "outputs")


def export_module(network: nn.Module, height: int, width: int, output: str) -> bytes:
    """Export any network that takes `images` u8 (1, 1, `height`, `width`) as an f32 ONNX model.

    Args:
        network: in evaluation mode.
        height, width: of the input in pixels.
        output: name of its output.

    Raises:
        TrainingError: torch exported nothing.
    """
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
    return _strip_metadata(program.model_proto.SerializeToString())


def store_weights_as_float16(model: bytes) -> bytes:
    """Return the ONNX model with its weights stored as f16 and cast to f32 where they are used.

    It has half the size and computes in f32. Each weight is rounded to 11 bits of mantissa.

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
    return _serialize(proto)


def convert_to_openvino(model: bytes) -> ov.Model:
    """Convert an ONNX model to OpenVINO's graph, with folded constants and each SiLU one Swish."""
    return ov.convert_model(io.BytesIO(model))


def export_float_ir(model: bytes) -> tuple[bytes, bytes]:
    """Return the OpenVINO IR (xml, bin) of an f32 ONNX model, each `x * Sigmoid(x)` one Swish.

    The runtime computes it in f32, or in BF16 where the processor does that natively.
    """
    return serialize_ir(convert_to_openvino(model))


def serialize_ir(model: ov.Model) -> tuple[bytes, bytes]:
    """Return the graph as OpenVINO IR (xml, bin); f32 weights are stored as f16."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(model, path, compress_to_fp16=True)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _strip_metadata(exported: bytes) -> bytes:
    """Remove what the exporter recorded about itself and its machine."""
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
    return _serialize(model)


def _serialize(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))
