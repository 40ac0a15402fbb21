"""Makes the bundle of a run: graphs, parity result, model card and SBOM in one archive.

All content comes from the run's folder, so the same folder gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edge_agent.engines.base import Pixels
from edge_agent.engines.bundle import Bundle
from edge_agent.errors import HilumError
from hilum.manifest import (
    AcceptanceBound,
    AcceptanceResult,
    ChangeControl,
    ModificationProtocol,
    Provenance,
)
from training.bundle.archive import BundleContents, ContentCheckFiles
from training.bundle.layout import EVALUATION_MEMBER, PARITY_MEMBER, RUN_MEMBER, SETTINGS_MEMBER
from training.bundle.variants import VARIANTS
from training.bundle.writer import write_bundle
from training.config import Config
from training.content_check.train import load_files
from training.data import splits
from training.errors import TrainingError
from training.evaluation.parity import MetricDrop, ParityResult, VariantParity
from training.evaluation.results import Evaluation
from training.evaluation.run import JSON
from training.export.artifacts import ExportArtifacts
from training.release.golden_images import make_golden_images
from training.release.model_card import ModelCardData, limits_of, write_model_card
from training.release.sbom import SbomInput, build_sbom
from training.train import run_manifest
from training.train.run_manifest import RunManifest
from training.workflow import parity_check

EVALUATION: Final = "evaluation"
"""Folder of the evaluation, in the run's."""
_CANDIDATES: Final = 24
_MAP, _SENSITIVITY = "map50_drop", "sensitivity_drop"
_METRICS: Final = ("map40", "map50", "map50_95", "froc/mean", "auroc/mean", "sensitivity")


def bundle_path(config: Config) -> Path:
    """Return the path of the configured bundle."""
    return config.out / f"{config.bundle.name}-{config.bundle.version}.bundle"


def check_settings(config: Config) -> None:
    """Refuse a content check, predecessor, credits or variant that no run could be packed with.

    Raises:
        TrainingError: one of them is absent or not what it should be; the message names it.
    """
    settings = config.bundle
    for name in settings.variants or ():
        if name not in VARIANTS:
            raise TrainingError(
                f"bundle.variants names {name}, which no bundle holds",
                hint=f"There are: {', '.join(VARIANTS)}.",
            )
    with _naming_setting("bundle.content_check"):
        _content_check(config)
    with _naming_setting("bundle.replaces"):
        _replaced_digest(config)
    with _naming_setting("bundle.credits"):
        _credits_section(config)


@contextmanager
def _naming_setting(setting: str) -> Iterator[None]:
    try:
        yield
    except HilumError as error:
        raise TrainingError(f"{setting}: {error.message}", hint=error.hint) from error


def make_bundle(config: Config, pictures: Mapping[str, Pixels] | None = None) -> Bundle:
    """Make the bundle of a run that was exported, checked for parity, and evaluated.

    Args:
        config: of the run.
        pictures: candidates for golden cases, synthetic, u8 (H, W) of the input's size by a
            lower-case name; painted chests by default.

    Raises:
        TrainingError: something is missing or belongs to another model, a declared bound is not
            kept or was changed since the run began, or the bundle cannot be written or does not
            prove itself. A bundle that was there before is untouched.
    """
    exported, parity = parity_check.load_checked(config)
    declared = run_manifest.load(config)
    evaluation = _read_evaluation(config, exported, parity)
    shipped = _shipped_variants(config, parity)
    card = _card_data(config, evaluation, parity, shipped)
    parts = BundleContents(
        name=config.bundle.name,
        version=config.bundle.version,
        intended_use=config.bundle.intended_use,
        graphs=exported.graphs,
        operating_points={it.name: it.points for it in shipped},
        pictures=pictures or make_golden_images(config.train.input_size, _CANDIDATES),
        model_card=write_model_card(card) + _credits_section(config),
        provenance=_provenance(config, card),
        content_check=_content_check(config),
        change_control=_change_control(config, card, declared),
        sbom=build_sbom(
            SbomInput(
                name=config.bundle.name,
                version=config.bundle.version,
                intended_use=config.bundle.intended_use,
                weights_sha256=exported.manifest.weights_sha256,
                data=card.data,
                train=config.train,
                run_manifest=declared,
            )
        ),
        evidence={
            EVALUATION_MEMBER: evaluation.to_bytes(),
            PARITY_MEMBER: _without_images(parity).to_bytes(),
            RUN_MEMBER: declared.to_bytes(),
            SETTINGS_MEMBER: _settings_json(config),
        },
    )
    path = bundle_path(config)
    try:
        return write_bundle(path, parts)
    except OSError as error:
        raise TrainingError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched"
        ) from error


def _read_evaluation(config: Config, exported: ExportArtifacts, parity: ParityResult) -> Evaluation:
    path = config.out / EVALUATION / JSON
    hint = "Run `hilum-train all`, or `hilum-train evaluate --weights` with this `--out`."
    try:
        evaluation = Evaluation.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TrainingError(f"there is no evaluation in {path}", hint=hint) from error
    if evaluation.subject.digest != exported.manifest.weights_sha256:
        raise TrainingError(f"{path} is of other weights than were exported", hint=hint)
    if evaluation.data.split_digest != parity.split_digest:
        raise TrainingError(f"{path} is of another split than {parity_check.PARITY}", hint=hint)
    if failed := [it for it in evaluation.acceptance or () if not it.passed]:
        outcomes = "; ".join(f"{it.rule}: {it.outcome}" for it in failed)
        raise TrainingError(f"the evaluation fails acceptance rules: {outcomes}")
    return evaluation


def _without_images(parity: ParityResult) -> ParityResult:
    """Return the parity result without image ids, which belong to the hospital."""
    return parity.model_copy(
        update={
            "variants": tuple(
                it.model_copy(
                    update={"box_shift": it.box_shift.model_copy(update={"worst_image": ""})}
                )
                for it in parity.variants
            )
        }
    )


def _shipped_variants(config: Config, parity: ParityResult) -> tuple[VariantParity, ...]:
    wanted = config.bundle.variants
    if wanted is None:
        return parity.variants
    known = {it.name: it for it in parity.variants}
    for name in wanted:
        if name not in known:
            why = parity.not_measured.get(name, "it was not exported")
            raise TrainingError(f"bundle.variants names {name}, which was not measured: {why}")
    return tuple(it for it in parity.variants if it.name in wanted)


def _card_data(
    config: Config,
    evaluation: Evaluation,
    parity: ParityResult,
    shipped: Sequence[VariantParity],
) -> ModelCardData:
    split = splits.load_split(config.data.split_file or config.data.dataset)
    return ModelCardData(
        bundle=config.bundle,
        train=config.train,
        data=config.bundle.data or config.data.dataset.name,
        images=len(split.image_ids("train")),
        evaluation=evaluation,
        parity=parity,
        shipped=shipped,
    )


def _content_check(config: Config) -> ContentCheckFiles | None:
    return load_files(config.bundle.content_check) if config.bundle.content_check else None


def _replaced_digest(config: Config) -> str | None:
    """Return the digest of the bundle that this one replaces."""
    path = config.bundle.replaces
    return Bundle.open(path).digest if path else None


def _credits_section(config: Config) -> str:
    path = config.bundle.credits
    if path is None:
        return ""
    try:
        return f"\n## Credits\n\n{path.read_text(encoding='utf-8').strip()}\n"
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"cannot read the credits {path}: {error}") from error


def _provenance(config: Config, card: ModelCardData) -> Provenance:
    train = config.train
    base = f"{train.weights.name}, SHA-256 {train.weights_sha256}" if train.weights else ""
    metrics = {
        name: estimate.value for name in _METRICS if (estimate := card.evaluation.metrics.get(name))
    }
    metrics |= {f"{it.name}/map50": it.map50.variant for it in card.shipped}
    return Provenance(
        trained_on=f"{card.images} images of {card.data}",
        command=config.bundle.command,
        seed=train.seed,
        base_weights=base or "none (random)",
        metrics={name: round(value, 4) for name, value in metrics.items()},
    )


def _change_control(config: Config, card: ModelCardData, declared: RunManifest) -> ChangeControl:
    settings = config.bundle
    return ChangeControl(
        plan=settings.plan,
        modifications=settings.modifications,
        replaces=_replaced_digest(config),
        protocol=ModificationProtocol(
            data=card.data,
            split=declared.split,
            split_digest=declared.split_digest,
            declared=declared.digest,
            bounds=tuple(
                AcceptanceBound(name=name, at_most=bound)
                for name, bound in declared.bounds.model_dump().items()
            ),
        ),
        results=tuple(_results(card.shipped)),
        impact=settings.impact,
        limits=limits_of(card),
        evidence=(EVALUATION_MEMBER, PARITY_MEMBER, RUN_MEMBER, SETTINGS_MEMBER),
    )


def _results(shipped: Sequence[VariantParity]) -> Iterator[AcceptanceResult]:
    for it in shipped:
        yield _result(_MAP, it.name, "", it.map50)
        if it.sensitivity:
            slug, worst = max(it.sensitivity.items(), key=lambda pair: pair[1].drop)
            yield _result(_SENSITIVITY, it.name, slug, worst)


def _result(bound: str, variant: str, subject: str, drop: MetricDrop) -> AcceptanceResult:
    return AcceptanceResult(
        bound=bound,
        variant=variant,
        subject=subject,
        value=drop.drop,
        low=drop.low,
        high=drop.high,
    )


def _settings_json(config: Config) -> bytes:
    """Return the configuration as JSON, without paths of this machine."""
    settings = config.model_dump(mode="json", include={"train", "evaluate", "export", "parity"})
    weights, wanted = config.train.weights, config.evaluate
    settings["train"]["weights"] = weights.name if weights else None
    settings["evaluate"]["rules"] = wanted.rules.name if wanted.rules else None
    if wanted.baseline:
        settings["evaluate"]["baseline"] = wanted.baseline.name
    return (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
