"""Runs an evaluation: open the model, detect, measure, apply acceptance rules, write the files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch

from edge_agent.core.findings import Finding
from edge_agent.engines.bundle import Bundle
from hilum.catalog import CATALOG
from hilum.manifest import HeadSpec, InputSpec
from training.bundle.measuring import measuring_engine
from training.data import dataset, splits
from training.data.atomic_files import replace_files
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation import acceptance_rules, measure
from training.evaluation.detectors import Detector, detect_all, engine_detector, network_detector
from training.evaluation.matching import FindingsPerImage, match_findings
from training.evaluation.operating_points import ThresholdRule
from training.evaluation.report.report import render_report
from training.evaluation.report.worst_errors import select_worst_errors
from training.evaluation.results import EvaluatedModel, Evaluation
from training.models.network import load_model
from training.progress import ProgressCallback, ignore_progress

JSON: Final = "evaluation.json"
HTML: Final = "evaluation.html"

_DEFAULT_INPUT_SIZE: Final = 416
_NO_MODEL: Final = EvaluatedModel(kind="weights", name="", digest="", engine="", compute_device="")
_HIGHEST_THRESHOLDS: Final = {finding.slug: 1.0 for finding in CATALOG}


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A weights file; `architecture` and `input_size` are for files that do not state them."""

    path: Path
    architecture: str = "yolo11n"
    input_size: int | None = None
    compute_device: str = "cpu"


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """The model, the images and the settings of an evaluation.

    Attributes:
        subject: a bundle, or weights.
        split: a split of `data`; without `data`, the folder of a set that is used as a whole.
        out: folder of the results.
        data: a stored set.
        split_file: a frozen split of `data` in place of its own.
        variant: engine variant of the bundle; its first by default.
        baseline: a bundle to compare with on the same images.
        baseline_variant: its engine variant; by default that of the subject if the baseline has
            it, else its first.
        rules: a file with acceptance rules.
        choose_on: the split of `data` on which operating points are chosen for weights; `split`
            by default. A bundle has operating points of its own.
        points: target of the operating points that are chosen for weights.
        resamples: number of resampled sets for the intervals.
        seed: seed of the resampling.
        workers: number of threads that read images and detect.
    """

    subject: Path | WeightsFile
    split: str
    out: Path
    data: Path | None = None
    split_file: Path | None = None
    variant: str | None = None
    baseline: Path | None = None
    baseline_variant: str | None = None
    rules: Path | None = None
    choose_on: str | None = None
    points: ThresholdRule = field(default_factory=ThresholdRule)
    resamples: int = 1000
    seed: int = 0
    workers: int = 2


@dataclass(frozen=True, slots=True)
class _OpenedModel:
    """A model that is ready to detect; `points` are the bundle's own, None for weights."""

    subject: EvaluatedModel
    detector: Detector
    points: Mapping[str, float] | None
    score_floor: float


def run_evaluation(
    request: EvaluationRequest, on_progress: ProgressCallback = ignore_progress
) -> Evaluation:
    """Evaluate, and write `evaluation.json` and `evaluation.html`.

    The files are written even if an acceptance rule fails.

    Args:
        request: the model, the images and the settings.
        on_progress: called with the progress of each stage.

    Returns:
        The evaluation, with the results of the acceptance rules.

    Raises:
        TrainingError: a file, a split or a rule is invalid; the message names it.
        BundleInvalid: a bundle is broken or lacks the variant.
    """
    entries, settings, rules = _prepare(request)
    with _open_model(request.subject, request.variant) as opened:
        settings = replace(settings, score_floor=opened.score_floor)
        found = _detect("detect", entries, opened, request, on_progress)
        points, points_from = _choose_points(request, opened, entries, found, on_progress)
        measured = measure.MeasuredDetector(opened.subject, points, points_from, found)
    baseline = _measure_baseline(request, entries, on_progress)
    on_progress("measure", 0, 1)
    evaluation = measure.evaluate_detector(entries, measured, settings, baseline)
    if rules is not None:
        results = acceptance_rules.apply_rules(rules, evaluation.named_metrics())
        evaluation = evaluation.model_copy(update={"acceptance": results})
    matched = match_findings(entries, found)
    errors = select_worst_errors(entries, matched, points)
    report = render_report(evaluation, entries, matched, errors)
    on_progress("measure", 1, 1)
    with replace_files(request.out) as place:
        place(JSON).write_bytes(evaluation.to_bytes())
        place(HTML).write_text(report, encoding="utf-8")
    return evaluation


def check_request(request: EvaluationRequest) -> None:
    """Check split, rules and baseline without reading an image; the subject may be absent.

    Raises:
        TrainingError, BundleInvalid: as `run_evaluation` raises them.
    """
    _prepare(request)


def _prepare(
    request: EvaluationRequest,
) -> tuple[tuple[LabelledImage, ...], measure.Settings, acceptance_rules.Rules | None]:
    """Return checked images, settings and rules; the baseline is checked too."""
    entries, digest = _read_split(request, request.split)
    settings = measure.Settings(
        split=request.split if request.data else Path(request.split).resolve().name,
        split_digest=digest,
        floor=request.points.floor,
        resamples=request.resamples,
        seed=request.seed,
    )
    measure.check_labelled(entries, settings.split)
    if request.baseline is not None:
        bundle = Bundle.open(request.baseline)
        if request.baseline_variant is not None:
            bundle.variant(request.baseline_variant)
    return entries, settings, _read_rules(request, entries, settings)


def _read_split(
    request: EvaluationRequest, name: str
) -> tuple[tuple[LabelledImage, ...], str | None]:
    """Return the images of a split, and the digest of the frozen split file."""
    if request.data is None:
        return dataset.load_dataset(Path(name)), None
    file = request.split_file
    return dataset.load_dataset(request.data, name, file), splits.load_split(
        file or request.data
    ).digest


def _read_rules(
    request: EvaluationRequest, entries: Sequence[LabelledImage], settings: measure.Settings
) -> acceptance_rules.Rules | None:
    """Return the rules, checked against the names of the metrics that there will be."""
    if request.rules is None:
        return None
    rules = acceptance_rules.load_rules(request.rules)
    silent = measure.MeasuredDetector(_NO_MODEL, _HIGHEST_THRESHOLDS, "", [()] * len(entries))
    known = measure.evaluate_detector(
        entries, silent, replace(settings, resamples=1), silent if request.baseline else None
    ).named_metrics()
    acceptance_rules.check_metric_names(rules, known, request.rules)
    return rules


def _choose_points(
    request: EvaluationRequest,
    opened: _OpenedModel,
    entries: Sequence[LabelledImage],
    found: FindingsPerImage,
    on_progress: ProgressCallback,
) -> tuple[Mapping[str, float], str]:
    """Return the operating points, and a description of how they were chosen."""
    if opened.points is not None:
        return opened.points, "the bundle's own"
    if request.choose_on is None:
        origin = f"chosen on this very set for {request.points}, so metrics at them are optimistic"
    else:
        entries, _ = _read_split(request, request.choose_on)
        found = _detect("choose points", entries, opened, request, on_progress)
        origin = f"chosen on {request.choose_on} for {request.points}"
    return request.points.choose(entries, found), origin


def _measure_baseline(
    request: EvaluationRequest, entries: Sequence[LabelledImage], on_progress: ProgressCallback
) -> measure.MeasuredDetector | None:
    if request.baseline is None:
        return None
    bundle = Bundle.open(request.baseline)
    variant = request.baseline_variant
    if variant is None and request.variant in {of.name for of in bundle.manifest.engines}:
        variant = request.variant
    with _open_model(request.baseline, variant) as opened:
        found = _detect("detect, baseline", entries, opened, request, on_progress)
        return measure.MeasuredDetector(
            opened.subject, opened.points or {}, "the bundle's own", found
        )


def _detect(
    stage: str,
    entries: Sequence[LabelledImage],
    opened: _OpenedModel,
    request: EvaluationRequest,
    on_progress: ProgressCallback,
) -> list[tuple[Finding, ...]]:
    return detect_all(
        entries,
        opened.detector,
        workers=request.workers,
        on_image=lambda done, total: on_progress(stage, done, total),
    )


@contextmanager
def _open_model(subject: Path | WeightsFile, variant: str | None) -> Iterator[_OpenedModel]:
    if isinstance(subject, WeightsFile):
        yield _open_weights(subject)
        return
    bundle = Bundle.open(subject)
    if len(bundle.manifest.findings) < len(CATALOG):
        raise TrainingError(
            f"{subject} has {len(bundle.manifest.findings)} of the {len(CATALOG)} findings",
            hint="Only a bundle with every finding of the catalogue can be evaluated.",
        )
    chosen = bundle.variant(variant) if variant else bundle.manifest.engines[0]
    engine = measuring_engine(bundle, chosen)
    try:
        yield _OpenedModel(
            subject=EvaluatedModel(
                kind="bundle",
                name=bundle.manifest.name,
                version=bundle.manifest.version,
                digest=bundle.digest,
                engine=engine.name,
                compute_device=engine.compute_device,
            ),
            detector=engine_detector(engine, bundle.manifest.input, bundle.manifest.head),
            points=chosen.operating_points,
            score_floor=bundle.manifest.head.score_floor,
        )
    finally:
        engine.close()


def _open_weights(weights: WeightsFile) -> _OpenedModel:
    try:
        digest = hashlib.sha256(weights.path.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainingError(f"cannot read the weights {weights.path}: {error.strerror}") from error
    network = load_model(weights.path, weights.architecture)
    size = weights.input_size or _stored_input_size(weights.path) or _DEFAULT_INPUT_SIZE
    spec, head = InputSpec(height=size, width=size), HeadSpec()
    return _OpenedModel(
        subject=EvaluatedModel(
            kind="weights",
            name=weights.path.name,
            digest=digest,
            engine=f"torch {torch.__version__}",
            compute_device=weights.compute_device,
        ),
        detector=network_detector(network, spec, head, weights.compute_device),
        points=None,
        score_floor=head.score_floor,
    )


def _stored_input_size(path: Path) -> int | None:
    """Return the input size that the training loop stored in the weights file."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    size = stored.get("input_size") if isinstance(stored, dict) else None
    return size if isinstance(size, int) else None
