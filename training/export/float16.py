"""Conversion of a graph to f16 for GPUs, because TensorRT uses the types of the graph.

It works on the f32 graph and on the QDQ graph, whose float parts become f16. The head's decode
stays f32, because f16 would round a box edge to half a pixel at 1024 pixels. Why not ONNX Runtime's
converter: docs/decisions/0085-own-conversion-for-gpus.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from training.errors import TrainingError
from training.export.onnx_graph import drop_unused_constants, find_head_nodes, read_onnx

OPSET: Final = 21
"""The first in which scales of INT8 may be f16, and well supported by TensorRT's parser."""
_FIRST_SHAPE_INPUT: Final = {"Resize": 1}
"""Operations whose inputs from this position on are parameters, which keep their types."""


def convert_to_float16(model: bytes) -> bytes:
    """Return the network with f16 in place of f32 everywhere outside the head's decode.

    Args:
        model: from `training.export.onnx.export_onnx` or `training.export.qdq.quantize_onnx`.

    Returns:
        The serialised model; input u8 and output f32 stay as they are.

    Raises:
        TrainingError: a weight is outside the range of f16, or the head is not YOLO's.
    """
    proto = version_converter.convert_version(read_onnx(model), OPSET)
    head = find_head_nodes(proto)
    del proto.graph.value_info[:]
    conversion = _Conversion({tensor.name: tensor for tensor in proto.graph.initializer})
    for node in proto.graph.node:
        if node.name in head:
            conversion.keep_float(node)
        else:
            conversion.convert(node)
    del proto.graph.node[:]
    proto.graph.node.extend(conversion.nodes)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(conversion.constants.values())
    drop_unused_constants(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


@dataclass(slots=True)
class _Conversion:
    """The state of a conversion, which rewrites the graph node by node in its order."""

    constants: dict[str, onnx.TensorProto]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    converted: set[str] = field(default_factory=set)
    """Results that are f16 after the conversion."""

    def keep_float(self, node: onnx.NodeProto) -> None:
        """Append a node of the head; its f16 inputs are cast to f32."""
        for position, name in enumerate(node.input):
            if name in self.converted:
                node.input[position] = self._cast(name)
        self.nodes.append(node)

    def convert(self, node: onnx.NodeProto) -> None:
        """Append another node; its constants and its results become f16."""
        for position, name in enumerate(node.input):
            if position < _FIRST_SHAPE_INPUT.get(node.op_type, len(node.input)):
                node.input[position] = self._constant(name)
        if node.op_type == "Cast":
            to = next(a for a in node.attribute if a.name == "to")
            to.i = TensorProto.FLOAT16 if to.i == TensorProto.FLOAT else to.i
        if node.op_type not in {"QuantizeLinear", "Shape"}:
            self.converted |= set(node.output)
        self.nodes.append(node)

    def _cast(self, name: str) -> str:
        cast = f"{name}/f32"
        if all(cast not in node.output for node in self.nodes):
            self.nodes.append(helper.make_node("Cast", [name], [cast], cast, to=TensorProto.FLOAT))
        return cast

    def _constant(self, name: str) -> str:
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return name
        half = f"{name}/f16"
        if half not in self.constants:
            with np.errstate(over="ignore"):
                values = numpy_helper.to_array(tensor).astype(np.float16)
            if not np.isfinite(values).all():
                raise TrainingError(f"{name} has weights that f16 cannot hold")
            self.constants[half] = numpy_helper.from_array(values, half)
        return half
