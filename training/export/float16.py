"""A graph that computes in f16, for cards: TensorRT takes each type as the graph states it.

Works on the f32 graph and on the QDQ one, whose float parts become f16. The head's decode stays
f32: a box edge in f16 would be rounded to half a pixel at 1024 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from training.errors import TrainingError
from training.export.onnx_graph import drop_unused_constants, head_nodes, read_onnx

OPSET: Final = 21
"""The first in which scales of INT8 may be f16 and graphs are what TensorRT's parser knows best."""
_SHAPES_FROM: Final = {"Resize": 1}
"""Operations whose inputs from this one on say how, not what: these keep their types."""


def to_half(model: bytes) -> bytes:
    """The same network with f16 in place of f32 everywhere outside the head's decode.

    Args:
        model: from `training.export.onnx.export_onnx` or `training.export.qdq.quantize_onnx`.

    Returns:
        The serialised model; input u8 and output f32 stay as they are.

    Raises:
        TrainingError: a weight is beyond the range of f16, or the head is not YOLO's.
    """
    proto = version_converter.convert_version(read_onnx(model), OPSET)
    head = head_nodes(proto)
    del proto.graph.value_info[:]
    work = _Work({tensor.name: tensor for tensor in proto.graph.initializer})
    for node in proto.graph.node:
        if node.name in head:
            work.keep(node)
        else:
            work.halve(node)
    del proto.graph.node[:]
    proto.graph.node.extend(work.nodes)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(work.constants.values())
    drop_unused_constants(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


@dataclass(slots=True)
class _Work:
    """The graph while it is rewritten, node by node in its order."""

    constants: dict[str, onnx.TensorProto]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    halved: set[str] = field(default_factory=set)
    """Results that are f16 now."""

    def keep(self, node: onnx.NodeProto) -> None:
        """A node of the head: what comes to it as f16 is cast."""
        for position, name in enumerate(node.input):
            if name in self.halved:
                node.input[position] = self._cast(name)
        self.nodes.append(node)

    def halve(self, node: onnx.NodeProto) -> None:
        """Any other node: its constants become f16, and with them what it computes."""
        for position, name in enumerate(node.input):
            if position < _SHAPES_FROM.get(node.op_type, len(node.input)):
                node.input[position] = self._constant(name)
        if node.op_type == "Cast":
            to = next(a for a in node.attribute if a.name == "to")
            to.i = TensorProto.FLOAT16 if to.i == TensorProto.FLOAT else to.i
        if node.op_type not in {"QuantizeLinear", "Shape"}:
            self.halved |= set(node.output)
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


def types_used(model: bytes) -> Iterator[tuple[str, str]]:
    """Operation and element type of every result that shape inference can tell, for a look."""
    inferred = onnx.shape_inference.infer_shapes(read_onnx(model)).graph
    types = {port.name: port.type.tensor_type.elem_type for port in inferred.value_info}
    for node in inferred.node:
        for output in node.output:
            if output in types:
                yield node.op_type, TensorProto.DataType.Name(types[output])
