"""Makes the starter bundle: generates a set, then runs every stage of `hilum-train all`.

The set, the configuration and the run stay in the work folder and are not made again, so an
interrupted run continues.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from edge_agent.engines.bundle import Bundle
from edge_agent.engines.runtimes.openvino import has_native_bf16
from hilum.catalog import CATALOG
from training.bundle.measuring import measuring_engine
from training.bundle.variants import BF16, FP32, INT8, ORT_FP32
from training.config import (
    BundleConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    ParityBounds,
    TrackingConfig,
    TrainConfig,
)
from training.data import splits
from training.data.atomic_files import replace_files
from training.errors import TrainingError
from training.evaluation.detectors import engine_detector
from training.progress import ProgressCallback, ignore_progress
from training.synthetic import backgrounds, box_statistics, lungs, writer
from training.synthetic.generator import Generator
from training.workflow.run_all import run_all

NAME: Final = "starter"
INTENDED_USE: Final = (
    "Research and demonstration only. Trained on synthetic findings; not for clinical use."
)
LIMITS: Final = (
    "Real disease looks different from what was painted.",
    "Expect missed findings of every class, and marks where there is nothing, most of all diffuse.",
    "The few real backgrounds come from one public collection, most of them from one hospital.",
    "Most of them show pneumonia that nobody had outlined: no mark on one counts as a false one.",
    "Not for children.",
)
TRAIN: Final[dict[str, object]] = {
    "small_size": 256,
    "small_epochs": 4,
    "epochs": 12,
    "restart_epoch": 7,
    "validate_every": 3,
}
"""Default settings of `train` for the starter."""
TRAIN_FURTHER: Final[dict[str, object]] = {
    "small_epochs": 0,
    "epochs": 9,
    "restart_epoch": None,
    "learning_rate": 1.2e-3,
}
"""Default settings where a run starts from the weights of an earlier one."""
FIRST_SEED: Final = {"train": 0, "valid": 10_000_000, "test": 20_000_000}
_CLEAR: Final = "clear.txt"


@dataclass(frozen=True, slots=True)
class StarterPlan:
    """What to make. `seed` drives the division of the backgrounds and the training."""

    out: Path
    work: Path
    backgrounds: Path | None = None
    name: str = NAME
    version: str = "0.1.0"
    seed: int = 11
    train_images: int = 4800
    held_out_images: int = 1000
    calibration_images: int = 300
    fast_bias_correction: bool | None = None
    workers: int = 2
    content_check: Path | None = None
    replaces: Path | None = None
    modifications: str = "First version."
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    # One of a finding's hundred boxes more or less is 0.01: the usual 0.03 would be chance's.
    bounds: ParityBounds = field(default_factory=lambda: ParityBounds(sensitivity_drop=0.05))

    @property
    def command(self) -> str:
        """Return the command that makes the bundle again."""
        train = self.train
        given = [
            "--backgrounds RADIOGRAPHS" if self.backgrounds else "",
            f"--content-check {self.content_check.name}" if self.content_check else "",
            f"--weights {train.weights.name}" if train.weights else "",
            f"--replaces {self.replaces.name}" if self.replaces else "",
            f"--activation {train.activation}",
            f"--epochs {train.epochs} --small-epochs {train.small_epochs}",
            f"--learning-rate {train.learning_rate:g} --seed {self.seed}",
            f"--name {self.name}" if self.name != NAME else "",
            f"--version {self.version}",
        ]
        return " ".join([f"hilum-train starter --out {self.out}", *filter(None, given)])

    @property
    def config(self) -> Config:
        """Return the configuration for `hilum-train all`."""
        return Config(
            out=self.work / "run",
            data=DataConfig(dataset=self.work / "set"),
            train=self.train,
            evaluate=self.evaluate,
            # Without an IR of its own OpenVINO reads the ONNX graph: half the file, and its first
            # start alone is slower.
            export=ExportConfig(
                calibration_images=self.calibration_images,
                fast_bias_correction=self.fast_bias_correction,
                float_ir=False,
                capabilities=(),
            ),
            parity=self.bounds,
            bundle=BundleConfig(
                name=self.name,
                version=self.version,
                intended_use=INTENDED_USE,
                data="synthetic radiographs"
                + (", in part on real backgrounds" if self.backgrounds else ""),
                variants=(INT8, *((BF16,) if has_native_bf16() else ()), FP32, ORT_FP32),
                content_check=self.content_check,
                replaces=self.replaces,
                modifications=self.modifications,
                limits=LIMITS,
                credits=self.work / "credits.md",
                command=self.command,
            ),
            tracking=TrackingConfig(uri=f"sqlite:///{self.work / 'mlflow.db'}", model=self.name),
        )


def make_starter(
    plan: StarterPlan,
    train: Callable[[Config], object],
    *,
    on_message: Callable[[str], None] = lambda _: None,
    on_progress: ProgressCallback = ignore_progress,
) -> Bundle:
    """Make the starter bundle, or what is missing of it.

    Args:
        plan: what to make.
        train, on_message, on_progress: as `run_all` takes them.

    Raises:
        TrainingError: a folder is absent, a step failed, a bound was not kept, or the bundle does
            not prove itself.
    """
    generate_set(plan, on_progress)
    made = run_all(plan.config, train, on_message=on_message, on_progress=on_progress).bundle
    for name, marks in count_false_positives(plan, made).items():
        on_message(
            f"{name}: {', '.join(map(str, marks))} marks on held-out radiographs that are clear"
        )
    with replace_files(plan.out) as place:
        shutil.copyfile(made.path, place(made.path.name))
    return Bundle.open(plan.out / made.path.name)


def generate_set(plan: StarterPlan, on_progress: ProgressCallback = ignore_progress) -> None:
    """Generate the set with its frozen split, and the credits; nothing if that is done.

    No patient whose radiograph is a background is in two splits.

    Raises:
        TrainingError: there are no backgrounds in their folder, or the set is of another plan.
    """
    folder = plan.work / "set"
    counts = dict.fromkeys(splits.NAMES, plan.held_out_images) | {"train": plan.train_images}
    if (folder / splits.FILE).is_file():
        found = {name: len(ids) for name, ids in splits.load_split(folder).images.items()}
        if found != counts:
            raise TrainingError(f"{folder} holds {found} images, the plan says {counts}")
        return
    shapes, boxes = lungs.load_shape_model(), box_statistics.load_statistics()
    training: tuple[backgrounds.Background, ...] = ()
    held_out: tuple[backgrounds.Background, ...] = ()
    if plan.backgrounds is not None:
        on_progress("find lungs", 0, 1)
        training, held_out = backgrounds.split_by_patient(
            backgrounds.load_backgrounds(plan.backgrounds, shapes), plan.seed
        )
        on_progress("find lungs", 1, 1)
    parts = [
        writer.SyntheticPart(
            name,
            Generator(shapes, boxes, training if name == "train" else held_out),
            range(FIRST_SEED[name], FIRST_SEED[name] + count),
        )
        for name, count in counts.items()
    ]
    with replace_files(plan.work) as place:
        used = [background.name for background in (*training, *held_out)]
        place("credits.md").write_text(_write_credits(plan.backgrounds, used), encoding="utf-8")
        clear = [f"{background.name}\n" for background in held_out if background.clear]
        place(_CLEAR).write_text("".join(clear), encoding="utf-8")
    split = splits.Split(plan.seed, {part.name: tuple(writer.image_ids(part)) for part in parts})
    samples = writer.write_dataset_parts(parts, folder, split=split, workers=plan.workers)
    for done, _ in enumerate(samples, start=1):
        on_progress("paint", done, sum(counts.values()))


def count_false_positives(plan: StarterPlan, bundle: Bundle) -> dict[str, list[int]]:
    """Count each variant's findings on each held-out radiograph whose readers found nothing."""
    names = (plan.work / _CLEAR).read_text(encoding="utf-8").splitlines()
    if plan.backgrounds is None or not names:
        return {}
    films = [cv2.imread(str(plan.backgrounds / name), cv2.IMREAD_GRAYSCALE) for name in names]
    counts: dict[str, list[int]] = {}
    for variant in bundle.manifest.engines:
        engine = measuring_engine(bundle, variant)
        detect = engine_detector(engine, bundle.manifest.input, bundle.manifest.head)
        points = [variant.operating_points[finding.slug] for finding in CATALOG]
        counts[variant.name] = [
            sum(found.score >= points[found.index] for found in detect(np.asarray(film, np.uint8)))
            for film in films
        ]
        engine.close()
    return counts


def _write_credits(folder: Path | None, used: Sequence[str]) -> str:
    """Return the sources of backgrounds, shapes and statistics, as Markdown."""
    lines = [
        "Lung shapes: aggregates of V7 Labs' lung masks. Box statistics: aggregates of VinDr-CXR's",
        "annotations (Nguyen et al., 2022). Both as mirrored by torchxrayvision.",
    ]
    if folder is None:
        return "\n".join(["Every chest was painted.", *lines, ""])
    lines += [
        "Backgrounds: the COVID-19 image data collection (Cohen et al., 2020). Changed: shrunk,",
        "cropped, re-windowed, synthetic findings added. None of their pixels are in this bundle.",
        "",
        "| origin | licence | source | files |",
        "|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, terms in _read_attribution(folder, used):
        groups.setdefault(terms, []).append(name)
    for (origin, licence, source), names in sorted(groups.items()):
        lines.append(f"| {origin} | {licence} | {source} | {', '.join(sorted(names))} |")
    return "\n".join([*lines, ""])


def _read_attribution(
    folder: Path, used: Sequence[str]
) -> Iterable[tuple[str, tuple[str, str, str]]]:
    """Return origin, licence and source of each file, from the folder's `attribution.csv`."""
    table = folder / "attribution.csv"
    if not table.is_file():
        return [(name, ("", "not stated", "")) for name in used]
    with table.open(newline="", encoding="utf-8") as lines:
        rows = {row["filename"]: row for row in csv.DictReader(lines)}
    return [
        (name, (row["location"], row["license"], row["doi"] or row["url"]))
        for name in used
        if (row := rows.get(name))
    ]
