"""Turn stored images into batches: light augmentation, then the letterbox that the agent uses.

Threads decode and warp the next images while a step is computed (OpenCV releases the interpreter
lock). Why not torch's `DataLoader`: docs/decisions/0083-batches-are-prepared-by-threads.md.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Full, Queue
from threading import Event, Thread

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
    """This process's share of the images of one training step, and their boxes.

    Attributes:
        indices: positions of the images in the training split.
        global_size: images of this step in all processes together.
        pixels: u8 (N, 1, H, W).
        image_index: i64 (M,), for every box the image of the batch that it is in.
        classes: i64 (M,), for every box its class.
        boxes: f32 (M, 4), centre and size as shares of the input.
        weights: f32 (M,), the weight of each box in the loss.
        known: bool (N, classes), False where a class may be present but unlabelled.
    """

    indices: tuple[int, ...]
    global_size: int
    pixels: NDArray[np.uint8]
    image_index: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    weights: NDArray[np.float32]
    known: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class _Input:
    """An input, u8 (size, size), with rows of class, box (shares) and weight, f64 (n, 6)."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    unknown: frozenset[int]


def iter_batches(
    entries: Sequence[LabelledImage],
    config: TrainConfig,
    epoch: int,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Yield one process's share of every batch of an epoch.

    Every image is used once, in an order that only seed and epoch decide. The shares of all
    processes make up the batch that one process would have.

    Args:
        entries: the training split.
        config: the run's settings.
        epoch: number of the epoch, from 0.
        rank: number of this process.
        world_size: how many processes train together.
    """
    size = config.input_size_in(epoch)

    def load(k: int) -> _Input:
        if not config.augment:
            return _to_input(entries[k], size)
        rng = np.random.default_rng([config.seed, epoch, k])
        return _augment(entries, k, size, config, rng)

    with ThreadPoolExecutor(config.loaders, thread_name_prefix="images") as pool:
        for indices in plan_steps(len(entries), config, epoch, world_size):
            own = indices[rank::world_size]
            yield _collate(own, len(indices), list(pool.map(load, own)), config.reader_weights)


def plan_steps(
    images: int, config: TrainConfig, epoch: int = 0, world_size: int = 1
) -> list[list[int]]:
    """Return the images of each step of an epoch, of all processes together, by position.

    The images left over at the end make a smaller batch. Where they are fewer than the processes,
    they join the batch before.
    """
    order = np.random.default_rng([config.seed, epoch]).permutation(images).tolist()
    parts = [order[k : k + config.batch] for k in range(0, images, config.batch)]
    if len(parts) > 1 and len(parts[-1]) < world_size:
        parts[-2:] = [parts[-2] + parts[-1]]
    return parts


def prefetch(source: Iterator[Batch], *, depth: int = 3) -> Generator[Batch]:
    """Prepare up to `depth` batches in a thread while earlier ones are used.

    An error of the source is raised where its batch is awaited. Closing the generator ends the
    thread.
    """
    queue: Queue[Batch | BaseException | None] = Queue(maxsize=depth)
    stopped = Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                queue.put(item, timeout=0.2)
            except Full:
                continue
            return True
        return False

    def fill() -> None:
        try:
            for batch in source:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is awaited
            put(error)

    Thread(target=fill, daemon=True, name="batches").start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def _collate(
    indices: list[int], global_size: int, inputs: list[_Input], reader_weights: bool
) -> Batch:
    known = np.ones((len(inputs), len(CATALOG)), np.bool_)
    for row, item in enumerate(inputs):
        known[row, sorted(item.unknown)] = False
    boxes = np.concatenate([item.boxes for item in inputs])
    weights = boxes[:, 5] if reader_weights else np.ones(len(boxes))
    return Batch(
        indices=tuple(indices),
        global_size=global_size,
        pixels=np.stack([item.pixels for item in inputs])[:, None],
        image_index=np.repeat(np.arange(len(inputs)), [len(item.boxes) for item in inputs]),
        classes=boxes[:, 0].astype(np.int64),
        boxes=boxes[:, 1:5].astype(np.float32),
        weights=weights.astype(np.float32),
        known=known,
    )


def _to_input(entry: LabelledImage, size: int) -> _Input:
    """Return the image as the agent letterboxes it, unaugmented."""
    pixels = entry.read_pixels()
    fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], size, size)
    place = np.array([[fit.scale_x, 0, fit.left], [0, fit.scale_y, fit.top], [0, 0, 1]])
    return _Input(
        apply_letterbox(pixels, fit), _transform_boxes(entry, place, size, size), entry.unknown
    )


def _augment(
    entries: Sequence[LabelledImage],
    k: int,
    size: int,
    config: TrainConfig,
    rng: np.random.Generator,
) -> _Input:
    """Return one warped image, or a mosaic of four where configured."""
    # Options that are off draw nothing from the generator, so they leave a run's images unchanged.
    if config.mosaic and rng.random() < config.mosaic:
        made = _make_mosaic(entries, [k, *rng.integers(0, len(entries), 3).tolist()], size, rng)
    else:
        made = _warp(entries[k], size, size, rng)
    if config.vertical_flip and rng.random() < config.vertical_flip:
        made.boxes[:, 2] = 1 - made.boxes[:, 2]
        made = replace(made, pixels=np.ascontiguousarray(made.pixels[::-1]))
    return made


def _make_mosaic(
    entries: Sequence[LabelledImage], indices: Sequence[int], size: int, rng: np.random.Generator
) -> _Input:
    """Return four warped images about a point near the middle."""
    x, y = (rng.uniform(0.35, 0.65, 2) * size).astype(int).tolist()
    canvas = np.full((size, size), PAD_VALUE, np.uint8)
    boxes = []
    corners = ((0, 0, y, x), (0, x, y, size), (y, 0, size, x), (y, x, size, size))
    for k, (top, left, bottom, right) in zip(indices, corners, strict=True):
        rows, columns = bottom - top, right - left
        part = _warp(entries[k], rows, columns, rng)
        canvas[top:bottom, left:right] = part.pixels
        moved = part.boxes.copy()
        moved[:, 1:5] *= np.array([columns, rows, columns, rows]) / size
        moved[:, 1:3] += np.array([left, top]) / size
        boxes.append(moved)
    unknown = frozenset[int]().union(*(entries[k].unknown for k in indices))
    return _Input(canvas, np.concatenate(boxes), unknown)


def _warp(entry: LabelledImage, rows: int, columns: int, rng: np.random.Generator) -> _Input:
    """Crop, letterbox, move and re-light one image; the geometry is a single warp."""
    pixels = entry.read_pixels()
    x = y = 0
    if rng.random() < 0.6:
        x, y, pixels = _crop(pixels, rng)
    fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], rows, columns)
    place = np.array([[fit.scale_x, 0, fit.left], [0, fit.scale_y, fit.top], [0, 0, 1]])
    place = _random_affine(rows, columns, rng) @ place
    warped = cv2.warpAffine(
        pixels,
        _to_pixel_centres(place)[:2],
        (columns, rows),
        flags=cv2.INTER_LINEAR,
        borderValue=float(PAD_VALUE),
    )
    whole = place @ np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]])
    boxes = _transform_boxes(entry, whole, rows, columns)
    return _Input(_adjust_intensities(np.asarray(warped, np.uint8), rng), boxes, entry.unknown)


def _crop(
    pixels: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[int, int, NDArray[np.uint8]]:
    """Cut from one pair of sides, so that aspect ratios vary; return (left, top, rest)."""
    rows, columns = pixels.shape
    first, second = (rng.uniform(0, 0.09, 2) * max(rows, columns)).astype(int).tolist()
    if rng.random() < 0.5:
        return first, 0, np.ascontiguousarray(pixels[:, first : columns - second])
    return 0, first, np.ascontiguousarray(pixels[first : rows - second])


def _to_pixel_centres(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix for OpenCV, which counts from pixel centres; boxes count from corners."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.asarray(np.linalg.inv(half) @ place @ half)


def _random_affine(rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a small rotation, scaling and shift about the middle.

    Images are never mirrored, because the heart is on one side.
    """
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


def _adjust_intensities(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply a random gamma, gain and offset."""
    gamma = np.exp(rng.normal(0, 0.18))
    gain, offset = rng.uniform(0.85, 1.15), rng.uniform(-12, 12)
    levels = np.linspace(0, 1, 256) ** gamma * 255 * gain + offset
    table = np.clip(levels, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table), np.uint8)


def _transform_boxes(
    entry: LabelledImage, place: NDArray[np.float64], rows: int, columns: int
) -> NDArray[np.float64]:
    """Return class, centre x, centre y, width, height (shares) and weight of each box in view."""
    kept = []
    extent = np.array([columns, rows], float)
    for label in entry.labels:
        corners = np.array(
            [[x, y, 1.0] for x in (label.x_min, label.x_max) for y in (label.y_min, label.y_max)]
        )
        moved = corners @ place.T
        # The upright box around a rotated one is too large; scaling the sides is nearer.
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
