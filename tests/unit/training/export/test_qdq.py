"""INT8 as ONNX: only the convolutions are quantized, and a wrong graph is detected."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_agent.core.findings import BOX_ROWS
from tests.support.training.models import blobs, by_onnx_runtime
from training.errors import TrainingError
from training.export.float16 import convert_to_float16
from training.export.onnx_graph import find_convolutions, find_head_nodes, read_onnx
from training.export.qdq import check_qdq, quantize_onnx

pytestmark = pytest.mark.training
CALIBRATION = [blobs(k, 128, 128)[None, None] for k in range(4)]
YOLO11N_CONVOLUTIONS, DISTINCT_INPUTS = 87, 79


def types_used(model: bytes) -> Iterator[tuple[str, str]]:
    """Yield operation and element type of every result whose shape inference succeeds."""
    inferred = onnx.shape_inference.infer_shapes(read_onnx(model)).graph
    types = {port.name: port.type.tensor_type.elem_type for port in inferred.value_info}
    for node in inferred.node:
        for output in node.output:
            if output in types:
                yield node.op_type, TensorProto.DataType.Name(types[output])


@pytest.fixture(scope="module")
def int8(onnx_bytes: bytes) -> bytes:
    return quantize_onnx(onnx_bytes, CALIBRATION)


def test_the_head_is_found_by_walking_and_has_the_decode_in_it(onnx_bytes: bytes) -> None:
    proto = read_onnx(onnx_bytes)
    head = find_head_nodes(proto)
    kinds = [node.op_type for node in proto.graph.node if node.name in head]
    assert (kinds.count("Softmax"), kinds.count("Sigmoid"), kinds.count("Conv")) == (1, 1, 1)
    assert len(find_convolutions(proto, head)) == YOLO11N_CONVOLUTIONS


def test_every_convolution_is_int8_around_zero_and_the_head_is_float(
    int8: bytes, onnx_bytes: bytes
) -> None:
    proto = read_onnx(int8)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("QuantizeLinear") == DISTINCT_INPUTS
    assert kinds.count("DequantizeLinear") == DISTINCT_INPUTS + YOLO11N_CONVOLUTIONS
    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and "weight" in node.name:
            stored, scale = constants[node.input[0]], constants[node.input[1]]
            assert stored.dtype == np.int8
            assert stored.min() >= -127
            assert len(scale) == len(stored)
    floats = find_head_nodes(read_onnx(onnx_bytes))
    assert floats <= {node.name for node in proto.graph.node}


def test_outputs_stay_close_and_the_bytes_are_the_same_each_time(
    int8: bytes, onnx_bytes: bytes
) -> None:
    exact, rounded = (by_onnx_runtime(model, CALIBRATION[0])[0] for model in (onnx_bytes, int8))
    apart = np.abs(exact[BOX_ROWS:] - rounded[BOX_ROWS:])
    assert 1e-4 < apart.mean() < 0.05
    assert len(int8) < 0.3 * len(onnx_bytes)
    assert quantize_onnx(onnx_bytes, CALIBRATION) == int8


def test_in_f16_all_but_the_decode_computes_in_f16(onnx_bytes: bytes, int8: bytes) -> None:
    for model, bound in ((onnx_bytes, 0.01), (int8, 0.1)):
        half = convert_to_float16(model)
        used = set(types_used(half))
        assert ("Conv", "FLOAT16") in used
        assert ("Softmax", "FLOAT") in used
        assert ("Add", "FLOAT") in used
        graph = onnx.load_from_string(half).graph
        assert [port.type.tensor_type.elem_type for port in (*graph.input, *graph.output)] == [
            TensorProto.UINT8,
            TensorProto.FLOAT,
        ]
        exact, rounded = (by_onnx_runtime(it, CALIBRATION[0]) for it in (model, half))
        assert np.abs(exact[:, BOX_ROWS:] - rounded[:, BOX_ROWS:]).mean() < bound
        assert len(half) < 0.55 * len(onnx_bytes)


def test_without_calibration_images_there_is_a_clear_error(onnx_bytes: bytes) -> None:
    with pytest.raises(TrainingError, match="no calibration image"):
        quantize_onnx(onnx_bytes, iter(()))


@pytest.mark.parametrize(
    "image",
    [np.zeros((1, 1, 128, 96), np.uint8), np.zeros((1, 1, 128, 128), np.float32)],
    ids=["another size", "floats"],
)
def test_a_calibration_image_of_another_form_is_refused(
    onnx_bytes: bytes, image: NDArray[np.uint8]
) -> None:
    with pytest.raises(TrainingError, match="a calibration image is"):
        quantize_onnx(onnx_bytes, [image])


def foreign() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["images"], ["outputs"], "relu")],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [1])],
    )
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"no model", "not an ONNX model"),
        (b"", "has no nodes"),
        (foreign(), "head is not YOLO's: it ends in Relu"),
    ],
    ids=["other bytes", "empty", "another network"],
)
def test_a_graph_that_is_not_yolo_is_refused(model: bytes, message: str) -> None:
    for act in (lambda: quantize_onnx(model, CALIBRATION), lambda: convert_to_float16(model)):
        with pytest.raises(TrainingError, match=message):
            act()


def test_a_missing_or_extra_quantization_is_detected(int8: bytes, onnx_bytes: bytes) -> None:
    exact = read_onnx(onnx_bytes)

    def spoil(kind: str) -> onnx.ModelProto:
        proto = read_onnx(int8)
        pairs = [n for n in proto.graph.node if n.op_type == "DequantizeLinear"]
        if kind == "one pair fewer":
            proto.graph.node.remove(pairs[0])
        elif kind == "a sum takes INT8":
            node = next(n for n in proto.graph.node if n.op_type == "Add")
            node.input[0] = pairs[0].output[0]
        elif kind == "a float convolution":
            node = next(n for n in proto.graph.node if n.op_type == "Conv")
            node.input[0] = "mul"
        else:
            zero = next(t for t in proto.graph.initializer if t.name == pairs[0].input[2])
            zero.CopyFrom(numpy_helper.from_array(np.uint8(128), zero.name))
        return proto

    for kind, message in {
        "one pair fewer": "165 DequantizeLinear in the INT8 graph, expected",
        "a sum takes INT8": "must be float and has an INT8 input",
        "a float convolution": "the convolution node_conv2d is not INT8",
        "unsigned": "is not INT8 around zero",
    }.items():
        with pytest.raises(TrainingError, match=message):
            check_qdq(spoil(kind), exact)
    check_qdq(read_onnx(int8), exact)
