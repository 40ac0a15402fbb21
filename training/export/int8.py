"""INT8 by NNCF, so that it is fast on a processor and as accurate as INT8 can be.

What matters (measured; see docs/benchmarks.md):

- each SiLU is one Swish before quantising: as Multiply and Sigmoid it stays a float sub-graph;
- the head's decode, its DFL and the final Sigmoid stay float, by their exact names: a pattern that
  misses is silent;
- ranges reach over all that calibration showed. NNCF's default is the mean of each image's
  extremes, which cuts off rare bright findings: the 95th percentile of score errors was 0.12 with
  it and is 0.045 without (synthetic findings, YOLO11-n at 416);
- afterwards the graph is inspected, since a quantiser that skips a convolution is silent too.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import nncf
import numpy as np
import openvino as ov
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from numpy.typing import NDArray
from openvino import opset13 as ops

from edge_agent.core.findings import BOX_ROWS
from edge_agent.engines.runtimes.openvino_core import new_core
from training.errors import TrainingError

PROBES: Final = 32
TOP: Final = 20

_ACTIVATIONS: Final = {"Swish", "HSwish", "Relu"}
_CONVOLUTIONS: Final = {"Convolution", "GroupConvolution"}
_MOVES: Final = {
    "Concat", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose",
    "Unsqueeze", "VariadicSplit",
}  # fmt: skip
"""Operations that only move or pick values: what is quantised before them stays so."""
_QUANTISED: Final = _CONVOLUTIONS | {"Add", "Interpolate", "MatMul"}
"""Operations that NNCF gives quantised inputs on a CPU."""
_EXACT: Final = {"INFERENCE_PRECISION_HINT": "f32"}
_PARAMETERS: Final = nncf.AdvancedQuantizationParameters(
    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
)

Checked = Any
"""One image to measure on, whatever the metric makes of it."""
Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""u8 (1, 1, H, W) -> raw outputs, f32 (1, 4 + classes, anchors)."""


def quantize(
    model: ov.Model,
    calibration: Iterable[NDArray[np.uint8]],
    *,
    fast_bias_correction: bool | None = None,
    symmetric: bool = False,
) -> ov.Model:
    """Quantise a detector's float graph to INT8.

    Args:
        model: from `training.export.onnx.to_openvino`; left as it is.
        calibration: u8 of shape (1, 1, H, W) each, of the real kind; 300 are a good number.
        fast_bias_correction: correct biases by statistics of the float model (quick) or by running
            the partly quantised one (often better). By default both are made, and the one that
            stays closer to the float graph is kept; see `disagreement`.
        symmetric: give activations ranges around zero too (NNCF's preset PERFORMANCE instead of
            MIXED). Quicker, and wasteful of values where most are positive: check the accuracy.

    Returns:
        The quantised graph, checked by `check_quantised`.

    Raises:
        TrainingError: no calibration image, one of the wrong form, a graph with no SiLU or whose
            head is not YOLO's, or one that was not quantised as it should be.
    """
    images = list(calibration)
    _check_images(model, images)
    prepared = model.clone()
    fuse_swish(prepared)
    preset = _preset(symmetric)
    if fast_bias_correction is not None:
        return _quantize(prepared, images, preset, fast_bias_correction)
    return _closer_way(prepared, model, images, preset)[1]


@dataclass(frozen=True, slots=True)
class AccuracyControlledModel:
    """What accuracy control gave: the graph, how far it fell, and what it left float for that."""

    model: ov.Model
    drop: float
    left_float: tuple[str, ...]


def quantize_controlled(
    model: ov.Model,
    calibration: Iterable[NDArray[np.uint8]],
    validation: Sequence[Checked],
    metric: Callable[[Infer, Sequence[Checked]], float],
    max_drop: float,
    *,
    fast_bias_correction: bool | None = None,
    symmetric: bool = False,
) -> AccuracyControlledModel:
    """Quantise, then leave the most harmful operations float until the metric holds.

    NNCF ranks the operations and takes INT8 back from one after the other; what came out is then
    measured here, on all of the validation images.

    Args:
        model: from `training.export.onnx.to_openvino`; left as it is.
        calibration: as `quantize` takes it.
        validation: images to measure on, whatever `metric` makes of them.
        metric: from a function that runs a graph on u8 (1, 1, H, W), and images, to a figure that
            is better the higher it is.
        max_drop: how far the figure may fall, absolutely.
        fast_bias_correction: as `quantize` takes it; by default the way that is closer before
            anything is left float.
        symmetric: as `quantize` takes it.

    Raises:
        TrainingError: what `quantize` raises, no validation image, or the figure falls further
            however much is left float.
    """
    images = list(calibration)
    _check_images(model, images)
    if not validation:
        raise TrainingError("no validation image: accuracy control needs some to measure on")
    prepared = model.clone()
    fuse_swish(prepared)
    preset, fast = _preset(symmetric), fast_bias_correction
    if fast is None:
        fast, _ = _closer_way(prepared, model, images, preset)

    def measured(compiled: ov.CompiledModel, items: Iterable[Checked]) -> tuple[float, None]:
        return metric(lambda batch: np.array(compiled(batch)[0]), list(items)), None

    with _quiet():
        made = nncf.quantize_with_accuracy_control(
            prepared.clone(),
            nncf.Dataset(images),
            nncf.Dataset(validation),
            measured,
            max_drop=max_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            preset=preset,
            subset_size=len(images),
            fast_bias_correction=fast,
            ignored_scope=nncf.IgnoredScope(names=head_names(prepared)),
            advanced_quantization_parameters=_PARAMETERS,
        )
    left_float = check_quantised(made, prepared, may_leave=True)
    core = new_core()
    before, after = (
        measured(core.compile_model(graph, "CPU", _EXACT), validation)[0]
        for graph in (prepared, made)
    )
    if before - after > max_drop:
        raise TrainingError(
            f"INT8 loses {before - after:.4f} with {len(left_float)} convolutions left float; "
            f"max_drop is {max_drop:g}",
            hint="Allow more, calibrate on more images, or ship the float variants alone.",
        )
    return AccuracyControlledModel(made, before - after, left_float)


def _closer_way(
    prepared: ov.Model,
    reference: ov.Model,
    images: Sequence[NDArray[np.uint8]],
    preset: nncf.QuantizationPreset,
) -> tuple[bool, ov.Model]:
    """Whether the quick correction of biases stays closer to the float graph, and what it gives."""
    made = {fast: _quantize(prepared, images, preset, fast) for fast in (False, True)}
    probes = images[:: max(1, len(images) // PROBES)]
    fast = min(made, key=lambda way: disagreement(made[way], reference, probes))
    return fast, made[fast]


def _quantize(
    prepared: ov.Model,
    images: Sequence[NDArray[np.uint8]],
    preset: nncf.QuantizationPreset,
    fast_bias_correction: bool,
) -> ov.Model:
    with _quiet():
        quantised = nncf.quantize(
            prepared.clone(),
            nncf.Dataset(images),
            preset=preset,
            subset_size=len(images),
            fast_bias_correction=fast_bias_correction,
            ignored_scope=nncf.IgnoredScope(names=head_names(prepared)),
            advanced_parameters=_PARAMETERS,
        )
    check_quantised(quantised, prepared)
    return quantised


def _preset(symmetric: bool) -> nncf.QuantizationPreset:
    preset = nncf.QuantizationPreset
    return preset.PERFORMANCE if symmetric else preset.MIXED


def disagreement(
    candidate: ov.Model, reference: ov.Model, images: Iterable[NDArray[np.uint8]]
) -> float:
    """How far a graph is from the float one where that one is most certain; 0 is equal.

    Mean over images and the `TOP` anchors of the reference's highest scores: largest difference of
    a class's score, plus one minus the overlap of the boxes.
    """
    core = new_core()
    exact, other = (core.compile_model(m, "CPU", _EXACT) for m in (reference, candidate))
    means = []
    for image in images:
        wanted, got = exact(image)[0][0], other(image)[0][0]
        top = np.argsort(-wanted[BOX_ROWS:].max(axis=0), kind="stable")[:TOP]
        scores = np.abs(wanted[BOX_ROWS:, top] - got[BOX_ROWS:, top]).max(axis=0)
        means.append(float(np.mean(scores + 1 - _overlaps(wanted[:4, top], got[:4, top]))))
    return float(np.mean(means))


def _overlaps(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of boxes (4, K) given as centre and size, pair by pair."""
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    shared = (high - low).clip(min=0).prod(axis=0)
    overlap: NDArray[np.float32] = shared / (a[2:].prod(axis=0) + b[2:].prod(axis=0) - shared)
    return overlap


def fuse_swish(model: ov.Model) -> int:
    """Rewrite every `x * Sigmoid(x)` in place to one Swish; the number of activations afterwards.

    `openvino.convert_model` does most of it; a graph read in another way may have none. A network
    trained with Hardswish or ReLU has its one operation already.

    Raises:
        TrainingError: the graph has neither at all, so it is not the network we think it is.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Multiply":
            continue
        one, other = node.input_value(0), node.input_value(1)
        for x, gate in ((one, other), (other, one)):
            source = gate.get_node()
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


def head_names(model: ov.Model) -> list[str]:
    """Names of all operations after the detection head's last convolutions, sorted.

    Walks from the result to the convolutions that give box distributions and class scores. The
    DFL is a convolution too, with one output channel, and belongs to the decode.

    Raises:
        TrainingError: the walk met no Sigmoid, no Softmax or no DFL, so it is not YOLO's head.
    """
    found: dict[str, ov.Node] = {}
    waiting = [model.get_results()[0].input_value(0).get_node()]
    while waiting:
        node = waiting.pop()
        kind = node.get_type_name()
        is_dfl = kind == "Convolution" and node.get_output_shape(0)[1] == 1
        if kind == "Constant" or (kind in _CONVOLUTIONS and not is_dfl):
            continue
        if node.get_friendly_name() not in found:
            found[node.get_friendly_name()] = node
            waiting += [port.get_source_output().get_node() for port in node.inputs()]
    kinds = [node.get_type_name() for node in found.values()]
    if [kinds.count(kind) for kind in ("Sigmoid", "Softmax", "Convolution")] != [1, 1, 1]:
        raise TrainingError(f"the head is not YOLO's: {sorted(set(kinds))}")
    return sorted(found)


def expected_quantisers(model: ov.Model) -> set[str]:
    """Names of the operations in a float graph whose results must be quantised.

    These are the nearest ones before each convolution, matrix product, sum or resize outside the
    head, where operations that only move values do not count.
    """
    head = set(head_names(model))
    expected: set[str] = set()
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _QUANTISED or node.get_friendly_name() in head:
            continue
        if node.get_type_name() == "Add" and any(map(_is_constant, _inputs(node))):
            continue  # A bias.
        data = _inputs(node)[:1] if node.get_type_name() == "Interpolate" else _inputs(node)
        for source in data:
            expected |= _producers(source)
    return expected


def check_quantised(
    quantised: ov.Model, float_model: ov.Model, *, may_leave: bool = False
) -> tuple[str, ...]:
    """Raise TrainingError unless exactly what should be INT8 is INT8.

    1. The FakeQuantize operations are those that the float graph's structure asks for.
    2. Every convolution outside the head has INT8 weights; the DFL's are float.

    With `may_leave` some of both may be missing, as accuracy control leaves them; the names of
    the convolutions left float are returned.
    """
    expected = {f"{name}/fq_output_0" for name in expected_quantisers(float_model)}
    present = {
        op.get_friendly_name() for op in quantised.get_ops() if op.get_type_name() == "FakeQuantize"
    }
    if not (present <= expected if may_leave else present == expected):
        raise TrainingError(
            f"{len(present)} FakeQuantize, expected {len(expected)}; "
            f"missing {sorted(expected - present)[:5]}, unexpected {sorted(present - expected)[:5]}"
        )
    head = set(head_names(quantised))
    kinds = {
        op.get_friendly_name(): _has_int8_weights(op)
        for op in quantised.get_ops()
        if op.get_type_name() in _CONVOLUTIONS
    }
    left = tuple(sorted(name for name, int8 in kinds.items() if not int8 and name not in head))
    wrong = [name for name, int8 in kinds.items() if int8 and name in head]
    if not may_leave:
        wrong += left
    if wrong:
        raise TrainingError(f"convolutions with weights of the wrong kind: {wrong[:5]}")
    return left


def _inputs(node: ov.Node) -> list[ov.Node]:
    return [port.get_source_output().get_node() for port in node.inputs()]


def _is_constant(node: ov.Node) -> bool:
    return bool(node.get_type_name() == "Constant")


def _producers(node: ov.Node) -> set[str]:
    """The nearest operations at or before `node` that compute rather than move values."""
    if _is_constant(node):
        return set()
    if node.get_type_name() not in _MOVES:
        return {node.get_friendly_name()}
    data = _inputs(node) if node.get_type_name() == "Concat" else _inputs(node)[:1]
    return set().union(*map(_producers, data))


def _has_int8_weights(convolution: ov.Node) -> bool:
    """Whether the weights come from an INT8 constant, through conversion, scale and shape."""
    node = _inputs(convolution)[1]
    while node.get_type_name() in {"Multiply", "Subtract", "Convert", "Reshape"}:
        node = _inputs(node)[0]
    return _is_constant(node) and node.get_element_type().to_string() == "i8"


def _check_images(model: ov.Model, images: Sequence[NDArray[np.uint8]]) -> None:
    if not images:
        raise TrainingError("no calibration image: INT8 needs some to learn its ranges from")
    wanted = tuple(model.input(0).shape)
    for image in images:
        if image.dtype != np.uint8 or image.shape != wanted:
            raise TrainingError(
                f"a calibration image is {image.dtype} {image.shape}, expected u8 {wanted}"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF logs and draws progress bars by itself; the commands draw their own."""
    nncf.set_log_level(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
