"""The content gate from nothing: pictures, leave-patients-out trainings, thresholds, network.

Thresholds come from leaving patients out: every real radiograph is judged, as it is and as
`handled`, by a network that saw nothing of its patient; then they are set beyond all of these. The
network that ships has learnt from every patient.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch

from edge_agent.core.content_check import ContentProbabilities
from edge_agent.engines.bundle import Bundle
from hilum.manifest import ContentCheckThresholds, InputSpec
from training.bundle.writer import CONTENT_CHECK_HEADING, ContentCheckFiles
from training.content_check import images
from training.content_check.images import LabelledPicture
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
from training.export.onnx import export_module, ir_bytes, to_openvino

Told = Callable[[str, int, int], None]
"""Told what is being done, how far it is and how far it goes."""

USUAL: Final = 0.4
"""Strength of `handled` that stands for what every day brings."""
_HANDLINGS: Final = 12
_LEARNT_FROM, _MEASURED_ON, _CHESTS_FROM, _CHESTS_MEASURED_FROM = 0, 1000, 40_000_000, 50_000_000


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What to make; without `radiographs` there is nothing real to choose thresholds by."""

    radiographs: Path
    seed: int = 5
    folds: int = 6
    chests: int = 400
    laterals: int = 200
    others_each: int = 80
    config: ContentTrainingConfig = field(default_factory=ContentTrainingConfig)

    @property
    def command(self) -> str:
        """The command that makes it again."""
        return (
            "hilum-train content-check --out content-check.zip --backgrounds RADIOGRAPHS "
            f"--seed {self.seed}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrainedCheck:
    """The network, its thresholds, and what was seen on the way.

    `left_out` are real chests, judged by networks that never saw their patients; `unseen` are
    freshly painted pictures of every kind, judged by `network`.
    """

    network: ContentNetwork
    thresholds: ContentCheckThresholds
    left_out: tuple[HeldOutResult, ...]
    unseen: tuple[HeldOutResult, ...]


def train_content_check(plan: TrainingPlan, told: Told = lambda *_: None) -> TrainedCheck:
    """Train a gate and choose its thresholds.

    Raises:
        TrainingError: the folder has no radiographs, or too few patients to leave some out.
    """
    cv2.setNumThreads(1)
    material = gather_images(plan, told)
    groups = split_patients(material.radiographs, plan.folds, plan.seed)
    pool = draw_pool(material, plan.config, lambda done, of: told("draw views", done, of))
    judged = cross_validate(material, pool, groups, plan, told)
    network = train_network(pool, plan.config, lambda done, of: told("train", done, of))
    return TrainedCheck(
        network, choose_thresholds(judged), tuple(judged), _predict_unseen(network, plan)
    )


def gather_images(plan: TrainingPlan, told: Told = lambda *_: None) -> TrainingImages:
    """Read and paint what there is to learn from."""
    radiographs = images.load_radiographs(plan.radiographs)
    chests = images.paint_chests(
        _CHESTS_FROM, plan.chests, lambda done: told("paint chests", done, plan.chests)
    )
    return TrainingImages(
        radiographs=tuple(radiographs),
        painted_chests=tuple(chests),
        laterals=tuple(images.paint_laterals(_LEARNT_FROM, plan.laterals)),
        painted_others=tuple(images.paint_others([_LEARNT_FROM], plan.others_each)),
        real_others=tuple(images.load_packaged()),
    )


def cross_validate(
    material: TrainingImages,
    pool: SampleTensors,
    groups: Sequence[frozenset[str]],
    plan: TrainingPlan,
    told: Told = lambda *_: None,
) -> list[HeldOutResult]:
    """Judge every radiograph by a network that was trained without its patient."""
    judged = []
    for number, patients in enumerate(groups):
        network = train_network(pool, plan.config, without=patients)
        for k, picture in enumerate(material.radiographs):
            if picture.patient in patients:
                judged += judge_views(network, picture, np.random.default_rng([plan.seed, k]))
        told("leave patients out", number + 1, len(groups))
    return judged


def _predict_unseen(network: ContentNetwork, plan: TrainingPlan) -> tuple[HeldOutResult, ...]:
    """Painted pictures of every kind that the network has not learnt from."""
    pictures = [
        *images.paint_others([_MEASURED_ON], max(1, plan.others_each // 3)),
        *images.paint_laterals(_MEASURED_ON, max(1, plan.laterals // 4)),
        *images.paint_chests(_CHESTS_MEASURED_FROM, max(1, plan.chests // 8)),
    ]
    seen = predict(network, [to_input(picture.pixels) for picture in pictures])
    return tuple(
        HeldOutResult(picture, "as it is", of) for picture, of in zip(pictures, seen, strict=True)
    )


def split_patients(
    pictures: Sequence[LabelledPicture], count: int, seed: int
) -> tuple[frozenset[str], ...]:
    """Part the patients into `count` groups of about as many pictures each."""
    of: dict[str, int] = {}
    for picture in pictures:
        of[picture.patient] = of.get(picture.patient, 0) + 1
    if len(of) < count:
        raise TrainingError(f"{len(of)} patients cannot be parted into {count} groups")
    order = np.random.default_rng(seed).permutation(sorted(of)).tolist()
    groups: list[set[str]] = [set() for _ in range(count)]
    for patient in sorted(order, key=lambda p: -of[p]):
        smallest = min(groups, key=lambda group: sum(of[p] for p in group))
        smallest.add(patient)
    return tuple(frozenset(group) for group in groups)


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutResult:
    """One held-out view and what a network that never saw its patient says of it.

    `done` is what was done to it: `as it is`, `handled`, `turned 90`, `turned 180`, `turned 270`
    or `inverted`.
    """

    picture: LabelledPicture
    done: str
    seen: ContentProbabilities


def judge_views(
    network: ContentNetwork, picture: LabelledPicture, rng: np.random.Generator
) -> list[HeldOutResult]:
    """A frontal chest as it is, handled, turned and inverted."""
    pixels = picture.pixels
    views = [("as it is", pixels)]
    views += [("handled", augment(pixels, rng, USUAL)) for _ in range(_HANDLINGS)]
    views += [(f"turned {90 * k}", rotate(pixels, k)) for k in (1, 2, 3)]
    views += [("inverted", invert(pixels))]
    seen = predict(network, [to_input(view) for _, view in views])
    return [HeldOutResult(picture, done, of) for (done, _), of in zip(views, seen, strict=True)]


def choose_thresholds(judged: Sequence[HeldOutResult]) -> ContentCheckThresholds:
    """Thresholds that refuse none of the upright, bright-boned views, handled or not.

    Refusing begins one unit of log odds beyond the worst of all these views, and not below 0.9;
    warning half a unit beyond the worst of those as they are, and not below 0.5.
    """
    usual = [j.seen for j in judged if j.done in {"as it is", "handled"}]
    unhandled = [j.seen for j in judged if j.done == "as it is"]
    refuse = {
        name: max(0.9, _beyond(max(getattr(seen, name) for seen in usual), 1.0))
        for name in ("other", "turned", "inverted")
    }
    warn = {
        name: max(0.5, _beyond(max(getattr(seen, name) for seen in unhandled), 0.5))
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


def _beyond(probability: float, log_odds: float) -> float:
    """A probability moved up by some log odds, rounded up to four places; below 1."""
    p = min(max(probability, 1e-6), 1 - 1e-6)
    moved = 1 / (1 + math.exp(-(math.log(p / (1 - p)) + log_odds)))
    return math.ceil(moved * 1e4) / 1e4 if moved < 0.9999 else moved


def export_files(
    network: ContentNetwork, thresholds: ContentCheckThresholds, card: str
) -> ContentCheckFiles:
    """A trained network as a bundle holds it: OpenVINO IR, weights in f16."""
    whole = ProbabilityHead(network.to(memory_format=torch.contiguous_format)).eval()
    xml, weights = ir_bytes(to_openvino(export_module(whole, INPUT, INPUT, "probabilities")))
    return ContentCheckFiles(xml, weights, InputSpec(height=INPUT, width=INPUT), thresholds, card)


def save_files(parts: ContentCheckFiles, path: Path) -> None:
    """Write a gate to a file of its own, for `training.bundle.writer.with_content_check`.

    Raises:
        TrainingError: the disk cannot be written; what was there is as it was.
    """
    facts = {
        "input": parts.input.model_dump(),
        "thresholds": parts.thresholds.model_dump(),
        "card": parts.card,
    }
    with replace_files(path.parent) as place, zipfile.ZipFile(place(path.name), "w") as archive:
        for name, content in (
            ("gate.json", json.dumps(facts, indent=2).encode()),
            ("gate.xml", parts.xml),
            ("gate.bin", parts.weights),
        ):
            archive.writestr(zipfile.ZipInfo(name), content)


def load_files(path: Path) -> ContentCheckFiles:
    """Read what `save` wrote, or take the gate out of a bundle that has one.

    Raises:
        TrainingError: the file is absent or is something else.
    """
    if path.suffix == ".bundle":
        return _load_from_bundle(Bundle.open(path))
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read("gate.json"))
            return ContentCheckFiles(
                xml=archive.read("gate.xml"),
                weights=archive.read("gate.bin"),
                input=InputSpec.model_validate(facts["input"]),
                thresholds=ContentCheckThresholds.model_validate(facts["thresholds"]),
                card=facts["card"],
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} holds no gate: {error}") from error


def _load_from_bundle(bundle: Bundle) -> ContentCheckFiles:
    spec = bundle.manifest.content_check
    if spec is None:
        raise TrainingError(f"{bundle.path} holds no gate")
    card = bundle.read(bundle.manifest.model_card).decode()
    return ContentCheckFiles(
        xml=bundle.read(spec.model),
        weights=bundle.read(spec.weights),
        input=spec.input,
        thresholds=spec.thresholds,
        card=CONTENT_CHECK_HEADING + card.partition(CONTENT_CHECK_HEADING)[2].rstrip(),
    )
