"""One evaluation from start to end: open, detect, measure, judge, write."""

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
from training.bundle.writer import measuring_engine
from training.data import dataset, splits
from training.data.atomic_files import replace_files
from training.data.dataset import LabelledImage
from training.errors import TrainingError
from training.evaluation import acceptance_rules, measure
from training.evaluation.detectors import Detector, detect_all, of_engine, of_network
from training.evaluation.matching import Found, match
from training.evaluation.operating_points import ThresholdRule
from training.evaluation.report.report import page
from training.evaluation.report.worst_errors import worst
from training.evaluation.results import EvaluatedModel, Evaluation
from training.models.network import load_model
from training.progress import ProgressCallback, ignore_progress

JSON: Final = "evaluation.json"
HTML: Final = "evaluation.html"

_USUAL_SIZE: Final = 416
_NOBODY: Final = EvaluatedModel(kind="weights", name="", digest="", engine="", device="")
_SILENT: Final = {finding.slug: 1.0 for finding in CATALOG}


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights in a file. Architecture and size are for files that do not say them themselves."""

    path: Path
    architecture: str = "yolo11n"
    input_size: int | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Request:
    """What to evaluate on what.

    `data` is a stored set and `split` one of its frozen splits; without `data`, `split` is itself a
    folder with a set, all of whose images are used. `split_file` is another frozen split of `data`
    than its own. `choose_on` is the split of `data` on which
    operating points are chosen for weights, as `points` says; None takes the split itself. A bundle
    brings its own. The baseline is measured through `baseline_variant`, or the subject's if it has
    that, or its first.
    """

    subject: Path | Weights
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
class _Opened:
    """Something that detects; `points` are a bundle's own."""

    subject: EvaluatedModel
    detector: Detector
    points: Mapping[str, float] | None
    score_floor: float


def run(request: Request, on_step: ProgressCallback = ignore_progress) -> Evaluation:
    """Evaluate, and write `evaluation.json` and `evaluation.html`; the gate's verdicts are in it.

    Raises:
        TrainingError: a file, a split or a rule is not as it must be; the message says which.
        BundleInvalid: a bundle is broken or lacks the variant.
    """
    entries, settings, rules = _prepared(request)
    with _open(request.subject, request.variant) as opened:
        settings = replace(settings, score_floor=opened.score_floor)
        found = _detect("detect", entries, opened, request, on_step)
        points, points_from = _points(request, opened, entries, found, on_step)
        measured = measure.MeasuredDetector(opened.subject, points, points_from, found)
    baseline = _baseline(request, entries, on_step)
    on_step("measure", 0, 1)
    evaluation = measure.evaluate(entries, measured, settings, baseline)
    if rules is not None:
        verdicts = acceptance_rules.judge(rules, evaluation.all_figures())
        evaluation = evaluation.model_copy(update={"gate": verdicts})
    matched = match(entries, found)
    shown = page(evaluation, entries, matched, worst(entries, matched, points))
    on_step("measure", 1, 1)
    with replace_files(request.out) as place:
        place(JSON).write_bytes(evaluation.to_bytes())
        place(HTML).write_bytes(shown.encode())
    return evaluation


def check(request: Request) -> None:
    """Refuse what `run` would refuse before it looks at a picture; the subject may be absent.

    Raises:
        TrainingError, BundleInvalid: as `run` raises them for split, rules and baseline.
    """
    _prepared(request)


def _prepared(
    request: Request,
) -> tuple[tuple[LabelledImage, ...], measure.Settings, acceptance_rules.Rules | None]:
    """Images, settings and rules, all of them fit to be worked with, the baseline too."""
    entries, digest = _split(request, request.split)
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
    return entries, settings, _rules(request, entries, settings)


def _split(request: Request, name: str) -> tuple[tuple[LabelledImage, ...], str | None]:
    """The images of a split, and the digest of the frozen file that it is in."""
    if request.data is None:
        return dataset.load_dataset(Path(name)), None
    file = request.split_file
    return dataset.load_dataset(request.data, name, file), splits.load_split(
        file or request.data
    ).digest


def _rules(
    request: Request, entries: Sequence[LabelledImage], settings: measure.Settings
) -> acceptance_rules.Rules | None:
    """The rules, refused before anything takes time: what figures there will be is known."""
    if request.rules is None:
        return None
    rules = acceptance_rules.load_rules(request.rules)
    nobody = measure.MeasuredDetector(_NOBODY, _SILENT, "", [()] * len(entries))
    known = measure.evaluate(
        entries, nobody, replace(settings, resamples=1), nobody if request.baseline else None
    ).all_figures()
    acceptance_rules.check_names(rules, known, request.rules)
    return rules


def _points(
    request: Request,
    opened: _Opened,
    entries: Sequence[LabelledImage],
    found: Found,
    on_step: ProgressCallback,
) -> tuple[Mapping[str, float], str]:
    """Operating points, and in words where they come from."""
    if opened.points is not None:
        return opened.points, "the bundle's own"
    if request.choose_on is None:
        said = (
            f"chosen on this very set for {request.points}, so figures at them are a little too "
            "good"
        )
    else:
        entries, _ = _split(request, request.choose_on)
        found = _detect("choose points", entries, opened, request, on_step)
        said = f"chosen on {request.choose_on} for {request.points}"
    return request.points.choose(entries, found), said


def _baseline(
    request: Request, entries: Sequence[LabelledImage], on_step: ProgressCallback
) -> measure.MeasuredDetector | None:
    if request.baseline is None:
        return None
    bundle = Bundle.open(request.baseline)
    variant = request.baseline_variant
    if variant is None and request.variant in {of.name for of in bundle.manifest.engines}:
        variant = request.variant
    with _open(request.baseline, variant) as opened:
        found = _detect("detect, baseline", entries, opened, request, on_step)
        return measure.MeasuredDetector(
            opened.subject, opened.points or {}, "the bundle's own", found
        )


def _detect(
    step: str,
    entries: Sequence[LabelledImage],
    opened: _Opened,
    request: Request,
    on_step: ProgressCallback,
) -> list[tuple[Finding, ...]]:
    return detect_all(
        entries,
        opened.detector,
        workers=request.workers,
        on_image=lambda done, of: on_step(step, done, of),
    )


@contextmanager
def _open(subject: Path | Weights, variant: str | None) -> Iterator[_Opened]:
    if isinstance(subject, Weights):
        yield _weights(subject)
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
        yield _Opened(
            subject=EvaluatedModel(
                kind="bundle",
                name=bundle.manifest.name,
                version=bundle.manifest.version,
                digest=bundle.digest,
                engine=engine.name,
                device=engine.compute_device,
            ),
            detector=of_engine(engine, bundle.manifest.input, bundle.manifest.head),
            points=chosen.operating_points,
            score_floor=bundle.manifest.head.score_floor,
        )
    finally:
        engine.close()


def _weights(weights: Weights) -> _Opened:
    try:
        digest = hashlib.sha256(weights.path.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainingError(f"cannot read the weights {weights.path}: {error.strerror}") from error
    network = load_model(weights.path, weights.architecture)
    size = weights.input_size or _stated_size(weights.path) or _USUAL_SIZE
    spec, head = InputSpec(height=size, width=size), HeadSpec()
    return _Opened(
        subject=EvaluatedModel(
            kind="weights",
            name=weights.path.name,
            digest=digest,
            engine=f"torch {torch.__version__}",
            device=weights.device,
        ),
        detector=of_network(network, spec, head, weights.device),
        points=None,
        score_floor=head.score_floor,
    )


def _stated_size(path: Path) -> int | None:
    """The input size that a weights file of the training loop says it is for."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    size = stored.get("input_size") if isinstance(stored, dict) else None
    return size if isinstance(size, int) else None
