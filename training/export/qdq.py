"""INT8 as ONNX: QuantizeLinear and DequantizeLinear around the convolutions, and nowhere else.

One graph serves ONNX Runtime and TensorRT. It meets TensorRT's rules: activations INT8 around zero,
weights INT8 per channel, biases float. Only the inputs of convolutions are quantized. Sums, resizes
and the attention's products stay float, as does the head's decode with its DFL and Sigmoid, which
are found by exact name.

The pairs are inserted here rather than by a library. Compared on the starter (synthetic findings,
416 pixels, ranges over the same 32 images; `int8.measure_disagreement` with the float graph):
ONNX Runtime's quantizer 0.046, NNCF's ONNX backend 0.077. But the first also gives INT8 to sums
beside a convolution, and drops every calibration image where its own memory limit divides their
number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.errors import TrainingError
from training.export.onnx_graph import find_convolutions, find_head_nodes, read_onnx

_LEVELS: Final = 127
_MIN_SCALE: Final = 2.0**-24
"""The smallest scale is f16's smallest value, because scales for TensorRT are f16."""


def quantize_onnx(model: bytes, calibration: Iterable[NDArray[np.uint8]]) -> bytes:
    """Quantize a detector's f32 ONNX model to INT8 in QDQ form.

    Args:
        model: from `training.export.onnx.export_onnx`.
        calibration: u8 of shape (1, 1, H, W) each, real radiographs; ranges cover all their values.

    Returns:
        The serialised model, checked by `check_qdq`; the rest of it is unchanged.

    Raises:
        TrainingError: there is no calibration image or one of the wrong shape, the head is not
            YOLO's, or the graph was not quantized as it should be.
    """
    proto = read_onnx(model)
    chosen = find_convolutions(proto, find_head_nodes(proto))
    images = list(calibration)
    _check_images(proto, images)
    ranges = _measure_ranges(proto, sorted({node.input[0] for node in chosen}), images)
    _insert(proto, {node.name for node in chosen}, ranges)
    onnx.checker.check_model(proto)
    check_qdq(proto, read_onnx(model))
    return bytes(proto.SerializeToString(deterministic=True))


def _measure_ranges(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[NDArray[np.uint8]]
) -> dict[str, float]:
    """Return the largest absolute value of each tensor over all images."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    for name in tensors:
        absolute, largest = f"{name}/abs", f"{name}/range"
        probed.graph.node.append(helper.make_node("Abs", [name], [absolute]))
        probed.graph.node.append(helper.make_node("ReduceMax", [absolute], [largest], keepdims=0))
        probed.graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, []))
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = [f"{name}/range" for name in tensors]
    feed = model.graph.input[0].name
    largest = np.max([session.run(outputs, {feed: image}) for image in images], axis=0)
    if not np.isfinite(largest).all():
        raise TrainingError(
            "the float graph has values that are not finite, which INT8 cannot represent"
        )
    return dict(zip(tensors, map(float, largest), strict=True))


def _insert(model: onnx.ModelProto, chosen: set[str], ranges: Mapping[str, float]) -> None:
    """Quantize inputs and weights of the chosen convolutions in place."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    done: dict[str, str] = {}
    for node in model.graph.node:
        if node.name in chosen:
            source, kernel = node.input[0], node.input[1]
            if source not in done:
                scale = np.float32(max(ranges[source] / _LEVELS, _MIN_SCALE))
                names = _constants(model, source, scale, np.int8(0))
                nodes += _pair(source, names)
                done[source] = f"{source}/dequantized"
            if kernel not in done:
                values = numpy_helper.to_array(weights[kernel])
                nodes.append(_weights(model, kernel, values))
                model.graph.initializer.remove(weights[kernel])
                done[kernel] = f"{kernel}/dequantized"
            node.input[0], node.input[1] = done[source], done[kernel]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _pair(source: str, constants: list[str]) -> list[onnx.NodeProto]:
    stored, back = f"{source}/int8", f"{source}/dequantized"
    return [
        helper.make_node("QuantizeLinear", [source, *constants], [stored], f"{source}/quantize"),
        helper.make_node("DequantizeLinear", [stored, *constants], [back], f"{source}/dequantize"),
    ]


def _weights(model: onnx.ModelProto, name: str, values: NDArray[np.float32]) -> onnx.NodeProto:
    """Replace f32 weights (out, in, rows, columns) by INT8 with a scale for each output channel."""
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    scale = np.maximum(largest / _LEVELS, _MIN_SCALE).astype(np.float32)
    rounded = np.rint(values / scale[:, None, None, None]).clip(-_LEVELS, _LEVELS)
    stored = f"{name}/int8"
    model.graph.initializer.append(numpy_helper.from_array(rounded.astype(np.int8), stored))
    names = _constants(model, name, scale, np.zeros(len(scale), np.int8))
    return helper.make_node(
        "DequantizeLinear", [stored, *names], [f"{name}/dequantized"], f"{name}/dequantize", axis=0
    )


def _constants(
    model: onnx.ModelProto,
    name: str,
    scale: NDArray[np.float32] | np.float32,
    zero: NDArray[np.int8] | np.int8,
) -> list[str]:
    named = {f"{name}/scale": scale, f"{name}/zero": zero}
    for key, value in named.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), key))
    return list(named)


def check_qdq(quantized: onnx.ModelProto, float_model: onnx.ModelProto) -> None:
    """Check that exactly the convolutions outside the head are INT8.

    1. One QuantizeLinear for each distinct input of those convolutions, one DequantizeLinear for
       each of these and for the weights of each.
    2. No other node has a dequantized input.
    3. Every zero point is INT8 and 0.

    Raises:
        TrainingError: a rule does not hold.
    """
    float_convolutions = find_convolutions(float_model, find_head_nodes(float_model))
    inputs, kernels = ({node.input[k] for node in float_convolutions} for k in (0, 1))
    expected = {"QuantizeLinear": len(inputs), "DequantizeLinear": len(inputs) + len(kernels)}
    nodes = quantized.graph.node
    present = {kind: sum(node.op_type == kind for node in nodes) for kind in expected}
    if present != expected:
        raise TrainingError(
            f"{_format_counts(present)} in the INT8 graph, expected {_format_counts(expected)}"
        )
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    names = {node.name for node in float_convolutions}
    for node in nodes:
        quantized_inputs = [name for name in node.input if name in dequantized]
        if quantized_inputs and node.name not in names:
            raise TrainingError(f"{node.name} must be float and has an INT8 input")
        if node.name in names and quantized_inputs != list(node.input[:2]):
            raise TrainingError(f"the convolution {node.name} is not INT8")
    _check_zero_points(quantized)


def _check_zero_points(model: onnx.ModelProto) -> None:
    """Check the zero points, because TensorRT reads UINT8 as INT8 with only a warning."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        zero = constants[node.input[2]]
        if zero.data_type != TensorProto.INT8 or np.any(numpy_helper.to_array(zero)):
            raise TrainingError(f"{node.name} is not INT8 around zero")


def _check_images(model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]]) -> None:
    if not images:
        raise TrainingError("no calibration image: INT8 needs some to set its ranges")
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    for image in images:
        if image.dtype != np.uint8 or image.shape != shape:
            raise TrainingError(
                f"a calibration image is {image.dtype} {image.shape}, expected u8 {shape}"
            )


def _format_counts(of: Mapping[str, int]) -> str:
    return " and ".join(f"{number} {kind}" for kind, number in of.items())
