"""Images on which the content check is trained and measured, each with its content.

Frontal chests are real radiographs of a folder, by patient, and painted ones with findings. Other
images are painted (`bones`, `scenes`) or come from installed packages. Chests from the side are
only painted, because no real one is available.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import StudyImageRefused
from edge_agent.imaging import read_study
from training.content_check import bones, scenes
from training.errors import TrainingError
from training.synthetic import box_statistics, lungs
from training.synthetic.generator import Generator
from training.synthetic.primitives import Floats

Pixels = NDArray[np.uint8]
STORED: Final = 128
"""Long side in pixels at which images are kept; twice the network's input."""


class Content(IntEnum):
    """The content of an image; the values are the network's outputs."""

    FRONTAL = 0
    LATERAL = 1
    OTHER = 2


@dataclass(frozen=True, slots=True, eq=False)
class ContentImage:
    """One image with its content: u8 (H, W), upright; a chest has bright bone.

    `kind` is a key of `OTHER_PAINTERS`, `lateral`, `radiograph`, `painted chest`, `package` or
    `real`. `patient` is "" for an image without a patient.
    """

    name: str
    content: Content
    kind: str
    pixels: Pixels
    patient: str = ""


OTHER_PAINTERS: Final[Mapping[str, Callable[[np.random.Generator], Floats]]] = {
    "limb": bones.paint_limb,
    "hand": bones.paint_hand,
    "skull": bones.paint_skull,
    "spine": bones.paint_spine,
    "pelvis": bones.paint_pelvis,
    "joint": bones.paint_joint,
    "slice": scenes.paint_slice,
    "ultrasound": scenes.paint_ultrasound,
    "mammogram": scenes.paint_mammogram,
    "page": scenes.paint_page,
    "texture": scenes.paint_texture,
    "scene": scenes.paint_scene,
    "cells": scenes.paint_cells,
    "mirrored": scenes.paint_mirrored,
    "face": scenes.paint_portrait,
    "gradient": scenes.paint_test_pattern,
}
"""Painters of images that are no chests, by kind."""

_PACKAGED: Final = (
    ("pydicom", "data/test_files/CT_small.dcm"),
    ("pydicom", "data/test_files/MR_small.dcm"),
    ("pydicom", "data/test_files/examples_overlay.dcm"),
    ("pydicom", "data/test_files/examples_jpeg2k.dcm"),
    ("pydicom", "data/test_files/JPEG2000.dcm"),
    ("pydicom", "data/test_files/image_dfl.dcm"),
    ("pydicom", "data/test_files/liver_1frame.dcm"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("matplotlib", "mpl-data/sample_data/Minduka_Present_Blue_Pack.png"),
)
"""Real images for training, from packages that training needs anyway. Kept for the test: the ankle
(RG3), CT and MR slices and ultrasound images of pydicom-data, the photographs of ultralytics."""


def paint_image(kind: str, rng: np.random.Generator) -> Pixels:
    """Paint an image of a kind of `OTHER_PAINTERS`, or `lateral`: u8 (STORED, STORED)."""
    picture = bones.paint_lateral_chest(rng) if kind == "lateral" else OTHER_PAINTERS[kind](rng)
    if kind not in {"lateral", "page"} and rng.random() < 0.5:
        picture = picture[:, ::-1]
    low, high = np.percentile(picture, [rng.uniform(0, 1.5), rng.uniform(98.5, 100)])
    scaled = (picture - low) / np.float32(max(float(high - low), 0.02)) * np.float32(255)
    return shrink(np.clip(scaled, 0, 255).astype(np.uint8))


def paint_others(seeds: Iterable[int], each: int) -> list[ContentImage]:
    """Paint `each` images per seed and kind; a pure function of the seeds."""
    return [
        ContentImage(
            f"{kind}-{seed}-{k}", Content.OTHER, kind, paint_image(kind, _rng(seed, number, k))
        )
        for seed in seeds
        for number, kind in enumerate(OTHER_PAINTERS)
        for k in range(each)
    ]


def paint_laterals(seed: int, count: int) -> list[ContentImage]:
    """Paint `count` chests from the side."""
    return [
        ContentImage(
            f"lateral-{seed}-{k}",
            Content.LATERAL,
            "lateral",
            paint_image("lateral", _rng(seed, 99, k)),
        )
        for k in range(count)
    ]


def paint_chests(
    first: int, count: int, on_progress: Callable[[int], None] = lambda _: None
) -> list[ContentImage]:
    """Paint frontal chests with synthetic findings, without real backgrounds.

    Args:
        first: seed of the first chest.
        count: number of chests.
        on_progress: called with the number of chests done.

    Returns:
        The chests.
    """
    generator = Generator(lungs.load_shape_model(), box_statistics.load_statistics())
    pictures = []
    for k in range(first, first + count):
        pixels = shrink(generator.sample(k).pixels)
        pictures.append(ContentImage(f"chest-{k}", Content.FRONTAL, "painted chest", pixels))
        on_progress(k - first + 1)
    return pictures


def load_radiographs(folder: Path) -> list[ContentImage]:
    """Load real frontal radiographs (JPEG, PNG) of a folder.

    An `attribution.csv` in the folder names their patients. Without it every file counts as a
    patient of its own.

    Raises:
        TrainingError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder of radiographs")
    table = folder / "attribution.csv"
    patients = {}
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as lines:
            patients = {row["filename"]: row["patientid"] for row in csv.DictReader(lines)}
    pictures = [
        ContentImage(
            path.name,
            Content.FRONTAL,
            "radiograph",
            shrink(read_upright(path)),
            patients.get(path.name) or path.stem,
        )
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in {".jpg", ".jpeg", ".png"}
    ]
    if not pictures:
        raise TrainingError(f"{folder} holds no radiograph")
    return pictures


def load_packaged() -> list[ContentImage]:
    """Load the real images of installed packages that the network is trained on.

    Raises:
        TrainingError: a package or its image is missing; install the training extra.
    """
    pictures = []
    for package, path in _PACKAGED:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise TrainingError(f"the package {package} is not installed")
        pixels = shrink(read_other_image(Path(spec.origin).parent / path))
        pictures.append(ContentImage(path.rpartition("/")[2], Content.OTHER, "package", pixels))
    return pictures


def read_upright(path: Path) -> Pixels:
    """Read a radiograph as the agent does, u8 (H, W).

    Raises:
        TrainingError: the agent refuses the file.
    """
    try:
        return read_study(path.read_bytes())[0].pixels
    except StudyImageRefused as error:
        raise TrainingError(f"{path.name}: {error.message}") from error


def read_other_image(path: Path) -> Pixels:
    """Read any image as it would look when exported as a grey PNG, u8 (H, W).

    The grey values of a DICOM file of any modality are stretched to their full range. Of several
    frames the middle one is used.

    Raises:
        TrainingError: the file is no readable image.
    """
    if path.suffix != ".dcm":
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise TrainingError(f"{path} is no image")
        return np.asarray(pixels, np.uint8)
    return _read_dicom(path)


def _read_dicom(path: Path) -> Pixels:
    import pydicom  # noqa: PLC0415  # Only the other images are DICOM.
    from pydicom.pixels.processing import apply_color_lut, apply_voi_lut  # noqa: PLC0415

    try:
        header = pydicom.dcmread(path, force=True)
        pixels = header.pixel_array
        if int(header.get("NumberOfFrames") or 1) > 1:
            pixels = pixels[len(pixels) // 2]
        if header.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, header)
        elif header.SamplesPerPixel == 1:
            pixels = apply_voi_lut(pixels, header)
    except Exception as error:
        raise TrainingError(f"{path.name}: {error}") from error
    grey = np.asarray(pixels, np.float32)
    grey = grey[..., :3].mean(-1) if grey.ndim == 3 else grey
    if header.PhotometricInterpretation == "MONOCHROME1":
        grey = grey.max() - grey
    span = max(float(np.ptp(grey)), 1e-6)
    return np.asarray((grey - grey.min()) / span * 255, np.uint8)


def shrink(pixels: Pixels) -> Pixels:
    """Shrink an image to a long side of `STORED` pixels; a smaller one is returned unchanged."""
    scale = STORED / max(pixels.shape)
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _rng(*parts: int) -> np.random.Generator:
    return np.random.default_rng([20_27, *parts])
