"""Stored images to batches: light augmentation, then the clinic's own letterbox geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.core.geometry import Letterbox
from edge_agent.imaging.letterbox import PAD_VALUE, apply_letterbox
from hilum.catalog import CATALOG
from training.config import TrainConfig
from training.data.dataset import LabelledImage


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Arrays of one training step, as far as they are this process's.

    `chosen` are the numbers of its entries and `together` how many all processes have. `pixels` u8
    (N, 1, H, W); `image`, `classes` i64 (M,), `boxes` f32 (M, 4) and `weights` f32 (M,) say for
    every finding in which image of the batch it lies, what it is, its centre and size as shares of
    the input, and what it counts; `known` bool (N, classes) is False where a class may be
    unlabelled.
    """

    chosen: tuple[int, ...]
    together: int
    pixels: NDArray[np.uint8]
    image: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    weights: NDArray[np.float32]
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class _Input:
    """One input: u8 (size, size), rows of class, box as shares and weight, f64 (n, 6)."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    unknown: frozenset[int]


def batches(
    entries: Sequence[LabelledImage],
    config: TrainConfig,
    epoch: int,
    *,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """One epoch: every entry once, in an order that depends on nothing but seed and epoch.

    Each of `world` processes gets its share of every batch, so that together they do what one
    would do alone.
    """
    size = config.size_in(epoch)

    def load(k: int) -> _Input:
        if not config.augment:
            return _plain(entries[k], size)
        return _augmented(entries, k, size, config, np.random.default_rng([config.seed, epoch, k]))

    with ThreadPoolExecutor(config.loaders, thread_name_prefix="pictures") as pool:
        for chosen in steps(len(entries), config, epoch, world):
            own = chosen[rank::world]
            yield _batch(own, len(chosen), list(pool.map(load, own)), config.reader_weights)


def steps(images: int, config: TrainConfig, epoch: int = 0, world: int = 1) -> list[list[int]]:
    """Numbers of the entries of each step of an epoch, all processes together.

    What is left over at the end is a smaller batch, or, where it would not reach every process,
    part of the one before.
    """
    order = np.random.default_rng([config.seed, epoch]).permutation(images).tolist()
    parts = [order[k : k + config.batch] for k in range(0, images, config.batch)]
    if len(parts) > 1 and len(parts[-1]) < world:
        parts[-2:] = [parts[-2] + parts[-1]]
    return parts


def _batch(chosen: list[int], together: int, inputs: list[_Input], by_reader: bool) -> Batch:
    known = np.ones((len(inputs), len(CATALOG)), np.bool_)
    for row, one in enumerate(inputs):
        known[row, sorted(one.unknown)] = False
    boxes = np.concatenate([one.boxes for one in inputs])
    return Batch(
        chosen=tuple(chosen),
        together=together,
        pixels=np.stack([one.pixels for one in inputs])[:, None],
        image=np.repeat(np.arange(len(inputs)), [len(one.boxes) for one in inputs]),
        classes=boxes[:, 0].astype(np.int64),
        boxes=boxes[:, 1:5].astype(np.float32),
        weights=boxes[:, 5].astype(np.float32) if by_reader else np.ones(len(boxes), np.float32),
        known=known,
    )


def _plain(entry: LabelledImage, size: int) -> _Input:
    """The clinic's own picture."""
    pixels = entry.read_pixels()
    fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], size, size)
    place = np.array([[fit.scale_x, 0, fit.left], [0, fit.scale_y, fit.top], [0, 0, 1]])
    return _Input(apply_letterbox(pixels, fit), _boxes(entry, place, size, size), entry.unknown)


def _augmented(
    entries: Sequence[LabelledImage],
    k: int,
    size: int,
    config: TrainConfig,
    rng: np.random.Generator,
) -> _Input:
    """One warped picture, or a mosaic of four where asked for."""
    # The generator is not drawn from for what is off, so a run stays what it was.
    if config.mosaic and rng.random() < config.mosaic:
        made = _mosaic(entries, [k, *rng.integers(0, len(entries), 3).tolist()], size, rng)
    else:
        made = _warped(entries[k], size, size, rng)
    if config.vertical_flip and rng.random() < config.vertical_flip:
        made.boxes[:, 2] = 1 - made.boxes[:, 2]
        made = replace(made, pixels=np.ascontiguousarray(made.pixels[::-1]))
    return made


def _mosaic(
    entries: Sequence[LabelledImage], chosen: Sequence[int], size: int, rng: np.random.Generator
) -> _Input:
    """Four warped pictures about a point near the middle."""
    x, y = (rng.uniform(0.35, 0.65, 2) * size).astype(int).tolist()
    canvas = np.full((size, size), PAD_VALUE, np.uint8)
    boxes = []
    corners = ((0, 0, y, x), (0, x, y, size), (y, 0, size, x), (y, x, size, size))
    for k, (top, left, bottom, right) in zip(chosen, corners, strict=True):
        rows, columns = bottom - top, right - left
        part = _warped(entries[k], rows, columns, rng)
        canvas[top:bottom, left:right] = part.pixels
        moved = part.boxes.copy()
        moved[:, 1:5] *= np.array([columns, rows, columns, rows]) / size
        moved[:, 1:3] += np.array([left, top]) / size
        boxes.append(moved)
    unknown = frozenset[int]().union(*(entries[k].unknown for k in chosen))
    return _Input(canvas, np.concatenate(boxes), unknown)


def _warped(entry: LabelledImage, rows: int, columns: int, rng: np.random.Generator) -> _Input:
    """Crop, letterbox, shift and light of one picture; the geometry is one warp."""
    pixels = entry.read_pixels()
    x = y = 0
    if rng.random() < 0.6:
        x, y, pixels = _cropped(pixels, rng)
    fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], rows, columns)
    place = np.array([[fit.scale_x, 0, fit.left], [0, fit.scale_y, fit.top], [0, 0, 1]])
    place = _shift(rows, columns, rng) @ place
    warped = cv2.warpAffine(
        pixels,
        _pixel_centres(place)[:2],
        (columns, rows),
        flags=cv2.INTER_LINEAR,
        borderValue=float(PAD_VALUE),
    )
    whole = place @ np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    boxes = _boxes(entry, whole, rows, columns)
    return _Input(_relight(np.asarray(warped, np.uint8), rng), boxes, entry.unknown)


def _cropped(
    pixels: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[int, int, NDArray[np.uint8]]:
    """Cut from one pair of sides, so that pictures have many aspects; (left, top, rest)."""
    rows, columns = pixels.shape
    first, second = (rng.uniform(0, 0.09, 2) * max(rows, columns)).astype(int).tolist()
    if rng.random() < 0.5:
        return first, 0, np.ascontiguousarray(pixels[:, first : columns - second])
    return 0, first, np.ascontiguousarray(pixels[first : rows - second])


def _pixel_centres(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """cv2 counts from pixel centres, boxes from the outer corner of the first pixel."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.asarray(np.linalg.inv(half) @ place @ half)


def _shift(rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A small turn, stretch and move about the middle. No mirror: the heart has its side."""
    angle = np.deg2rad(rng.normal(0, 2.0))
    scale = rng.uniform(0.85, 1.15)
    sx, sy = scale * np.exp(rng.normal(0, 0.04, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    dx, dy = rng.uniform(-0.06, 0.06, 2) * (columns, rows)
    x, y = columns / 2, rows / 2
    turn = np.array([[sx * cos, -sy * sin, 0], [sx * sin, sy * cos, 0], [0, 0, 1]])
    to = np.array([[1, 0, x + dx], [0, 1, y + dy], [0, 0, 1]])
    back = np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    return np.asarray(to @ turn @ back)


def _relight(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    gamma = np.exp(rng.normal(0, 0.18))
    gain, offset = rng.uniform(0.85, 1.15), rng.uniform(-12, 12)
    levels = np.linspace(0, 1, 256) ** gamma * 255 * gain + offset
    table = np.clip(levels, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, table), np.uint8)


def _boxes(
    entry: LabelledImage, place: NDArray[np.float64], rows: int, columns: int
) -> NDArray[np.float64]:
    """Rows of class, centre x, centre y, width, height (shares) and weight, of what is in view."""
    kept = []
    extent = np.array([columns, rows], float)
    for label in entry.labels:
        corners = np.array(
            [[x, y, 1.0] for x in (label.x_min, label.x_max) for y in (label.y_min, label.y_max)]
        )
        moved = corners @ place.T
        # The box about a turned box is too large; the mean of both diagonals' extents is nearer.
        middle = moved[:, :2].mean(axis=0)
        width = (label.x_max - label.x_min) * np.hypot(place[0, 0], place[1, 0])
        height = (label.y_max - label.y_min) * np.hypot(place[0, 1], place[1, 1])
        low = np.clip(middle - np.array([width, height]) / 2, 0, extent)
        high = np.clip(middle + np.array([width, height]) / 2, 0, extent)
        area = float(np.prod(high - low))
        if area < 0.35 * width * height or min(high - low) < 2:
            continue
        centre, size = (low + high) / 2 / extent, (high - low) / extent
        kept.append([label.index, *centre, *size, label.weight])
    return np.asarray(kept, float).reshape(-1, 6)
