"""The stages from weights to exported graphs and their parity result, one for each command.

Each reads the files of the one before from the run's folder, and writes its own there:

    weights.pt -> export -> export/  -> quantize -> export/ -> compile (GPUs) -> export/
                                                               parity -> parity.json
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.core.findings import decode_findings
from edge_agent.core.geometry import Letterbox
from edge_agent.engines.runtimes.openvino import has_native_bf16
from edge_agent.engines.runtimes.tensorrt_runtime import open_runtime
from edge_agent.imaging.letterbox import apply_letterbox
from hilum.catalog import CATALOG
from hilum.manifest import HeadSpec, InputSpec
from training.bundle.layout import (
    CARD_FP16,
    CARD_INT8,
    FLOAT_BIN,
    FLOAT_XML,
    INT8_BIN,
    INT8_XML,
    ONNX,
    ONNX_INT8,
)
from training.bundle.measuring import measuring_engine
from training.bundle.variants import ModelFiles
from training.bundle.writer import draft_bundle
from training.config import Config
from training.data import dataset, splits
from training.data.atomic_files import explain_write_errors, replace_files
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation import parity
from training.evaluation.detectors import Detector, detect_all, engine_detector, network_detector
from training.evaluation.metrics import mean_average_precision
from training.evaluation.operating_points import ThresholdRule
from training.evaluation.parity import ParityResult, ParitySide
from training.export.artifacts import (
    Calibration,
    ExportArtifacts,
    ExportManifest,
    digest_files,
    load_artifacts,
    save_artifacts,
)
from training.export.dynamic_batch import open_batch_dimension
from training.export.float16 import convert_to_float16
from training.export.int8 import Infer, quantize, quantize_with_accuracy_control
from training.export.onnx import (
    convert_to_openvino,
    export_float_ir,
    export_onnx,
    serialize_ir,
    store_weights_as_float16,
)
from training.export.qdq import quantize_onnx
from training.export.tensorrt import build_engines
from training.models.network import load_model
from training.progress import ProgressCallback, ignore_progress
from training.train.checkpoints import WEIGHTS
from training.train.distributed import choose_device

FOLDER: Final = "export"
PARITY: Final = "parity.json"


def export(config: Config, on_progress: ProgressCallback = ignore_progress) -> ExportArtifacts:
    """Write the float graphs of the run's weights; graphs of earlier weights are removed.

    Raises:
        TrainingError: there are no weights, or they cannot be exported.
    """
    path = config.out / WEIGHTS
    if not path.is_file():
        raise TrainingError(f"there are no weights {path}", hint="Run `hilum-train run` first.")
    size = config.train.input_size
    on_progress("export", 0, 3)
    onnx = export_onnx(load_model(path, config.train.architecture), size, size)
    on_progress("export", 1, 3)
    members = {
        ONNX: store_weights_as_float16(onnx),
        CARD_FP16: convert_to_float16(open_batch_dimension(onnx)),
    }
    if config.export.float_ir:
        members |= dict(zip((FLOAT_XML, FLOAT_BIN), export_float_ir(onnx), strict=True))
    on_progress("export", 2, 3)
    manifest = ExportManifest(
        weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        input=InputSpec(height=size, width=size),
        head=HeadSpec(),
        files=digest_files(members),
    )
    exported = ExportArtifacts(manifest, members)
    save_artifacts(config.out / FOLDER, exported)
    on_progress("export", 3, 3)
    return exported


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
    images = [
        to_input(entry, exported.manifest.input)[0]
        for entry in entries[: settings.calibration_images]
    ]
    on_progress("quantize", 0, 3)
    onnx = _float_onnx(config, exported)
    calibration = Calibration(split=settings.calibrate_on, split_digest=digest, images=len(images))
    graph = convert_to_openvino(onnx)
    if settings.max_drop is None:
        int8 = quantize(
            graph,
            images,
            fast_bias_correction=settings.fast_bias_correction,
            symmetric=settings.symmetric,
        )
    else:
        checked, _ = read_split(config, settings.control_on)
        controlled = quantize_with_accuracy_control(
            graph,
            images,
            checked,
            _map50_metric(exported.manifest),
            settings.max_drop,
            fast_bias_correction=settings.fast_bias_correction,
            symmetric=settings.symmetric,
        )
        int8 = controlled.model
        calibration = calibration.model_copy(
            update={
                "max_drop": settings.max_drop,
                "drop": round(controlled.drop, 6),
                "kept_float": controlled.kept_float,
            }
        )
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


def compile_engines(
    config: Config,
    capabilities: Sequence[str] = (),
    on_progress: ProgressCallback = ignore_progress,
) -> ExportArtifacts:
    """Add TensorRT engines for stated compute capabilities; needs no GPU.

    Raises:
        TrainingError: nothing is exported yet, or no engine came out.
        EngineFailed: tensorrt_rtx is not installed, or cannot compile for one of them.
    """
    runtime = open_runtime("tensorrt_rtx")
    exported = load_artifacts(config.out / FOLDER)
    wanted = tuple(capabilities) or config.export.capabilities
    built = build_engines(exported.graphs, wanted, runtime, on_progress)
    made = exported.with_graphs(built.graphs)
    manifest = made.manifest.model_copy(update={"inspections": built.inspections})
    made = replace(made, manifest=manifest)
    save_artifacts(config.out / FOLDER, made)
    return made


def check_parity(config: Config, on_progress: ProgressCallback = ignore_progress) -> ParityResult:
    """Compare every exported variant with torch; the result is written even if a bound is broken.

    Raises:
        TrainingError: nothing is exported yet, the weights are others than those exported, a split
            is not as it must be, the disk is full, the run's device is not here, or a bound was not
            kept; then the message names bound and value.
    """
    exported = load_artifacts(config.out / FOLDER)
    weights = config.out / WEIGHTS
    _check_same_weights(weights, exported)
    manifest, settings = exported.manifest, config.evaluate
    test, digest = read_split(config, settings.split)
    valid, _ = read_split(config, settings.choose_on)
    device, rule = str(choose_device(config.train.device)), threshold_rule(config)

    def side(name: str, detector: Detector) -> ParitySide:
        chosen_on = detect_all(valid, detector, on_image=partial(on_progress, f"{name}: points"))
        judged_on = detect_all(test, detector, on_image=partial(on_progress, f"{name}: figures"))
        return ParitySide(judged_on, rule.choose(valid, chosen_on))

    path = config.out / FOLDER / "draft.bundle"
    compared, not_measured = [], {}
    try:
        with explain_write_errors(path):
            draft = draft_bundle(path, exported.graphs)
        network = load_model(weights, config.train.architecture)
        reference = side("torch", network_detector(network, manifest.input, manifest.head, device))
        for variant in draft.manifest.engines:
            if variant.precision == "bf16" and not has_native_bf16():
                not_measured[variant.name] = "this processor does not compute BF16"
                continue
            engine = measuring_engine(draft, variant)
            own = side(variant.name, engine_detector(engine, manifest.input, manifest.head))
            by = "ONNX Runtime in TensorRT's place, " if variant.runtime == "tensorrt" else ""
            compared.append(
                parity.compare_variant(
                    variant.name,
                    f"{by}{engine.compute_device}",
                    test,
                    (reference, own),
                    config.parity,
                    resamples=settings.resamples,
                    seed=settings.seed,
                )
            )
            engine.close()
    finally:
        path.unlink(missing_ok=True)
    result = ParityResult(
        export_digest=manifest.digest,
        split=settings.split,
        split_digest=digest,
        images=len(test),
        bounds=config.parity,
        points_chosen=f"on {settings.choose_on}, {rule}, each side separately",
        reference_points=dict(reference.points),
        variants=tuple(compared),
        not_measured=not_measured,
    )
    with replace_files(config.out) as place:
        place(PARITY).write_bytes(result.to_bytes())
    _check_bounds(result, config)
    return result


def load_checked(config: Config) -> tuple[ExportArtifacts, ParityResult]:
    """Return the exported graphs and their parity result, checked, for a bundle.

    Raises:
        TrainingError: there is no proof, it is of other graphs, was run against other bounds than
            the configuration states, or says that a bound was not kept.
    """
    exported = load_artifacts(config.out / FOLDER)
    path = config.out / PARITY
    hint = "Run `hilum-train parity` first."
    try:
        result = ParityResult.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TrainingError(f"there is no result of parity in {path}", hint=hint) from error
    if result.export_digest != exported.manifest.digest:
        raise TrainingError(f"{path} is about other graphs than {FOLDER}/ holds", hint=hint)
    if result.bounds != config.parity:
        raise TrainingError(f"{path} was run against other bounds than are configured", hint=hint)
    _check_bounds(result, config)
    return exported, result


def threshold_rule(config: Config) -> ThresholdRule:
    """Return the configured target of the operating points."""
    stated = config.evaluate
    return ThresholdRule(stated.false_positives, stated.sensitivity, stated.floor)


def read_split(config: Config, name: str) -> tuple[tuple[LabelledImage, ...], str]:
    """Return the images of a frozen split of the configured set, and the split's digest.

    Raises:
        TrainingError: the set or the split is absent or damaged, the split is empty, or it names
            an image that the set does not hold.
    """
    folder = config.data.dataset
    split = splits.load_split(config.data.split_file or folder)
    return dataset.select_split(folder, dataset.load_dataset(folder), split, name), split.digest


def _check_bounds(result: ParityResult, config: Config) -> None:
    shipped = config.bundle.variants
    problems = [
        problem
        for variant in result.variants
        if shipped is None or variant.name in shipped
        for problem in variant.problems
    ]
    if problems:
        raise TrainingError(
            "the exported model is not the trained one:\n  " + "\n  ".join(problems),
            hint="No bundle is made. Calibrate on more images, quantize with accuracy control, "
            "or leave the variant out (bundle.variants).",
        )


def _float_onnx(config: Config, exported: ExportArtifacts) -> bytes:
    """Export the f32 graph again: the exported file has its weights rounded to f16."""
    path = config.out / WEIGHTS
    _check_same_weights(path, exported)
    spec = exported.manifest.input
    return export_onnx(load_model(path, config.train.architecture), spec.height, spec.width)


def _check_same_weights(path: Path, exported: ExportArtifacts) -> None:
    if not path.is_file():
        raise TrainingError(f"there are no weights {path}", hint="Run `hilum-train run` first.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != exported.manifest.weights_sha256:
        raise TrainingError(
            f"{path} holds other weights than were exported",
            hint="Run `hilum-train export` again.",
        )


def to_input(entry: LabelledImage, spec: InputSpec) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return the network's input for an image, u8 (1, 1, H, W), and the letterbox of the image."""
    pixels = entry.read_pixels()
    fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], spec.height, spec.width)
    return apply_letterbox(pixels, fit, spec.pad_value)[None, None], fit


def _map50_metric(manifest: ExportManifest) -> Callable[[Infer, Sequence[LabelledImage]], float]:
    """mAP@0.5 of whatever runs the graph, through the clinic's own letterbox and findings."""
    floors = [manifest.head.score_floor] * len(CATALOG)

    def metric(infer: Infer, entries: Sequence[LabelledImage]) -> float:
        found = []
        for entry in entries:
            batch, fit = to_input(entry, manifest.input)
            found.append(decode_findings(infer(batch)[0], fit, manifest.head, floors))
        return mean_average_precision(entries, found, 0.5)

    return metric
