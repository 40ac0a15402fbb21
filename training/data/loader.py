"""Stored images to batches: light augmentation, then the clinic's own letterbox geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.core.geometry import Letterbox
from edge_agent.imaging.letterbox import PAD_VALUE, letterbox
from hilum.catalog import CATALOG
from training.data.store import Entry


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Arrays of one training step.

    `pixels` u8 (N, 1, H, W); `image`, `classes` i64 (M,) and `boxes` f32 (M, 4) say for every
    finding in which image of the batch it lies, what it is, and its centre and size as
    shares of the input; `known` bool (N, classes) is False where a class may be unlabelled.
    """

    pixels: NDArray[np.uint8]
    image: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    known: NDArray[np.bool_]


def batches(
    entries: Sequence[Entry], size: int, batch: int, *, seed: int, epoch: int, augment: bool
) -> Iterator[Batch]:
    """One epoch in an order that depends on nothing but `seed` and `epoch`; the rest is dropped."""
    order = np.random.default_rng([seed, epoch]).permutation(len(entries))
    for start in range(0, len(order) - batch + 1, batch):
        chosen = order[start : start + batch]
        loaded = [
            _load(entries[k], size, np.random.default_rng([seed, epoch, k]) if augment else None)
            for k in chosen.tolist()
        ]
        known = np.ones((batch, len(CATALOG)), np.bool_)
        for row, k in enumerate(chosen.tolist()):
            known[row, sorted(entries[k].unknown)] = False
        yield Batch(
            pixels=np.stack([pixels for pixels, _ in loaded])[:, None],
            image=np.repeat(np.arange(batch), [len(boxes) for _, boxes in loaded]),
            classes=np.concatenate([boxes[:, 0] for _, boxes in loaded]).astype(np.int64),
            boxes=np.concatenate([boxes[:, 1:] for _, boxes in loaded]).astype(np.float32),
            known=known,
        )


def _load(
    entry: Entry, size: int, rng: np.random.Generator | None
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Input picture (size, size) and rows of class, centre x, centre y, width, height (shares).

    Without `rng` the picture is the clinic's own; with it, letterbox and augmentation are one warp.
    """
    pixels = entry.read()
    x = y = 0
    if rng is not None and rng.random() < 0.6:
        x, y, pixels = _cropped(pixels, rng)
    fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], size, size)
    place = np.array([[fit.scale_x, 0, fit.left], [0, fit.scale_y, fit.top], [0, 0, 1]])
    if rng is not None:
        place = _shift(size, rng) @ place
    if rng is None:
        picture = letterbox(pixels, fit)
    else:
        warped = cv2.warpAffine(
            pixels,
            _pixel_centres(place)[:2],
            (size, size),
            flags=cv2.INTER_LINEAR,
            borderValue=float(PAD_VALUE),
        )
        picture = _relight(np.asarray(warped, np.uint8), rng)
    return picture, _boxes(entry, place @ np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1]]), size)


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


def _shift(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A small turn, stretch and move about the middle. No flips: the heart has its side."""
    angle = np.deg2rad(rng.normal(0, 2.0))
    scale = rng.uniform(0.85, 1.15)
    sx, sy = scale * np.exp(rng.normal(0, 0.04, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    dx, dy = rng.uniform(-0.06, 0.06, 2) * size
    middle = size / 2
    turn = np.array([[sx * cos, -sy * sin, 0], [sx * sin, sy * cos, 0], [0, 0, 1]])
    to = np.array([[1, 0, middle + dx], [0, 1, middle + dy], [0, 0, 1]])
    back = np.array([[1, 0, -middle], [0, 1, -middle], [0, 0, 1]])
    return np.asarray(to @ turn @ back)


def _relight(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    gamma = np.exp(rng.normal(0, 0.18))
    gain, offset = rng.uniform(0.85, 1.15), rng.uniform(-12, 12)
    levels = np.linspace(0, 1, 256) ** gamma * 255 * gain + offset
    table = np.clip(levels, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, table), np.uint8)


def _boxes(entry: Entry, place: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    kept = []
    for label in entry.labels:
        corners = np.array(
            [[x, y, 1.0] for x in (label.x_min, label.x_max) for y in (label.y_min, label.y_max)]
        )
        moved = corners @ place.T
        # The box about a turned box is too large; the mean of both diagonals' extents is nearer.
        middle = moved[:, :2].mean(axis=0)
        width = (label.x_max - label.x_min) * np.hypot(place[0, 0], place[1, 0])
        height = (label.y_max - label.y_min) * np.hypot(place[0, 1], place[1, 1])
        low = np.clip(middle - np.array([width, height]) / 2, 0, size)
        high = np.clip(middle + np.array([width, height]) / 2, 0, size)
        area = float(np.prod(high - low))
        if area < 0.35 * width * height or min(high - low) < 2:
            continue
        centre, extent = (low + high) / 2 / size, (high - low) / size
        kept.append([label.index, *centre, *extent])
    return np.asarray(kept, float).reshape(-1, 5)
