"""The stage that adds INT8 graphs, calibrated on images of the frozen split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from edge_agent.core.findings import decode_findings
from hilum.catalog import CATALOG
from training.bundle.layout import (
    CARD_INT8,
    INT8_BIN,
    INT8_XML,
    ONNX_INT8,
)
from training.bundle.variants import ModelFiles
from training.config import Config, ExportConfig
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation.metrics import mean_average_precision
from training.export.artifacts import (
    Calibration,
    ExportArtifacts,
    ExportManifest,
    load_artifacts,
    save_artifacts,
)
from training.export.dynamic_batch import open_batch_dimension
from training.export.float16 import convert_to_float16
from training.export.onnx import (
    convert_to_openvino,
    export_onnx,
    serialize_ir,
)
from training.export.qdq import quantize_onnx
from training.models.network import load_model
from training.progress import ProgressCallback, ignore_progress
from training.train.checkpoints import WEIGHTS
from training.workflow.export import FOLDER
from training.workflow.run_inputs import check_same_weights, read_split, to_input

if TYPE_CHECKING:
    from training.export.int8 import Infer

    Metric = Callable[[Infer, Sequence[LabelledImage]], float]


def quantize_graphs(
    config: Config, on_progress: ProgressCallback = ignore_progress
) -> ExportArtifacts:
    """Add the INT8 graphs; calibration images come from the frozen split.

    Raises:
        TrainingError: nothing is exported yet, the split gives no image, or the graph cannot be
            quantized within the bounds.
    """
    exported = load_artifacts(config.out / FOLDER)
    settings = config.export
    entries, digest = read_split(config, settings.calibrate_on)
    check_calibration(config)
    # Read before the export, which takes seconds, so that an absent split is reported at once.
    checked = () if settings.max_drop is None else read_split(config, settings.control_on)[0]
    images = [
        to_input(entry, exported.manifest.input)[0]
        for entry in select_calibration_images(entries, settings.calibration_images)
    ]
    on_progress("quantize", 0, 3)
    onnx = _float_onnx(config, exported)
    record = Calibration(split=settings.calibrate_on, split_digest=digest, images=len(images))
    metric = _map50_metric(exported.manifest)
    int8, calibration = _quantize_openvino(settings, onnx, images, record, (checked, metric))
    on_progress("quantize", 1, 3)
    qdq = quantize_onnx(onnx, images)
    on_progress("quantize", 2, 3)
    members = dict(exported.members)
    members |= dict(zip((INT8_XML, INT8_BIN), serialize_ir(int8), strict=True))
    members |= {ONNX_INT8: qdq, CARD_INT8: convert_to_float16(open_batch_dimension(qdq))}
    # Engines of earlier graphs are none of these any more.
    graphs = ModelFiles(
        {path: content for path, content in members.items() if not path.endswith(".plan")},
        exported.manifest.input,
        exported.manifest.head,
    )
    made = exported.with_graphs(graphs)
    manifest = made.manifest.model_copy(update={"calibration": calibration, "inspections": ()})
    made = replace(made, manifest=manifest)
    save_artifacts(config.out / FOLDER, made)
    on_progress("quantize", 3, 3)
    return made


def _quantize_openvino(
    settings: ExportConfig,
    onnx: bytes,
    images: Sequence[NDArray[np.uint8]],
    record: Calibration,
    control: tuple[Sequence[LabelledImage], Metric],
) -> tuple[ov.Model, Calibration]:
    """Return the INT8 graph for OpenVINO, and `record` with what accuracy control found.

    `control` are the images and the metric of accuracy control.
    """
    # NNCF takes seconds to import; every other stage does without it.
    from training.export.int8 import quantize, quantize_with_accuracy_control  # noqa: PLC0415

    graph = convert_to_openvino(onnx)
    if settings.max_drop is None:
        int8 = quantize(
            graph,
            images,
            fast_bias_correction=settings.fast_bias_correction,
            symmetric=settings.symmetric,
        )
        return int8, record
    controlled = quantize_with_accuracy_control(
        graph,
        images,
        *control,
        settings.max_drop,
        fast_bias_correction=settings.fast_bias_correction,
        symmetric=settings.symmetric,
    )
    update = {
        "max_drop": settings.max_drop,
        "drop": round(controlled.drop, 6),
        "kept_float": controlled.kept_float,
    }
    return controlled.model, record.model_copy(update=update)


def select_calibration_images(
    entries: Sequence[LabelledImage], count: int
) -> Sequence[LabelledImage]:
    """Return the images that INT8 ranges are calibrated on, in the order of their ids' digests.

    A split is sorted by image id, and ids often begin with a site's or a year's name: the first
    images of a split may all be of one kind. Digests mix them, and the same split gives the same
    images everywhere.
    """

    def digest(entry: LabelledImage) -> bytes:
        return hashlib.sha256(entry.image_id.encode()).digest()

    return sorted(entries, key=digest)[:count]


def check_calibration(config: Config) -> None:
    """Check that there are calibration images.

    Raises:
        TrainingError: the number of calibration images is 0.
    """
    if not config.export.calibration_images:
        raise TrainingError(
            "export.calibration_images is 0: INT8 needs images to learn its ranges from",
            hint="300 of the real kind are a good number.",
        )


def _float_onnx(config: Config, exported: ExportArtifacts) -> bytes:
    """Export the f32 graph again: the exported file has its weights rounded to f16."""
    path = config.out / WEIGHTS
    check_same_weights(path, exported)
    spec = exported.manifest.input
    return export_onnx(load_model(path, config.train.architecture), spec.height, spec.width)


def _map50_metric(manifest: ExportManifest) -> Metric:
    """mAP@0.5 of whatever runs the graph, through the clinic's own letterbox and findings."""
    floors = [manifest.head.score_floor] * len(CATALOG)

    def metric(infer: Infer, entries: Sequence[LabelledImage]) -> float:
        found = []
        for entry in entries:
            batch, fit = to_input(entry, manifest.input)
            found.append(decode_findings(infer(batch)[0], fit, manifest.head, floors))
        return mean_average_precision(entries, found, 0.5)

    return metric
