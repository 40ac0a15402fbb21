"""Quantization of the OpenVINO graph to INT8 with NNCF.

Measured conditions for speed and accuracy (docs/benchmarks.md):

- Each SiLU is one Swish before quantization; as Multiply and Sigmoid it stays a float sub-graph.
- The head's decode, its DFL and the final Sigmoid stay float. They are named exactly, because NNCF
  does not report a pattern that matches nothing.
- Ranges cover all values in the calibration images. NNCF's default is the mean of each image's
  extremes, which cuts off rare bright findings: with it the 95th percentile of score errors was
  0.12, without it 0.045 (synthetic findings, YOLO11-n at 416).
- The quantized graph is checked (`int8_graph.check_quantized`), because NNCF does not report a
  convolution that it skips.
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

from edge_agent.core.findings import BOX_ROWS
from edge_agent.engines.runtimes.openvino_core import new_core
from training.data.box_overlap import pairwise_iou
from training.errors import TrainingError
from training.export.int8_graph import check_quantized, find_head_names, fuse_swish

PROBES: Final = 32
"""Calibration images that the two bias corrections are compared on."""
TOP: Final = 20
"""Anchors of each image that they are compared on."""

_EXACT: Final = {"INFERENCE_PRECISION_HINT": "f32"}
_PARAMETERS: Final = nncf.AdvancedQuantizationParameters(
    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
)

Checked = Any
"""An image to measure on, of the type that the metric takes."""
Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""u8 (1, 1, H, W) -> raw outputs, f32 (1, 4 + classes, anchors)."""


def quantize(
    model: ov.Model,
    calibration: Iterable[NDArray[np.uint8]],
    *,
    fast_bias_correction: bool | None = None,
    symmetric: bool = False,
) -> ov.Model:
    """Quantize a detector's float graph to INT8.

    Args:
        model: from `training.export.onnx.convert_to_openvino`; not changed.
        calibration: u8 of shape (1, 1, H, W) each, real radiographs; 300 are a good number.
        fast_bias_correction: True corrects biases by statistics of the float model (quick), False
            by running the partly quantized one (often better). None tries both and keeps the
            one closer to the float graph; see `measure_disagreement`.
        symmetric: give activations ranges around zero (NNCF's preset PERFORMANCE instead of MIXED).
            Quicker, but half of the range is unused where values are positive: check accuracy.

    Returns:
        The quantized graph, checked by `check_quantized`.

    Raises:
        TrainingError: there is no calibration image or one of the wrong shape, the graph has no
            SiLU, its head is not YOLO's, or it was not quantized as it should be.
    """
    images = list(calibration)
    _check_images(model, images)
    prepared = model.clone()
    fuse_swish(prepared)
    preset = _preset(symmetric)
    if fast_bias_correction is not None:
        return _quantize(prepared, images, preset, fast_bias_correction)
    return _choose_bias_correction(prepared, model, images, preset)[1]


@dataclass(frozen=True, slots=True)
class AccuracyControlledModel:
    """The graph from accuracy control, the drop of its metric, and the convolutions kept float."""

    model: ov.Model
    drop: float
    kept_float: tuple[str, ...]


def quantize_with_accuracy_control(
    model: ov.Model,
    calibration: Iterable[NDArray[np.uint8]],
    validation: Sequence[Checked],
    metric: Callable[[Infer, Sequence[Checked]], float],
    max_drop: float,
    *,
    fast_bias_correction: bool | None = None,
    symmetric: bool = False,
) -> AccuracyControlledModel:
    """Quantize, then return operations to float until the metric drops no further than allowed.

    NNCF ranks the operations and returns one after the other to float. The result is then measured
    on all of the validation images.

    Args:
        model: from `training.export.onnx.convert_to_openvino`; not changed.
        calibration: as `quantize` takes it.
        validation: images to measure on, of the type that `metric` takes.
        metric: takes a function that runs a graph on u8 (1, 1, H, W), and the images; higher values
            are better.
        max_drop: largest absolute drop of the metric.
        fast_bias_correction: as `quantize` takes it; by default the one that is closer before
            any operation is returned to float.
        symmetric: as `quantize` takes it.

    Raises:
        TrainingError: what `quantize` raises, no validation image, or the metric drops further
            whatever is returned to float.
    """
    images = list(calibration)
    _check_images(model, images)
    if not validation:
        raise TrainingError("no validation image: accuracy control needs some to measure on")
    prepared = model.clone()
    fuse_swish(prepared)
    preset, fast = _preset(symmetric), fast_bias_correction
    if fast is None:
        fast, _ = _choose_bias_correction(prepared, model, images, preset)

    def evaluate(compiled: ov.CompiledModel, items: Iterable[Checked]) -> tuple[float, None]:
        return metric(lambda batch: np.array(compiled(batch)[0]), list(items)), None

    with _quiet():
        made = nncf.quantize_with_accuracy_control(
            prepared.clone(),
            nncf.Dataset(images),
            nncf.Dataset(validation),
            evaluate,
            max_drop=max_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            preset=preset,
            subset_size=len(images),
            fast_bias_correction=fast,
            ignored_scope=nncf.IgnoredScope(names=find_head_names(prepared)),
            advanced_quantization_parameters=_PARAMETERS,
        )
    kept_float = check_quantized(made, prepared, allow_float=True)
    core = new_core()
    before, after = (
        evaluate(core.compile_model(graph, "CPU", _EXACT), validation)[0]
        for graph in (prepared, made)
    )
    if before - after > max_drop:
        raise TrainingError(
            f"INT8 loses {before - after:.4f} with {len(kept_float)} convolutions kept float; "
            f"max_drop is {max_drop:g}",
            hint="Allow more, calibrate on more images, or ship the float variants alone.",
        )
    return AccuracyControlledModel(made, before - after, kept_float)


def _choose_bias_correction(
    prepared: ov.Model,
    reference: ov.Model,
    images: Sequence[NDArray[np.uint8]],
    preset: nncf.QuantizationPreset,
) -> tuple[bool, ov.Model]:
    """Return whether the quick correction is closer to the float graph, and the closer graph."""
    made = {fast: _quantize(prepared, images, preset, fast) for fast in (False, True)}
    probes = images[:: max(1, len(images) // PROBES)]
    fast = min(made, key=lambda is_fast: measure_disagreement(made[is_fast], reference, probes))
    return fast, made[fast]


def _quantize(
    prepared: ov.Model,
    images: Sequence[NDArray[np.uint8]],
    preset: nncf.QuantizationPreset,
    fast_bias_correction: bool,
) -> ov.Model:
    with _quiet():
        quantized = nncf.quantize(
            prepared.clone(),
            nncf.Dataset(images),
            preset=preset,
            subset_size=len(images),
            fast_bias_correction=fast_bias_correction,
            ignored_scope=nncf.IgnoredScope(names=find_head_names(prepared)),
            advanced_parameters=_PARAMETERS,
        )
    check_quantized(quantized, prepared)
    return quantized


def _preset(symmetric: bool) -> nncf.QuantizationPreset:
    preset = nncf.QuantizationPreset
    return preset.PERFORMANCE if symmetric else preset.MIXED


def measure_disagreement(
    candidate: ov.Model, reference: ov.Model, images: Iterable[NDArray[np.uint8]]
) -> float:
    """Return the distance of a graph's outputs from the float graph's; 0 is equal.

    It is a mean over images and the `TOP` anchors of the reference's highest scores: the largest
    difference of a class's score, plus one minus the IoU of the boxes.

    Args:
        candidate: the graph to judge.
        reference: the float graph.
        images: u8 of shape (1, 1, H, W) each.
    """
    core = new_core()
    exact, other = (core.compile_model(m, "CPU", _EXACT) for m in (reference, candidate))
    means = []
    for image in images:
        expected, found = exact(image)[0][0], other(image)[0][0]
        top = np.argsort(-expected[BOX_ROWS:].max(axis=0), kind="stable")[:TOP]
        scores = np.abs(expected[BOX_ROWS:, top] - found[BOX_ROWS:, top]).max(axis=0)
        first, second = (_to_corners(outputs[:BOX_ROWS, top]) for outputs in (expected, found))
        means.append(float(np.mean(scores + 1 - pairwise_iou(first, second).diagonal())))
    return float(np.mean(means))


def _to_corners(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return boxes (4, K), given as centre and size, as corners (K, 4)."""
    centres, halves = boxes[:2], boxes[2:] / 2
    return np.concatenate([centres - halves, centres + halves]).T


def _check_images(model: ov.Model, images: Sequence[NDArray[np.uint8]]) -> None:
    if not images:
        raise TrainingError("no calibration image: INT8 needs some to set its ranges")
    expected = tuple(model.input(0).shape)
    for image in images:
        if image.dtype != np.uint8 or image.shape != expected:
            raise TrainingError(
                f"a calibration image is {image.dtype} {image.shape}, expected u8 {expected}"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence NNCF's log and progress bars, because the commands draw their own."""
    nncf.set_log_level(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
