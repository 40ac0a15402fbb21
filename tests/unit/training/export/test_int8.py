"""INT8 where it should be, float where it should be, and wrong graphs are detected."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import nncf
import numpy as np
import openvino as ov
import pytest
import torch
from numpy.typing import NDArray
from openvino import opset13 as ops
from ultralytics.nn.tasks import DetectionModel

from tests.support.training.models import blobs
from training.errors import TrainingError
from training.export.int8 import (
    Infer,
    measure_disagreement,
    quantize,
    quantize_with_accuracy_control,
)
from training.export.int8_graph import (
    check_quantized,
    find_expected_quantizers,
    find_head_names,
    fuse_swish,
)
from training.export.onnx import convert_to_openvino, export_onnx

pytestmark = [pytest.mark.training, pytest.mark.slow]
CALIBRATION = [blobs(k, 128, 128)[None, None] for k in range(4)]
YOLO11N_SILUS = 77


@pytest.fixture(scope="module")
def quantized(float_graph: ov.Model) -> ov.Model:
    return quantize(float_graph, CALIBRATION, fast_bias_correction=True)


def count(model: ov.Model, kind: str) -> int:
    return sum(1 for op in model.get_ops() if op.get_type_name() == kind)


def run(model: ov.Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs: NDArray[np.float32] = compiled(pixels)[0]
    return outputs


def by_nncf(model: ov.Model, left_out: list[str]) -> ov.Model:
    """NNCF's own work, with ranges from one image and no correction: only its structure counts."""
    return nncf.quantize(
        model.clone(),
        nncf.Dataset(CALIBRATION[:1]),
        subset_size=1,
        ignored_scope=nncf.IgnoredScope(names=left_out),
        advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
    )


def test_every_silu_becomes_one_swish_and_the_outputs_stay(onnx_bytes: bytes) -> None:
    graph = ov.Core().read_model(onnx_bytes)
    before = run(graph, CALIBRATION[0])
    assert (count(graph, "Swish"), count(graph, "Sigmoid")) == (0, YOLO11N_SILUS + 1)
    assert fuse_swish(graph) == YOLO11N_SILUS
    assert count(graph, "Sigmoid") == 1
    after = run(graph, CALIBRATION[0])
    np.testing.assert_allclose(after[:, 4:], before[:, 4:], atol=1e-3)
    assert fuse_swish(graph) == YOLO11N_SILUS


def test_a_gate_on_another_value_is_no_silu() -> None:
    x, y = ops.parameter([1, 4], np.float32), ops.parameter([1, 4], np.float32)
    graph = ov.Model([ops.multiply(x, ops.sigmoid(y))], [x, y])
    with pytest.raises(TrainingError, match="no SiLU"):
        fuse_swish(graph)
    assert count(graph, "Multiply") == 1


def test_the_head_is_all_after_the_last_convolutions(float_graph: ov.Model) -> None:
    names = set(find_head_names(float_graph))
    kinds = [op.get_type_name() for op in float_graph.get_ops() if op.get_friendly_name() in names]
    assert [kinds.count(kind) for kind in ("Sigmoid", "Softmax", "Convolution")] == [1, 1, 1]
    assert not {"Swish", "GroupConvolution", "MatMul", "Constant", "Parameter"} & set(kinds)


def test_a_graph_without_that_head_is_refused() -> None:
    x = ops.parameter([1, 4], np.float32)
    with pytest.raises(TrainingError, match="the head is not YOLO's"):
        find_head_names(ov.Model([ops.relu(x)], [x]))


def test_quantized_is_exactly_what_should_be(float_graph: ov.Model, quantized: ov.Model) -> None:
    expected = find_expected_quantizers(float_graph)
    assert count(quantized, "FakeQuantize") == len(expected) == 101
    assert not expected & set(find_head_names(float_graph))
    assert count(quantized, "Swish") == YOLO11N_SILUS
    check_quantized(quantized, float_graph)


def test_the_float_graph_is_left_alone(float_graph: ov.Model, quantized: ov.Model) -> None:
    assert count(float_graph, "FakeQuantize") == 0


def test_a_convolution_that_stayed_float_is_detected(float_graph: ov.Model) -> None:
    depthwise = [op for op in float_graph.get_ops() if op.get_type_name() == "GroupConvolution"]
    left_out = depthwise[-1].get_friendly_name()
    lazy = by_nncf(float_graph, [*find_head_names(float_graph), left_out])
    with pytest.raises(TrainingError, match=r"FakeQuantize, expected 101; missing \['node"):
        check_quantized(lazy, float_graph)


def test_a_quantized_head_is_detected(float_graph: ov.Model) -> None:
    eager = by_nncf(float_graph, [])
    with pytest.raises(TrainingError, match=r"FakeQuantize, expected 101; .*unexpected \["):
        check_quantized(eager, float_graph)


def test_without_calibration_images_there_is_a_clear_error(float_graph: ov.Model) -> None:
    with pytest.raises(TrainingError, match="no calibration image"):
        quantize(float_graph, iter(()))


@pytest.mark.parametrize(
    "image",
    [np.zeros((1, 1, 128, 96), np.uint8), np.zeros((1, 1, 128, 128), np.float32)],
    ids=["another size", "floats"],
)
def test_a_calibration_image_of_another_form_is_refused(
    float_graph: ov.Model, image: NDArray[np.uint8]
) -> None:
    with pytest.raises(TrainingError, match="a calibration image is"):
        quantize(float_graph, [*CALIBRATION, image])


def test_disagreement_is_nought_for_the_same_graph_and_grows(
    float_graph: ov.Model, quantized: ov.Model
) -> None:
    assert measure_disagreement(float_graph, float_graph, CALIBRATION) == pytest.approx(0, abs=1e-5)
    assert 0.001 < measure_disagreement(quantized, float_graph, CALIBRATION) < 1


TINY = {
    "nc": 14,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "SPPF", [16]]],
    "head": [[[1, 2], 1, "Detect", ["nc"]]],
}
"""A YOLO of a few convolutions: the slower correction runs parts of the network for each."""


def test_by_default_the_closer_of_both_corrections_is_kept() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DetectionModel(copy.deepcopy(TINY), ch=1, verbose=False).eval()
    graph = convert_to_openvino(export_onnx(model, 128, 128))
    made = [quantize(graph, CALIBRATION, fast_bias_correction=fast) for fast in (False, True)]
    apart = [measure_disagreement(candidate, graph, CALIBRATION) for candidate in made]
    assert apart[0] != apart[1]
    kept = measure_disagreement(quantize(graph, CALIBRATION), graph, CALIBRATION)
    assert kept == pytest.approx(min(apart), rel=1e-6)


Pair = tuple[NDArray[np.uint8], NDArray[np.float32]]


def closeness(infer: Infer, pairs: Sequence[Pair]) -> float:
    """Return how close a graph's scores are to the float graph's; 1 is equal."""
    apart = [np.abs(infer(image) - wanted)[:, 4:].mean() for image, wanted in pairs]
    return 1 - float(np.mean(apart))


def tiny() -> tuple[ov.Model, list[Pair]]:
    """A small float graph, and what it says of each calibration picture."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DetectionModel(copy.deepcopy(TINY), ch=1, verbose=False).eval()
    graph = convert_to_openvino(export_onnx(model, 128, 128))
    references = [(image, run(graph, image)) for image in CALIBRATION]
    return graph, references


def test_accuracy_control_leaves_float_what_costs_too_much() -> None:
    graph, references = tiny()
    plain = quantize(graph, CALIBRATION, fast_bias_correction=True)
    cost = 1 - closeness(lambda image: run(plain, image), references)
    kept = quantize_with_accuracy_control(graph, CALIBRATION, references, closeness, 2 * cost)
    assert kept.kept_float == ()
    assert count(kept.model, "FakeQuantize") == count(plain, "FakeQuantize")
    strict = quantize_with_accuracy_control(graph, CALIBRATION, references, closeness, cost / 2)
    assert strict.kept_float
    assert strict.drop <= cost / 2
    with pytest.raises(TrainingError, match="no validation image"):
        quantize_with_accuracy_control(graph, CALIBRATION, [], closeness, 0.1)


@pytest.mark.parametrize("fast", [False, True])
def test_accuracy_control_corrects_biases_as_stated(fast: bool) -> None:
    graph, references = tiny()
    plain = quantize(graph, CALIBRATION, fast_bias_correction=fast)
    kept = quantize_with_accuracy_control(
        graph, CALIBRATION, references, closeness, 0.9, fast_bias_correction=fast
    )
    wanted = measure_disagreement(plain, graph, CALIBRATION)
    assert measure_disagreement(kept.model, graph, CALIBRATION) == pytest.approx(wanted, rel=1e-6)
    if not fast:
        assert wanted != measure_disagreement(
            quantize(graph, CALIBRATION, fast_bias_correction=True), graph, CALIBRATION
        )


def test_hardswish_with_ranges_around_zero(float_graph: ov.Model) -> None:
    graph = float_graph.clone()
    for op in graph.get_ordered_ops():
        if op.get_type_name() == "Swish":
            hard = ops.hswish(op.input_value(0))
            hard.set_friendly_name(op.get_friendly_name())
            op.output(0).replace(hard.output(0))
    symmetric = quantize(graph, CALIBRATION, fast_bias_correction=True, symmetric=True)
    assert count(symmetric, "HSwish") == YOLO11N_SILUS
    assert count(symmetric, "FakeQuantize") == 101
    for op in symmetric.get_ops():
        if op.get_type_name() == "FakeQuantize":
            low, high = (op.input_value(k).get_node().data.flatten() for k in (1, 2))
            assert np.all((low == 0) | np.isclose(-low / high, 128 / 127, rtol=0.01))
