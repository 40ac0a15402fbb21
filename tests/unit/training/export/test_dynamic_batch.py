"""A graph for any number of images: the same outputs, and no other open dimension."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.training.models import by_onnx_runtime
from training.errors import TrainingError
from training.export.dynamic_batch import open_batch_dimension
from training.export.float16 import convert_to_float16
from training.export.qdq import quantize_onnx

pytestmark = [pytest.mark.training, pytest.mark.slow]
SIZE = 128


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (count, 1, SIZE, SIZE), dtype=np.uint8)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_images_of_a_batch_do_not_affect_each_other(onnx_bytes: bytes, images: int) -> None:
    batch = pictures(images)
    alone = np.concatenate([by_onnx_runtime(onnx_bytes, image[None]) for image in batch])
    np.testing.assert_allclose(
        by_onnx_runtime(open_batch_dimension(onnx_bytes), batch), alone, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("images", [2, 3, 5])
def test_the_same_holds_in_f16(onnx_bytes: bytes, images: int) -> None:
    card, batch = convert_to_float16(open_batch_dimension(onnx_bytes)), pictures(images)
    alone = np.concatenate(
        [by_onnx_runtime(convert_to_float16(onnx_bytes), image[None]) for image in batch]
    )
    np.testing.assert_array_equal(by_onnx_runtime(card, batch[:1]), alone[:1])
    assert np.abs(by_onnx_runtime(card, batch)[:, 4:] - alone[:, 4:]).mean() < 0.001


@pytest.mark.parametrize("images", [2, 3, 5])
def test_the_same_holds_in_int8_and_f16(onnx_bytes: bytes, images: int) -> None:
    int8 = quantize_onnx(onnx_bytes, list(pictures(4)[:, None]))
    card, batch = convert_to_float16(open_batch_dimension(int8)), pictures(images)
    alone = np.concatenate(
        [by_onnx_runtime(convert_to_float16(int8), image[None]) for image in batch]
    )
    np.testing.assert_array_equal(by_onnx_runtime(card, batch[:1]), alone[:1])
    # Sums may round in another order; a value between two steps of INT8 then falls to either.
    assert np.abs(by_onnx_runtime(card, batch)[:, 4:] - alone[:, 4:]).mean() < 0.01


def test_only_the_number_of_images_is_open(onnx_bytes: bytes) -> None:
    graph = onnx.load_from_string(open_batch_dimension(onnx_bytes)).graph
    sizes = [
        [
            dimension.dim_param or dimension.dim_value
            for dimension in port.type.tensor_type.shape.dim
        ]
        for port in (*graph.input, *graph.output)
    ]
    assert sizes == [["images_at_once", 1, SIZE, SIZE], ["images_at_once", 18, 336]]
    constants = {it.name: numpy_helper.to_array(it) for it in graph.initializer}
    targets = [constants[node.input[1]] for node in graph.node if node.op_type == "Reshape"]
    assert targets
    assert all(target[0] == 0 and (target[1:] > 0).all() for target in targets)
    assert len(constants) == len(
        {name for node in graph.node for name in node.input} & {*constants}
    )


def test_an_output_for_one_image_is_refused() -> None:
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("images", [1, 4]), ("outputs", [1, 4]))
    ]
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    mean = helper.make_node("ReduceMean", ["images", "axes"], ["outputs"], "mean", keepdims=1)
    graph = helper.make_graph([mean], "g", ports[:1], ports[1:], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(TrainingError, match="outputs does not have the input's number of images"):
        open_batch_dimension(model.SerializeToString())


def test_a_reshape_across_images_is_refused() -> None:
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("images", [1, 4]), ("outputs", [4, 1]))
    ]
    target = numpy_helper.from_array(np.array([4, 1], np.int64), "target")
    mixing = helper.make_node("Reshape", ["images", "target"], ["outputs"], "mixing")
    graph = helper.make_graph([mixing], "g", ports[:1], ports[1:], [target])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(TrainingError, match=r"mixing makes \[4, 1\]"):
        open_batch_dimension(model.SerializeToString())
