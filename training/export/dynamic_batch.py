"""Conversion of a graph for one image into one for any number, which makes GPUs faster.

Why not `torch.onnx.export(dynamic_shapes=...)`: docs/decisions/0085-own-conversion-for-gpus.md.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from training.errors import TrainingError
from training.export.onnx_graph import drop_unused_constants, read_onnx

IMAGES: Final = "images_at_once"
"""Name of the open dimension, the first of input and output."""
_UNCHANGED: Final = 0
"""In a Reshape's target: this dimension keeps its size."""


def open_batch_dimension(model: bytes) -> bytes:
    """Return the ONNX network for any number of images at once, which do not affect each other.

    Args:
        model: from `export.onnx.export_onnx` or `export.qdq.quantize_onnx`: for one image.

    Returns:
        The serialised model. All other dimensions stay fixed, also in Reshapes, where TensorRT
        would treat an inferred dimension as open.

    Raises:
        TrainingError: a Reshape mixes images or its target cannot be inferred, or the output does
            not have the number of images.
    """
    proto = onnx.shape_inference.infer_shapes(read_onnx(model), strict_mode=True, data_prop=True)
    graph = proto.graph
    sizes = {
        port.name: [dimension.dim_value for dimension in port.type.tensor_type.shape.dim]
        for port in (*graph.value_info, *graph.output)
    }
    for node in graph.node:
        if node.op_type == "Reshape":
            _open_reshape(graph, node, sizes.get(node.output[0], []))
    drop_unused_constants(graph)
    del graph.value_info[:]
    for port in (*graph.input, *graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = IMAGES
    _check_output(proto)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _check_output(proto: onnx.ModelProto) -> None:
    """Check that the output's first dimension, inferred again, is as open as the input's."""
    blank = onnx.ModelProto()
    blank.CopyFrom(proto)
    for port in blank.graph.output:
        port.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(blank, strict_mode=True, data_prop=True)
    for port in inferred.graph.output:
        sizes = port.type.tensor_type.shape.dim
        if not sizes or sizes[0].HasField("dim_value"):
            raise TrainingError(f"{port.name} does not have the input's number of images")


def _open_reshape(graph: onnx.GraphProto, node: onnx.NodeProto, size: list[int]) -> None:
    images, *others = size or [0]
    if images != 1 or not all(others):
        raise TrainingError(f"{node.name} makes {size}: it would mix the images of a batch")
    target = f"{node.output[0]}/target"
    values = np.array([_UNCHANGED, *others], np.int64)
    graph.initializer.append(numpy_helper.from_array(values, target))
    node.input[1] = target
    for attribute in [it for it in node.attribute if it.name == "allowzero"]:
        node.attribute.remove(attribute)
