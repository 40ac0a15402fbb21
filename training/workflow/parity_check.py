"""The stage that compares every exported variant with torch, within the declared bounds."""

from __future__ import annotations

from functools import partial
from typing import Final

from edge_agent.engines.runtimes.openvino import has_native_bf16
from training.bundle.measuring import measuring_engine
from training.bundle.writer import draft_bundle
from training.config import Config
from training.data.atomic_files import explain_write_errors, replace_files
from training.errors import TrainingError
from training.evaluation import parity
from training.evaluation.detectors import Detector, detect_all, engine_detector, network_detector
from training.evaluation.operating_points import ThresholdRule
from training.evaluation.parity import ParityResult, ParitySide
from training.export.artifacts import (
    ExportArtifacts,
    load_artifacts,
)
from training.models.network import load_model
from training.progress import ProgressCallback, ignore_progress
from training.train.checkpoints import WEIGHTS
from training.train.distributed import choose_device
from training.workflow.export import FOLDER
from training.workflow.run_inputs import check_same_weights, read_split

PARITY: Final = "parity.json"


def check_parity(config: Config, on_progress: ProgressCallback = ignore_progress) -> ParityResult:
    """Compare every exported variant with torch; the result is written even if a bound is broken.

    Raises:
        TrainingError: nothing is exported yet, the weights are others than those exported, a split
            is not as it must be, the disk is full, the run's device is not here, or a bound was not
            kept; then the message names bound and value.
    """
    exported = load_artifacts(config.out / FOLDER)
    weights = config.out / WEIGHTS
    check_same_weights(weights, exported)
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
    settings = config.evaluate
    return ThresholdRule(settings.false_positives, settings.sensitivity, settings.floor)


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
