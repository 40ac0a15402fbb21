"""Real radiographs as backgrounds for synthetic findings."""

from __future__ import annotations

import csv
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hilum.catalog import BY_SLUG
from training.errors import TrainingError
from training.synthetic import primitives
from training.synthetic.chest import Chest, estimate_frame
from training.synthetic.lung_fit import fit_lungs
from training.synthetic.lungs import Lung, Lungs, ShapeModel

_SUFFIXES: Final = {".jpg", ".jpeg", ".png"}
_STORED: Final = 640
_LEAST_SCORE: Final = 0.45

_OPACITIES: Final = frozenset(
    BY_SLUG[slug].index
    for slug in (
        "atelectasis",
        "consolidation",
        "ild",
        "infiltration",
        "lung_opacity",
        "other_lesion",
        "pleural_effusion",
        "pleural_thickening",
        "pulmonary_fibrosis",
    )
)
_SILHOUETTES: Final = frozenset(
    BY_SLUG[slug].index for slug in ("aortic_enlargement", "cardiomegaly")
)


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """One real radiograph whose lungs were found.

    `pixels` is u8 with a long side of 640. `unknown` are the classes that it may show without a
    label. `clear` is True if its readers found nothing.
    """

    name: str
    patient: str
    clear: bool
    unknown: frozenset[int]
    pixels: NDArray[np.uint8]
    lungs: Lungs

    def to_chest(self, size: int, rng: np.random.Generator) -> Chest:
        """Return a chest of `size` x `size`: this radiograph, moved and scaled at random."""
        rows, columns = self.pixels.shape
        scale = size / max(rows, columns) * rng.uniform(0.88, 1.18)
        aspect = float(np.exp(rng.normal(0, 0.04)))
        sx, sy = scale * aspect, scale / aspect
        dx = (size - columns * sx) / 2 + rng.normal(0, 0.02) * size
        dy = (size - rows * sy) / 2 + rng.normal(0, 0.02) * size
        move = np.array([[sx, 0, dx], [0, sy, dy]], np.float32)
        moved = cv2.warpAffine(self.pixels, move, (size, size), flags=cv2.INTER_AREA)
        pixels = moved.astype(np.float32) / np.float32(255)
        lungs = Lungs(
            _transform_lung(self.lungs.first, sx, sy, dx, dy),
            _transform_lung(self.lungs.second, sx, sy, dx, dy),
        )
        mask = lungs.mask((size, size))
        inside = pixels[mask > 200]
        x_min, y_min, x_max, y_max = (round(v) for v in lungs.extent)
        around = pixels[max(0, y_min) : y_max, max(0, x_min) : x_max]
        dark = float(np.median(inside)) if inside.size else 0.3
        tissue = max(float(np.percentile(around, 88)), dark + 0.1)
        soft = primitives.blur(mask.astype(np.float32) / np.float32(255), 2.5)
        # Where the outline includes heart or diaphragm there is little air.
        air = soft * np.clip((tissue - primitives.blur(pixels, 4)) / (0.6 * (tissue - dark)), 0, 1)
        frame = estimate_frame(lungs)
        knob_x = frame.middle + 0.05 * frame.thorax
        return Chest(
            pixels=pixels,
            lungs=lungs,
            air=np.asarray(air, np.float32),
            frame=frame,
            contrast=tissue - dark,
            tissue=tissue,
            heart=(0, 0, 0, 0),
            knob=(
                knob_x - 0.04 * frame.thorax,
                frame.knob_y - 0.06 * frame.thorax,
                knob_x + 0.04 * frame.thorax,
                frame.knob_y + 0.06 * frame.thorax,
            ),
        )


def _transform_lung(lung: Lung, sx: float, sy: float, dx: float, dy: float) -> Lung:
    return Lung(
        top=lung.top * sy + dy,
        bottom=lung.bottom * sy + dy,
        left=(lung.left * sx + dx).astype(np.float32),
        right=(lung.right * sx + dx).astype(np.float32),
    )


def load_backgrounds(folder: Path, model: ShapeModel) -> tuple[Background, ...]:
    """Load every radiograph of a folder whose lungs can be found.

    An `attribution.csv` in the folder (columns filename, patientid, finding, view) names the
    patient of an image and whether it is clear. Without it every image counts as a patient of its
    own and may show any finding.

    Args:
        folder: JPEG and PNG files.
        model: shapes of the lungs.

    Returns:
        The backgrounds, in the order of their file names.

    Raises:
        TrainingError: there is no such folder, or no usable radiograph in it.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder of radiographs")
    facts = _load_attribution(folder / "attribution.csv")
    found = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES):
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            continue
        scale = _STORED / max(pixels.shape)
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        lungs, score = fit_lungs(
            small.astype(np.uint8), model, np.random.default_rng(zlib.crc32(path.name.encode()))
        )
        if score < _LEAST_SCORE or not _is_within(lungs, small.shape):
            continue
        fact = facts.get(path.name, {})
        clear = fact.get("finding") == "No Finding"
        unknown = frozenset() if clear else _OPACITIES
        if not clear and fact.get("view") != "PA":
            unknown |= _SILHOUETTES
        found.append(
            Background(
                name=path.name,
                patient=fact.get("patientid") or path.stem,
                clear=clear,
                unknown=unknown,
                pixels=small.astype(np.uint8),
                lungs=lungs,
            )
        )
    if not found:
        raise TrainingError(f"{folder} holds no frontal radiograph whose lungs could be found")
    return tuple(found)


def _load_attribution(table: Path) -> dict[str, dict[str, str]]:
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as lines:
        return {row["filename"]: row for row in csv.DictReader(lines)}


def _is_within(lungs: Lungs, shape: tuple[int, ...]) -> bool:
    x_min, y_min, x_max, y_max = lungs.extent
    slack = 0.03 * max(shape)
    return (
        x_min > -slack and y_min > -slack and x_max < shape[1] + slack and y_max < shape[0] + slack
    )


def split_by_patient(
    backgrounds: tuple[Background, ...], seed: int, *, held_out: float = 0.15
) -> tuple[tuple[Background, ...], tuple[Background, ...]]:
    """Split backgrounds by patient into training and held out.

    Clear radiographs are few, and false positives are counted on them. So two of three of their
    patients are held out.

    Args:
        backgrounds: all of them.
        seed: decides which patients are held out.
        held_out: share of the other patients that are held out.

    Returns:
        The backgrounds to train on, and those held out.
    """
    rng = np.random.default_rng(seed)
    clear = sorted({b.patient for b in backgrounds if b.clear})
    others = sorted({b.patient for b in backgrounds} - set(clear))
    back = set(rng.permutation(clear)[: round(len(clear) * 2 / 3)].tolist())
    back |= set(rng.permutation(others)[: round(len(others) * held_out)].tolist())
    return (
        tuple(b for b in backgrounds if b.patient not in back),
        tuple(b for b in backgrounds if b.patient in back),
    )
