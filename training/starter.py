"""The starter bundle from nothing: data, training, export, INT8, operating points, card, archive.

Every step leaves its result in the work folder and is skipped where it is already there, so a
stopped run goes on where it was.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.core.geometry import Letterbox
from edge_agent.engines.base import Engine
from edge_agent.engines.bundle import Bundle
from edge_agent.engines.openvino import computes_bf16
from edge_agent.imaging.letterbox import letterbox
from hilum.catalog import CATALOG
from hilum.manifest import HeadSpec, InputSpec, Provenance
from training import gate as gates
from training.bundle import (
    INT8_BIN,
    INT8_XML,
    ONNX,
    BundleParts,
    Graphs,
    draft_bundle,
    measuring_engine,
    write_bundle,
)
from training.card import Card, Credit, model_card
from training.config import TrainConfig
from training.data import backgrounds as real
from training.data import lungs, statistics, store
from training.data.store import Entry
from training.data.synthetic import Generator
from training.errors import TrainingError
from training.evaluation.detectors import detect_all, of_engine
from training.evaluation.summary import Report, report
from training.export import export_onnx, halve_weights, ir_bytes, to_openvino
from training.network import load_model
from training.quantize import quantize
from training.train import Progress, train

NAME: Final = "starter"
INTENDED_USE: Final = (
    "Research and demonstration only. Trained on synthetic findings; not for clinical use."
)
_TRAIN_FROM, _VALID_FROM, _TEST_FROM, _GOLDEN_FROM = 0, 10_000_000, 20_000_000, 30_000_000

Step = Callable[[str, int, int], None]
"""Told what is being done, how far it is and how far it goes."""


@dataclass(frozen=True, slots=True)
class StarterPlan:
    """What to make. `seed` drives the split of the backgrounds and the training."""

    out: Path
    work: Path
    backgrounds: Path | None = None
    version: str = "0.1.0"
    seed: int = 11
    train_images: int = 4800
    held_out_images: int = 400
    calibration_images: int = 300
    workers: int = 2
    false_positives: float = 0.05
    floor: float = 0.1
    gate: Path | None = None
    config: TrainConfig = field(default_factory=TrainConfig)

    @property
    def command(self) -> str:
        """The command that makes it again."""
        given = " --backgrounds RADIOGRAPHS" if self.backgrounds else ""
        given += " --gate gate.zip" if self.gate else ""
        return f"hilum-train starter --out {self.out}{given} --seed {self.seed}"


@dataclass(frozen=True, slots=True, eq=False)
class Sets:
    """Training, validation (operating points) and test (figures); no patient is in two."""

    train: tuple[Entry, ...]
    valid: tuple[Entry, ...]
    test: tuple[Entry, ...]
    sources: tuple[Credit, ...]
    held_out: tuple[real.Background, ...]


def make_starter(plan: StarterPlan, on_step: Step = lambda *_: None) -> Bundle:
    """Make the starter bundle, or what is missing of it.

    Raises:
        TrainingError: a folder is absent, a step failed, or the bundle does not prove itself.
    """
    sets = prepare(plan, on_step)

    def told(progress: Progress) -> None:
        done = progress.epoch * progress.steps + progress.step + 1
        on_step("train", done, plan.config.epochs * progress.steps)

    weights = train(sets.train, plan.config, plan.work / "run", resume=True, on_step=told)
    return assemble(plan, sets, weights, on_step)


def prepare(plan: StarterPlan, on_step: Step = lambda *_: None) -> Sets:
    """Generate the three sets, or read those that are complete."""
    shapes, boxes = lungs.load(), statistics.load()
    training: tuple[real.Background, ...] = ()
    held_out: tuple[real.Background, ...] = ()
    sources: tuple[Credit, ...] = ()
    if plan.backgrounds is not None:
        on_step("find lungs", 0, 1)
        training, held_out = real.split(real.load(plan.backgrounds, shapes), plan.seed)
        sources = _credits(plan.backgrounds, (*training, *held_out))
        on_step("find lungs", 1, 1)
    sets = {}
    for name, first, count, pictures in (
        ("train", _TRAIN_FROM, plan.train_images, training),
        ("valid", _VALID_FROM, plan.held_out_images, held_out),
        ("test", _TEST_FROM, plan.held_out_images, held_out),
    ):
        folder = plan.work / name
        if not (folder / "annotations.csv").is_file():
            generator = Generator(shapes, boxes, pictures)
            seeds = range(first, first + count)
            for done, _ in enumerate(store.write(generator, folder, seeds, workers=plan.workers)):
                on_step(f"paint {name}", done + 1, count)
        sets[name] = store.read(folder)
        if len(sets[name]) != count:
            raise TrainingError(f"{folder} holds {len(sets[name])} images, the plan says {count}")
    return Sets(sets["train"], sets["valid"], sets["test"], sources, held_out)


def assemble(
    plan: StarterPlan, sets: Sets, weights: Path, on_step: Step = lambda *_: None
) -> Bundle:
    """From trained weights to the bundle in `plan.out`."""
    on_step("export", 0, 3)
    graphs = _graphs(plan, sets.train, weights)
    on_step("export", 3, 3)
    draft = draft_bundle(plan.work / "draft.bundle", graphs)
    reports: dict[str, Report] = {}
    quiet: dict[str, tuple[int, ...]] = {}
    engines = _engines(draft)
    for number, (name, engine) in enumerate(engines.items()):
        on_step("measure", number, len(engines))
        detector = of_engine(engine, graphs.input, graphs.head)
        chosen = report(
            sets.valid,
            detect_all(sets.valid, detector),
            false_positives=plan.false_positives,
            floor=plan.floor,
        ).points
        reports[name] = report(sets.test, detect_all(sets.test, detector), points=chosen)
        clear = [b for b in sets.held_out if b.clear]
        quiet[name] = tuple(
            sum(f.score >= chosen[CATALOG[f.index].slug] for f in detector(b.pixels)) for b in clear
        )
        engine.close()
    on_step("measure", len(engines), len(engines))
    (plan.work / "draft.bundle").unlink()
    card = model_card(
        Card(
            version=plan.version,
            intended_use=INTENDED_USE,
            command=plan.command,
            config=plan.config,
            train_images=len(sets.train),
            reports=reports,
            marks_on_clear_radiographs=quiet,
            false_positives=plan.false_positives,
            credits=sets.sources,
        )
    )
    parts = BundleParts(
        name=NAME,
        version=plan.version,
        intended_use=INTENDED_USE,
        graphs=graphs,
        operating_points={name: of.points for name, of in reports.items()},
        pictures=golden_pictures(plan.config.input_size),
        model_card=card,
        provenance=Provenance(
            trained_on=f"{len(sets.train)} synthetic radiographs"
            + (", in part on real backgrounds" if sets.sources else ""),
            command=plan.command,
            seed=plan.seed,
            base_weights="none (random)",
            metrics={
                f"{name.removeprefix('openvino-')}_{figure}": round(getattr(of, figure), 4)
                for name, of in reports.items()
                for figure in ("map40", "map50", "quiet_share")
            },
        ),
        gate=gates.load(plan.gate) if plan.gate else None,
    )
    plan.out.mkdir(parents=True, exist_ok=True)
    return write_bundle(plan.out / f"{NAME}-{plan.version}.bundle", parts)


def golden_pictures(size: int, count: int = 12) -> dict[str, NDArray[np.uint8]]:
    """Procedural radiographs of the input's very size; no patient's pixels are in a bundle."""
    generator = Generator(lungs.load(), statistics.load())
    pictures = {}
    for k in range(count):
        pixels = generator.sample(_GOLDEN_FROM + k).pixels
        fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], size, size)
        pictures[f"case-{k}"] = letterbox(pixels, fit)
    return pictures


def _engines(draft: Bundle) -> dict[str, Engine]:
    """An engine for each variant; without BF16 where this processor does not compute it.

    Operating points that were never measured are not given away.
    """
    return {
        variant.name: measuring_engine(draft, variant)
        for variant in draft.manifest.engines
        if variant.precision != "bf16" or computes_bf16()
    }


def _graphs(plan: StarterPlan, entries: Sequence[Entry], weights: Path) -> Graphs:
    size = plan.config.input_size
    model = load_model(weights, plan.config.architecture)
    onnx = export_onnx(model, size, size)
    calibration = []
    for entry in entries[: plan.calibration_images]:
        pixels = entry.read()
        fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], size, size)
        calibration.append(letterbox(pixels, fit)[None, None])
    int8 = ir_bytes(quantize(to_openvino(onnx), calibration))
    members = dict(zip((INT8_XML, INT8_BIN), int8, strict=True))
    return Graphs(
        members={**members, ONNX: halve_weights(onnx)},
        input=InputSpec(height=size, width=size),
        head=HeadSpec(),
    )


def _credits(folder: Path, used: Sequence[real.Background]) -> tuple[Credit, ...]:
    table = folder / "attribution.csv"
    names = {background.name for background in used}
    if not table.is_file():
        return tuple(Credit(name, "not stated", "", "") for name in sorted(names))
    with table.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["filename"] in names]
    return tuple(
        Credit(row["filename"], row["license"], row["location"], row["doi"] or row["url"])
        for row in rows
    )
