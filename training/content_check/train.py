"""Training of the content check: images, cross-validation by patient, thresholds, network.

Thresholds come from cross-validation: every real radiograph is judged, unchanged and augmented, by
a network that was trained without its patient. Those that refuse are set beyond all of these
probabilities, those that warn beyond the probabilities of the unchanged radiographs. The network
that is shipped was trained on every patient.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch

from edge_agent.core.content_check import ContentProbabilities
from edge_agent.engines.bundle import Bundle
from hilum.manifest import ContentCheckThresholds, InputSpec
from training.bundle.archive import ContentCheckFiles
from training.bundle.layout import CONTENT_CHECK_HEADING
from training.content_check import image_sources
from training.content_check.image_sources import ContentImage
from training.content_check.network import (
    ContentNetwork,
    ContentTrainingConfig,
    ProbabilityHead,
    SampleTensors,
    TrainingImages,
    draw_pool,
    predict,
    train_network,
)
from training.content_check.views import INPUT, augment, invert, rotate, to_input
from training.data.atomic_files import replace_files
from training.errors import TrainingError
from training.export.onnx import convert_to_openvino, export_module, serialize_ir
from training.progress import ProgressCallback, ignore_progress

_FACTS_MEMBER: Final = "content-check.json"
_IR_MEMBER: Final = "content-check.xml"
_WEIGHTS_MEMBER: Final = "content-check.bin"

USUAL: Final = 0.4
"""Strength of `augment` for everyday changes."""
_AUGMENTATIONS: Final = 12
_TRAINING_SEED, _TEST_SEED, _FIRST_TRAINING_CHEST, _FIRST_TEST_CHEST = (
    0,
    1000,
    40_000_000,
    50_000_000,
)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What to train on. Thresholds are chosen on `radiographs`, a folder of real ones."""

    radiographs: Path
    seed: int = 5
    folds: int = 6
    chests: int = 400
    laterals: int = 200
    others_each: int = 80
    config: ContentTrainingConfig = field(default_factory=ContentTrainingConfig)

    @property
    def command(self) -> str:
        """The command that repeats the training."""
        return (
            "hilum-train content-check --out content-check.zip --backgrounds RADIOGRAPHS "
            f"--seed {self.seed}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrainedCheck:
    """The network, its thresholds, and the results that they are based on.

    `left_out` are real chests, judged by networks trained without their patients. `unseen` are
    painted images of every kind with other seeds than the training images, judged by `network`.
    """

    network: ContentNetwork
    thresholds: ContentCheckThresholds
    left_out: tuple[HeldOutResult, ...]
    unseen: tuple[HeldOutResult, ...]


def train_content_check(
    plan: TrainingPlan, on_progress: ProgressCallback = ignore_progress
) -> TrainedCheck:
    """Train a content check and choose its thresholds.

    Args:
        plan: what to train on.
        on_progress: called as images are made and networks trained.

    Returns:
        The network with its thresholds and results.

    Raises:
        TrainingError: the folder has no radiographs, or too few patients to leave some out.
    """
    cv2.setNumThreads(1)
    material = gather_images(plan, on_progress)
    groups = split_patients(material.radiographs, plan.folds, plan.seed)
    pool = draw_pool(material, plan.config, lambda done, of: on_progress("draw samples", done, of))
    judged = cross_validate(material, pool, groups, plan, on_progress)
    network = train_network(pool, plan.config, lambda done, of: on_progress("train", done, of))
    return TrainedCheck(
        network, choose_thresholds(judged), tuple(judged), _predict_unseen(network, plan)
    )


def gather_images(
    plan: TrainingPlan, on_progress: ProgressCallback = ignore_progress
) -> TrainingImages:
    """Load and paint the images to train on."""
    radiographs = image_sources.load_radiographs(plan.radiographs)
    chests = image_sources.paint_chests(
        _FIRST_TRAINING_CHEST,
        plan.chests,
        lambda done: on_progress("paint chests", done, plan.chests),
    )
    return TrainingImages(
        radiographs=tuple(radiographs),
        painted_chests=tuple(chests),
        laterals=tuple(image_sources.paint_laterals(_TRAINING_SEED, plan.laterals)),
        painted_others=tuple(image_sources.paint_others([_TRAINING_SEED], plan.others_each)),
        real_others=tuple(image_sources.load_packaged()),
    )


def cross_validate(
    material: TrainingImages,
    pool: SampleTensors,
    groups: Sequence[frozenset[str]],
    plan: TrainingPlan,
    on_progress: ProgressCallback = ignore_progress,
) -> list[HeldOutResult]:
    """Judge every radiograph by a network that was trained without its patient.

    Args:
        material: the images.
        pool: the samples drawn from them.
        groups: patients of each fold.
        plan: settings and seed.
        on_progress: called after each fold.

    Returns:
        The results of all treatments of all radiographs.
    """
    judged = []
    for number, patients in enumerate(groups):
        network = train_network(pool, plan.config, without=patients)
        for k, image in enumerate(material.radiographs):
            if image.patient in patients:
                judged += judge_treatments(network, image, np.random.default_rng([plan.seed, k]))
        on_progress("cross-validate", number + 1, len(groups))
    return judged


def _predict_unseen(network: ContentNetwork, plan: TrainingPlan) -> tuple[HeldOutResult, ...]:
    """Judge painted images of every kind with other seeds than the training images."""
    images = [
        *image_sources.paint_others([_TEST_SEED], max(1, plan.others_each // 3)),
        *image_sources.paint_laterals(_TEST_SEED, max(1, plan.laterals // 4)),
        *image_sources.paint_chests(_FIRST_TEST_CHEST, max(1, plan.chests // 8)),
    ]
    seen = predict(network, [to_input(image.pixels) for image in images])
    return tuple(
        HeldOutResult(image, "unchanged", of) for image, of in zip(images, seen, strict=True)
    )


def split_patients(
    images: Sequence[ContentImage], count: int, seed: int
) -> tuple[frozenset[str], ...]:
    """Split the patients into groups of about as many images each.

    Args:
        images: the images, each with its patient.
        count: number of groups.
        seed: the same seed makes the same groups.

    Returns:
        The patients of each group.

    Raises:
        TrainingError: there are fewer patients than groups.
    """
    of: dict[str, int] = {}
    for image in images:
        of[image.patient] = of.get(image.patient, 0) + 1
    if len(of) < count:
        raise TrainingError(f"{len(of)} patients cannot be split into {count} groups")
    order = np.random.default_rng(seed).permutation(sorted(of)).tolist()
    groups: list[set[str]] = [set() for _ in range(count)]
    for patient in sorted(order, key=lambda p: -of[p]):
        smallest = min(groups, key=lambda group: sum(of[p] for p in group))
        smallest.add(patient)
    return tuple(frozenset(group) for group in groups)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutResult:
    """The probabilities of one image that the network was not trained on.

    `treatment` is `unchanged`, `augmented`, `rotated 90`, `rotated 180`, `rotated 270` or
    `inverted`.
    """

    image: ContentImage
    treatment: str
    probabilities: ContentProbabilities


def judge_treatments(
    network: ContentNetwork, image: ContentImage, rng: np.random.Generator
) -> list[HeldOutResult]:
    """Judge a frontal chest unchanged, augmented, rotated and inverted."""
    pixels = image.pixels
    treated = [("unchanged", pixels)]
    treated += [("augmented", augment(pixels, rng, USUAL)) for _ in range(_AUGMENTATIONS)]
    treated += [(f"rotated {90 * k}", rotate(pixels, k)) for k in (1, 2, 3)]
    treated += [("inverted", invert(pixels))]
    seen = predict(network, [to_input(view) for _, view in treated])
    return [
        HeldOutResult(image, treatment, of)
        for (treatment, _), of in zip(treated, seen, strict=True)
    ]


def choose_thresholds(judged: Sequence[HeldOutResult]) -> ContentCheckThresholds:
    """Choose thresholds that refuse no upright chest with bright bone, augmented or not.

    Refusal begins one unit of log odds beyond the worst of these results, and not below 0.9.
    Warning begins half a unit beyond the worst of the unchanged ones, and not below 0.5.
    """
    upright = [r.probabilities for r in judged if r.treatment in {"unchanged", "augmented"}]
    unchanged = [r.probabilities for r in judged if r.treatment == "unchanged"]
    refuse = {
        name: max(0.9, _raise_probability(max(getattr(seen, name) for seen in upright), 1.0))
        for name in ("other", "turned", "inverted")
    }
    warn = {
        name: max(0.5, _raise_probability(max(getattr(seen, name) for seen in unchanged), 0.5))
        for name in ("not_frontal", "lateral", "turned", "inverted")
    }
    return ContentCheckThresholds(
        warn_not_frontal=min(warn["not_frontal"], refuse["other"]),
        refuse_other=refuse["other"],
        warn_lateral=warn["lateral"],
        warn_turned=min(warn["turned"], refuse["turned"]),
        refuse_turned=refuse["turned"],
        warn_inverted=min(warn["inverted"], refuse["inverted"]),
        refuse_inverted=refuse["inverted"],
    )


def _raise_probability(probability: float, log_odds: float) -> float:
    """Return a probability raised by some log odds, rounded up to four places, below 1."""
    p = min(max(probability, 1e-6), 1 - 1e-6)
    moved = 1 / (1 + math.exp(-(math.log(p / (1 - p)) + log_odds)))
    return math.ceil(moved * 1e4) / 1e4 if moved < 0.9999 else moved


def export_files(
    network: ContentNetwork, thresholds: ContentCheckThresholds, card: str
) -> ContentCheckFiles:
    """Export a trained network as a bundle stores it: OpenVINO IR, weights in f16."""
    with_probabilities = ProbabilityHead(network.to(memory_format=torch.contiguous_format)).eval()
    xml, weights = serialize_ir(
        convert_to_openvino(export_module(with_probabilities, INPUT, INPUT, "probabilities"))
    )
    return ContentCheckFiles(xml, weights, InputSpec(height=INPUT, width=INPUT), thresholds, card)


def save_files(parts: ContentCheckFiles, path: Path) -> None:
    """Write a content check to a file of its own, for `repack.replace_content_check`.

    Raises:
        TrainingError: the disk cannot be written; the previous file is unchanged.
    """
    facts = {
        "input": parts.input.model_dump(),
        "thresholds": parts.thresholds.model_dump(),
        "card": parts.card,
    }
    with replace_files(path.parent) as place, zipfile.ZipFile(place(path.name), "w") as archive:
        for name, content in (
            (_FACTS_MEMBER, json.dumps(facts, indent=2).encode()),
            (_IR_MEMBER, parts.xml),
            (_WEIGHTS_MEMBER, parts.weights),
        ):
            archive.writestr(zipfile.ZipInfo(name), content)


def load_files(path: Path) -> ContentCheckFiles:
    """Load a content check from a file of `save_files`, or from a bundle that has one.

    Raises:
        TrainingError: the file is absent or holds no content check.
    """
    if path.suffix == ".bundle":
        return _load_from_bundle(Bundle.open(path))
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read(_FACTS_MEMBER))
            return ContentCheckFiles(
                xml=archive.read(_IR_MEMBER),
                weights=archive.read(_WEIGHTS_MEMBER),
                input=InputSpec.model_validate(facts["input"]),
                thresholds=ContentCheckThresholds.model_validate(facts["thresholds"]),
                card=facts["card"],
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} holds no content check: {error}") from error


def _load_from_bundle(bundle: Bundle) -> ContentCheckFiles:
    spec = bundle.manifest.content_check
    if spec is None:
        raise TrainingError(f"{bundle.path} holds no content check")
    card = bundle.read(bundle.manifest.model_card).decode()
    return ContentCheckFiles(
        xml=bundle.read(spec.model),
        weights=bundle.read(spec.weights),
        input=spec.input,
        thresholds=spec.thresholds,
        card=CONTENT_CHECK_HEADING + card.partition(CONTENT_CHECK_HEADING)[2].rstrip(),
    )
