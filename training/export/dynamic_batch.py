"""A graph for one image made one for any number of them, as cards gain from."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from training.errors import TrainingError
from training.export.onnx_graph import drop_unused_constants, read_onnx

IMAGES: Final = "images_at_once"
"""The open dimension's name, first of the input's and of the output's."""
_AS_IT_COMES: Final = 0
"""In a Reshape's target: this dimension stays what it is."""


def for_any_batch(model: bytes) -> bytes:
    """The same ONNX network for any number of images at once; each is computed by itself.

    Args:
        model: from `export.onnx.export_onnx` or `export.qdq.quantize_onnx`: for one image.

    Returns:
        The serialised model. All other dimensions are as fixed as they were, also in Reshapes,
        where one that is left to be inferred would be open to TensorRT.

    Raises:
        TrainingError: a Reshape does not keep the images apart or its target cannot be told, or the
            number of images does not reach the output.
    """
    proto = onnx.shape_inference.infer_shapes(read_onnx(model), strict_mode=True, data_prop=True)
    graph = proto.graph
    sizes = {
        port.name: [dimension.dim_value for dimension in port.type.tensor_type.shape.dim]
        for port in (*graph.value_info, *graph.output)
    }
    for node in graph.node:
        if node.op_type == "Reshape":
            _leave_open(graph, node, sizes.get(node.output[0], []))
    drop_unused_constants(graph)
    del graph.value_info[:]
    for port in (*graph.input, *graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = IMAGES
    _check_output(proto)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _check_output(proto: onnx.ModelProto) -> None:
    """How many answers the output holds, inferred anew, must be as open as the input."""
    blank = onnx.ModelProto()
    blank.CopyFrom(proto)
    for port in blank.graph.output:
        port.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(blank, strict_mode=True, data_prop=True)
    for port in inferred.graph.output:
        sizes = port.type.tensor_type.shape.dim
        if not sizes or sizes[0].HasField("dim_value"):
            raise TrainingError(f"{port.name} is not for as many images as come in")


def _leave_open(graph: onnx.GraphProto, node: onnx.NodeProto, size: list[int]) -> None:
    images, *others = size or [0]
    if images != 1 or not all(others):
        raise TrainingError(f"{node.name} makes {size}: images in a batch would not stay apart")
    target = f"{node.output[0]}/target"
    values = np.array([_AS_IT_COMES, *others], np.int64)
    graph.initializer.append(numpy_helper.from_array(values, target))
    node.input[1] = target
    for attribute in [it for it in node.attribute if it.name == "allowzero"]:
        node.attribute.remove(attribute)
