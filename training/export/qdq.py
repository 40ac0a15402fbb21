"""INT8 as ONNX: QuantizeLinear and DequantizeLinear around the convolutions, and nowhere else.

One graph serves ONNX Runtime and TensorRT. What TensorRT asks for is kept to: activations INT8
around zero, weights INT8 per channel, biases float. Only what enters a convolution is quantised;
sums, resizes and the attention's products stay float, as does all of the head's decode, its DFL and
the Sigmoid, by exact name.

The pairs are put in here, in thirty lines, rather than by a library. Compared on the starter
(synthetic findings, 416 pixels, ranges over the same 32 images; `training.export.int8.disagreement`
with the float graph): ONNX Runtime's quantiser 0.046, NNCF's ONNX backend 0.077; but the first also
feeds INT8 to sums that stand beside a convolution, and keeps no calibration image at all where its
own limit on memory divides their number.
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
from training.export.onnx_graph import convolutions, head_nodes, read_onnx

_LEVELS: Final = 127
_SMALLEST: Final = 2.0**-24
"""The least scale, f16's least value: TensorRT is given scales in f16."""


def quantize_onnx(model: bytes, calibration: Iterable[NDArray[np.uint8]]) -> bytes:
    """A QDQ INT8 ONNX model of a detector's f32 one.

    Args:
        model: from `training.export.onnx.export_onnx`.
        calibration: u8 of shape (1, 1, H, W) each, of the real kind; ranges reach over all that
            they show.

    Returns:
        The serialised model, checked by `check_qdq`; everything else in it is as it was.

    Raises:
        TrainingError: no calibration image, one of the wrong form, a graph whose head is not
            YOLO's, or one that was not quantised as it should be.
    """
    proto = read_onnx(model)
    chosen = convolutions(proto, head_nodes(proto))
    images = list(calibration)
    _check_images(proto, images)
    reach = _reach(proto, sorted({node.input[0] for node in chosen}), images)
    _insert(proto, {node.name for node in chosen}, reach)
    onnx.checker.check_model(proto)
    check_qdq(proto, read_onnx(model))
    return bytes(proto.SerializeToString(deterministic=True))


def _reach(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[NDArray[np.uint8]]
) -> dict[str, float]:
    """The largest absolute value of each tensor over all images."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    for name in tensors:
        absolute, largest = f"{name}/abs", f"{name}/reach"
        probed.graph.node.append(helper.make_node("Abs", [name], [absolute]))
        probed.graph.node.append(helper.make_node("ReduceMax", [absolute], [largest], keepdims=0))
        probed.graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, []))
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    wanted = [f"{name}/reach" for name in tensors]
    feed = model.graph.input[0].name
    found = np.max([session.run(wanted, {feed: image}) for image in images], axis=0)
    if not np.isfinite(found).all():
        raise TrainingError("the float graph gives values that are not finite; INT8 cannot hold it")
    return dict(zip(tensors, map(float, found), strict=True))


def _insert(model: onnx.ModelProto, chosen: set[str], reach: Mapping[str, float]) -> None:
    """Quantise inputs and weights of the chosen convolutions in place."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    done: dict[str, str] = {}
    for node in model.graph.node:
        if node.name in chosen:
            source, kernel = node.input[0], node.input[1]
            if source not in done:
                scale = np.float32(max(reach[source] / _LEVELS, _SMALLEST))
                names = _constants(model, source, scale, np.int8(0))
                nodes += _pair(source, names)
                done[source] = f"{source}/dequantised"
            if kernel not in done:
                values = numpy_helper.to_array(weights[kernel])
                nodes.append(_weights(model, kernel, values))
                model.graph.initializer.remove(weights[kernel])
                done[kernel] = f"{kernel}/dequantised"
            node.input[0], node.input[1] = done[source], done[kernel]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _pair(source: str, constants: list[str]) -> list[onnx.NodeProto]:
    stored, back = f"{source}/int8", f"{source}/dequantised"
    return [
        helper.make_node("QuantizeLinear", [source, *constants], [stored], f"{source}/quantise"),
        helper.make_node("DequantizeLinear", [stored, *constants], [back], f"{source}/dequantise"),
    ]


def _weights(model: onnx.ModelProto, name: str, values: NDArray[np.float32]) -> onnx.NodeProto:
    """INT8 in place of f32 weights (out, in, rows, columns), a scale for each output channel."""
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    scale = np.maximum(largest / _LEVELS, _SMALLEST).astype(np.float32)
    rounded = np.rint(values / scale[:, None, None, None]).clip(-_LEVELS, _LEVELS)
    stored = f"{name}/int8"
    model.graph.initializer.append(numpy_helper.from_array(rounded.astype(np.int8), stored))
    names = _constants(model, name, scale, np.zeros(len(scale), np.int8))
    return helper.make_node(
        "DequantizeLinear", [stored, *names], [f"{name}/dequantised"], f"{name}/dequantise", axis=0
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


def check_qdq(quantised: onnx.ModelProto, float_model: onnx.ModelProto) -> None:
    """Raise TrainingError unless exactly the convolutions outside the head are INT8.

    1. One QuantizeLinear for each distinct input of those convolutions, one DequantizeLinear for
       each of these and for the weights of each.
    2. Nothing else takes a dequantised value, the head least of all.
    3. Every zero point is INT8 and 0.
    """
    wanted = convolutions(float_model, head_nodes(float_model))
    inputs, kernels = ({node.input[k] for node in wanted} for k in (0, 1))
    expected = {"QuantizeLinear": len(inputs), "DequantizeLinear": len(inputs) + len(kernels)}
    nodes = quantised.graph.node
    present = {kind: sum(node.op_type == kind for node in nodes) for kind in expected}
    if present != expected:
        raise TrainingError(f"{_counts(present)} in the INT8 graph, expected {_counts(expected)}")
    dequantised = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    names = {node.name for node in wanted}
    for node in nodes:
        taken = [name for name in node.input if name in dequantised]
        if taken and node.name not in names:
            raise TrainingError(f"{node.name} should stay float and takes INT8")
        if node.name in names and taken != list(node.input[:2]):
            raise TrainingError(f"the convolution {node.name} is not INT8")
    _check_zero_points(quantised)


def _check_zero_points(model: onnx.ModelProto) -> None:
    """TensorRT takes UINT8 for INT8 with no more than a warning."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        zero = constants[node.input[2]]
        if zero.data_type != TensorProto.INT8 or np.any(numpy_helper.to_array(zero)):
            raise TrainingError(f"{node.name} is not INT8 around zero")


def _check_images(model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]]) -> None:
    if not images:
        raise TrainingError("no calibration image: INT8 needs some to learn its ranges from")
    wanted = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    for image in images:
        if image.dtype != np.uint8 or image.shape != wanted:
            raise TrainingError(
                f"a calibration image is {image.dtype} {image.shape}, expected u8 {wanted}"
            )


def _counts(of: Mapping[str, int]) -> str:
    return " and ".join(f"{number} {kind}" for kind, number in of.items())
