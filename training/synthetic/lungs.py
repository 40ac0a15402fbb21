"""Lung outlines: a statistical shape model and its fit to a radiograph.

A lung is described by its left and right borders (as displayed) at `ROWS` levels between apex and
base. This represents the heart's silhouette and the domes of the diaphragm without landmarks. Mean
and principal modes come from 517 outlines drawn by hand (V7 Labs' COVID-19 X-ray dataset, as
mirrored by torchxrayvision). Only these aggregates are stored.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.atomic_files import replace_files
from training.errors import TrainingError

SHIPPED: Final = Path(__file__).with_name("lung_shapes.json")
ROWS: Final = 32
MODES: Final = 14

Mask = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lung:
    """One lung in pixels: borders at `ROWS` equidistant levels from `top` to `bottom`."""

    top: float
    bottom: float
    left: Floats
    right: Floats

    @property
    def levels(self) -> Floats:
        """The y of every level, f32 of shape (ROWS,)."""
        return np.linspace(self.top, self.bottom, ROWS, dtype=np.float32)

    def borders_at(self, y: float) -> tuple[float, float]:
        """Return left and right border at a height; beyond the ends, those of the nearest level."""
        return (
            float(np.interp(y, self.levels, self.left)),
            float(np.interp(y, self.levels, self.right)),
        )

    def polygon(self) -> Floats:
        """Return the outline as f32 of shape (2 * ROWS, 2), x and y."""
        down = np.stack([self.left, self.levels], axis=1)
        up = np.stack([self.right, self.levels], axis=1)[::-1]
        return np.concatenate([down, up]).astype(np.float32)

    def mask(self, shape: tuple[int, int]) -> Mask:
        """Return the mask as u8 of `shape` (H, W), 255 inside, smooth at the border."""
        filled = np.zeros(shape, np.uint8)
        points = np.round(self.polygon() * 16).astype(np.int32)
        cv2.fillPoly(filled, [points], 255, lineType=cv2.LINE_AA, shift=4)
        return filled


@dataclass(frozen=True, slots=True)
class Lungs:
    """Both lungs as displayed: `first`, on the image's left, is the patient's right lung."""

    first: Lung
    second: Lung

    def mask(self, shape: tuple[int, int]) -> Mask:
        """Return the mask of both lungs, as `Lung.mask`."""
        return np.maximum(self.first.mask(shape), self.second.mask(shape))

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """The box of both lungs: x_min, y_min, x_max, y_max."""
        return (
            float(self.first.left.min()),
            min(self.first.top, self.second.top),
            float(self.second.right.max()),
            max(self.first.bottom, self.second.bottom),
        )

    def vector(self) -> NDArray[np.float64]:
        """Return the shape relative to `extent`, f64 of shape (4 + 4 * ROWS,)."""
        x_min, y_min, x_max, y_max = self.extent
        width, height = x_max - x_min, y_max - y_min
        parts = []
        for lung in (self.first, self.second):
            parts.append(np.array([lung.top - y_min, lung.bottom - y_min], np.float64) / height)
            parts.append((lung.left.astype(np.float64) - x_min) / width)
            parts.append((lung.right.astype(np.float64) - x_min) / width)
        return np.concatenate(parts).astype(np.float64)


def place_shape(
    vector: NDArray[np.float64], x: float, y: float, width: float, height: float
) -> Lungs:
    """Convert a shape vector to lungs.

    Args:
        vector: f64 of shape (4 + 4 * ROWS,), as `Lungs.vector` returns it.
        x: left edge of the lungs' extent in pixels.
        y: upper edge of the extent in pixels.
        width: of the extent in pixels.
        height: of the extent in pixels.

    Returns:
        The lungs.
    """
    lungs = []
    for part in np.split(vector, 2):
        left, right = part[2 : 2 + ROWS], part[2 + ROWS :]
        middle = (left + right) / 2
        half = np.maximum((right - left) / 2, 0.004)
        lungs.append(
            Lung(
                top=y + float(part[0]) * height,
                bottom=y + float(max(part[1], part[0] + 0.2)) * height,
                left=(x + (middle - half) * width).astype(np.float32),
                right=(x + (middle + half) * width).astype(np.float32),
            )
        )
    return Lungs(*lungs)


@dataclass(frozen=True, slots=True)
class ShapeModel:
    """The shape model: mean vector and `modes` (MODES, n) for unit-variance coefficients.

    `aspect` is the 5th to the 95th percentile of width over height.
    """

    mean: NDArray[np.float64]
    modes: NDArray[np.float64]
    aspect: tuple[float, float]

    def vector(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the shape vector for coefficients of the first modes, in standard deviations."""
        return self.mean + coefficients @ self.modes[: len(coefficients)]


def load_shape_model(path: Path = SHIPPED) -> ShapeModel:
    """Load a shape model, by default the one shipped beside this module."""
    document = json.loads(path.read_text(encoding="utf-8"))
    low, high = document["aspect"]
    return ShapeModel(
        mean=np.asarray(document["mean"], float),
        modes=np.asarray(document["modes"], float),
        aspect=(low, high),
    )


def measure_shape_model(masks: Path) -> ShapeModel:
    """Build a shape model from lung masks.

    Args:
        masks: a folder or zip of 8-bit mask images (lungs 255), frontal views.

    Raises:
        TrainingError: fewer than 50 masks show two lungs.
    """
    vectors: list[NDArray[np.float64]] = []
    aspects: list[float] = []
    for mask in _read_masks(masks):
        lungs = outline_from_mask(mask)
        if lungs is None:
            continue
        x_min, y_min, x_max, y_max = lungs.extent
        aspects.append((x_max - x_min) / (y_max - y_min))
        vectors.append(lungs.vector())
    if len(vectors) < 50:
        raise TrainingError(
            f"{masks} holds {len(vectors)} usable lung masks, at least 50 are needed"
        )
    table = np.stack(vectors)
    mean = table.mean(axis=0)
    _, spread, modes = np.linalg.svd(table - mean, full_matrices=False)
    scaled = modes[:MODES] * (spread[:MODES, None] / np.sqrt(len(table) - 1))
    low, high = np.percentile(aspects, [5, 95])
    return ShapeModel(mean=mean, modes=scaled, aspect=(float(low), float(high)))


def save_shape_model(model: ShapeModel, path: Path) -> None:
    """Write a shape model as JSON.

    Raises:
        TrainingError: the disk cannot be written; the previous file is unchanged.
    """
    document = {
        "source": "V7 Labs COVID-19 X-ray dataset, lung masks (torchxrayvision)",
        "aspect": [round(v, 4) for v in model.aspect],
        "mean": [round(v, 4) for v in model.mean.tolist()],
        "modes": [[round(v, 4) for v in mode] for mode in model.modes.tolist()],
    }
    with replace_files(path.parent) as place:
        place(path.name).write_text(json.dumps(document) + "\n", encoding="utf-8")


def _read_masks(source: Path) -> Iterator[Mask]:
    suffixes = {".png", ".jpg", ".jpeg"}
    if source.is_dir():
        blobs = (p.read_bytes() for p in sorted(source.rglob("*")) if p.suffix.lower() in suffixes)
    elif zipfile.is_zipfile(source):
        archive = zipfile.ZipFile(source)
        names = sorted(n for n in archive.namelist() if Path(n).suffix.lower() in suffixes)
        blobs = (archive.read(name) for name in names)
    else:
        raise TrainingError(f"{source} is neither a folder nor a zip of masks")
    for blob in blobs:
        mask = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_GRAYSCALE)
        if mask is not None:
            yield mask.astype(np.uint8)


def outline_from_mask(mask: Mask) -> Lungs | None:
    """Return the outlines of a mask's two largest parts, None if they are not side by side."""
    scale = 512 / max(mask.shape)
    small = cv2.resize(mask, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) > 127
    count, labels, stats, centres = cv2.connectedComponentsWithStats(small.astype(np.uint8))
    order = np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:2] + 1
    if count < 3 or stats[order[1], cv2.CC_STAT_AREA] < 0.25 * stats[order[0], cv2.CC_STAT_AREA]:
        return None
    first, second = sorted(order.tolist(), key=lambda k: centres[k][0])
    if stats[second, cv2.CC_STAT_LEFT] < centres[first][0]:
        return None
    return Lungs(_outline_part(labels == first, scale), _outline_part(labels == second, scale))


def _outline_part(part: NDArray[np.bool_], scale: float) -> Lung:
    ys = np.flatnonzero(part.any(axis=1))
    left, right = [], []
    for y in np.linspace(ys[0], ys[-1], ROWS).round().astype(int):
        runs = np.flatnonzero(np.diff(np.concatenate([[0], part[y].astype(np.int8), [0]])))
        starts, ends = runs[::2], runs[1::2]
        widest = int(np.argmax(ends - starts))
        left.append(starts[widest])
        right.append(ends[widest])
    return Lung(
        top=float(ys[0]) / scale,
        bottom=float(ys[-1] + 1) / scale,
        left=np.asarray(left, np.float32) / np.float32(scale),
        right=np.asarray(right, np.float32) / np.float32(scale),
    )
