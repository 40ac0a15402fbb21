"""The structure of a detector's OpenVINO graph: its head, and what must be INT8 in it.

NNCF reports neither an operation that it skips nor an ignored name that matches nothing, so the
quantized graph is compared with the structure of the float one.
"""

from __future__ import annotations

from typing import Final

import openvino as ov
from openvino import opset13 as ops

from training.errors import TrainingError

_ACTIVATIONS: Final = {"Swish", "HSwish", "Relu"}
_CONVOLUTIONS: Final = {"Convolution", "GroupConvolution"}
_MOVES: Final = {
    "Concat", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose",
    "Unsqueeze", "VariadicSplit",
}  # fmt: skip
"""Operations that only move or select values: quantized inputs stay quantized."""
_QUANTIZED: Final = _CONVOLUTIONS | {"Add", "Interpolate", "MatMul"}
"""Operations that NNCF gives quantized inputs on a CPU."""


def fuse_swish(model: ov.Model) -> int:
    """Rewrite every `x * Sigmoid(x)` in place to one Swish.

    `openvino.convert_model` does most of it; a graph that was read in another way may have none.
    Hardswish and ReLU are one operation already.

    Returns:
        The number of activations afterwards.

    Raises:
        TrainingError: the graph has no activation that is known, so it is no YOLO11.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Multiply":
            continue
        one, other = node.input_value(0), node.input_value(1)
        for x, factor in ((one, other), (other, one)):
            source = factor.get_node()
            if source.get_type_name() == "Sigmoid" and source.input_value(0) == x:
                swish = ops.swish(x)
                swish.set_friendly_name(node.get_friendly_name())
                node.output(0).replace(swish.output(0))
                break
    model.validate_nodes_and_infer_types()
    count = sum(1 for op in model.get_ops() if op.get_type_name() in _ACTIVATIONS)
    if count == 0:
        raise TrainingError("the graph has no SiLU, Hardswish or ReLU; is it a YOLO11?")
    return count


def find_head_names(model: ov.Model) -> list[str]:
    """Return the sorted names of all operations after the head's last convolutions.

    The walk goes from the result to the convolutions that give box distributions and class scores.
    The DFL is a convolution with one output channel, and is part of the decode.

    Raises:
        TrainingError: the walk found no Sigmoid, Softmax or DFL, so it is not YOLO's head.
    """
    decode: dict[str, ov.Node] = {}
    pending = [model.get_results()[0].input_value(0).get_node()]
    while pending:
        node = pending.pop()
        kind = node.get_type_name()
        is_dfl = kind == "Convolution" and node.get_output_shape(0)[1] == 1
        if kind == "Constant" or (kind in _CONVOLUTIONS and not is_dfl):
            continue
        if node.get_friendly_name() not in decode:
            decode[node.get_friendly_name()] = node
            pending += [port.get_source_output().get_node() for port in node.inputs()]
    kinds = [node.get_type_name() for node in decode.values()]
    if [kinds.count(kind) for kind in ("Sigmoid", "Softmax", "Convolution")] != [1, 1, 1]:
        raise TrainingError(f"the head is not YOLO's: {sorted(set(kinds))}")
    return sorted(decode)


def find_expected_quantizers(model: ov.Model) -> set[str]:
    """Return the names of the operations in a float graph whose results must be quantized.

    These are the nearest operations before each convolution, matrix product, sum or resize outside
    the head; operations that only move values are skipped.
    """
    head = set(find_head_names(model))
    expected: set[str] = set()
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _QUANTIZED or node.get_friendly_name() in head:
            continue
        if node.get_type_name() == "Add" and any(map(_is_constant, _inputs(node))):
            continue  # a bias
        data = _inputs(node)[:1] if node.get_type_name() == "Interpolate" else _inputs(node)
        for source in data:
            expected |= _producers(source)
    return expected


def check_quantized(
    quantized: ov.Model, float_model: ov.Model, *, allow_float: bool = False
) -> tuple[str, ...]:
    """Check that exactly the operations that should be INT8 are INT8.

    1. The FakeQuantize operations are those that the float graph's structure requires.
    2. Every convolution outside the head has INT8 weights; the DFL's are float.

    Args:
        quantized: the graph to check.
        float_model: the graph that it was made from.
        allow_float: accuracy control may have left some of both float.

    Returns:
        The names of the convolutions that are float.

    Raises:
        TrainingError: a rule does not hold.
    """
    expected = {f"{name}/fq_output_0" for name in find_expected_quantizers(float_model)}
    present = {
        op.get_friendly_name() for op in quantized.get_ops() if op.get_type_name() == "FakeQuantize"
    }
    if not (present <= expected if allow_float else present == expected):
        raise TrainingError(
            f"{len(present)} FakeQuantize, expected {len(expected)}; "
            f"missing {sorted(expected - present)[:5]}, unexpected {sorted(present - expected)[:5]}"
        )
    head = set(find_head_names(quantized))
    kinds = {
        op.get_friendly_name(): _has_int8_weights(op)
        for op in quantized.get_ops()
        if op.get_type_name() in _CONVOLUTIONS
    }
    kept_float = tuple(
        sorted(name for name, int8 in kinds.items() if not int8 and name not in head)
    )
    wrong = [name for name, is_int8 in kinds.items() if is_int8 and name in head]
    if not allow_float:
        wrong += kept_float
    if wrong:
        raise TrainingError(f"convolutions with weights of the wrong kind: {wrong[:5]}")
    return kept_float


def _inputs(node: ov.Node) -> list[ov.Node]:
    return [port.get_source_output().get_node() for port in node.inputs()]


def _is_constant(node: ov.Node) -> bool:
    return bool(node.get_type_name() == "Constant")


def _producers(node: ov.Node) -> set[str]:
    """Return the nearest operations at or before `node` that compute rather than move values."""
    if _is_constant(node):
        return set()
    if node.get_type_name() not in _MOVES:
        return {node.get_friendly_name()}
    data = _inputs(node) if node.get_type_name() == "Concat" else _inputs(node)[:1]
    return set().union(*map(_producers, data))


def _has_int8_weights(convolution: ov.Node) -> bool:
    """Return whether the weights are an INT8 constant, behind conversion, scale and shape."""
    node = _inputs(convolution)[1]
    while node.get_type_name() in {"Multiply", "Subtract", "Convert", "Reshape"}:
        node = _inputs(node)[0]
    return _is_constant(node) and node.get_element_type().to_string() == "i8"
