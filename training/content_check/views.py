"""Augmentation: an image as it might reach an edge agent, cropped, windowed, marked, padded.

`rotate`, `invert`, `shuffle_tiles` and `crop_detail` change what the network must answer; all other
changes do not.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.core.geometry import Letterbox
from edge_agent.imaging.letterbox import PAD_VALUE, apply_letterbox
from training.synthetic import primitives

Pixels = NDArray[np.uint8]
INPUT: Final = 64
"""Height and width of the network's input in pixels."""


def to_input(pixels: Pixels) -> Pixels:
    """Convert an image to the network's input: letterboxed, u8 (64, 64)."""
    return apply_letterbox(pixels, Letterbox.fit(*_size(pixels), INPUT, INPUT))


def rotate(pixels: Pixels, quarters: int) -> Pixels:
    """Rotate clockwise by `quarters` of 90 degrees."""
    return np.ascontiguousarray(np.rot90(pixels, -quarters))


def invert(pixels: Pixels) -> Pixels:
    """Invert the grey values, so that white becomes black."""
    return np.asarray(255 - pixels, np.uint8)


def augment(pixels: Pixels, rng: np.random.Generator, strength: float = 1.0) -> Pixels:
    """Change an image as technicians, viewers and file formats do.

    Args:
        pixels: u8 (H, W).
        rng: decides the changes.
        strength: 0.4 for everyday changes, 1 for far stronger ones.

    Returns:
        u8 of about the same size.
    """
    image = _warp(pixels, rng, strength)
    if rng.random() < 0.4 * strength:
        image = _collimate(image, rng)
    image = _change_tone(image, rng, strength)
    if rng.random() < 0.6:
        image = _add_markers(image, rng)
    if rng.random() < 0.3:
        image = _add_border(image, rng)
    return image


def _warp(pixels: Pixels, rng: np.random.Generator, strength: float) -> Pixels:
    """Crop or widen each side, rotate a little, stretch a little."""
    rows, columns = _size(pixels)
    margins = rng.uniform(-0.08, 0.14, 4) * strength
    top, bottom = margins[:2] * rows
    left, right = margins[2:] * columns
    angle = np.deg2rad(rng.normal(0, 4 * strength))
    height = max(32, round(rows - top - bottom))
    width = max(32, round((columns - left - right) * np.exp(rng.normal(0, 0.06 * strength))))
    sx, sy = width / (columns - left - right), height / (rows - top - bottom)
    cos, sin = np.cos(angle), np.sin(angle)
    middle = np.array([(left + columns - right) / 2, (top + rows - bottom) / 2])
    turn = np.array([[sx * cos, -sx * sin], [sy * sin, sy * cos]])
    shift = np.array([width / 2, height / 2]) - turn @ middle
    moved = cv2.warpAffine(
        pixels,
        np.hstack([turn, shift[:, None]]),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT if rng.random() < 0.5 else cv2.BORDER_REPLICATE,
        borderValue=float(rng.choice([0, 0, int(pixels.min()), 255])),
    )
    return np.asarray(moved, np.uint8)


def _collimate(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Shutters: up to a tenth of each side is black, seldom white."""
    rows, columns = _size(pixels)
    cut = rng.uniform(0, 0.1, 4) * (rng.random(4) < 0.6)
    image = np.full_like(pixels, 0 if rng.random() < 0.85 else 255)
    rows_kept = slice(round(cut[0] * rows), rows - round(cut[1] * rows))
    columns_kept = slice(round(cut[2] * columns), columns - round(cut[3] * columns))
    image[rows_kept, columns_kept] = pixels[rows_kept, columns_kept]
    return image


def _change_tone(pixels: Pixels, rng: np.random.Generator, strength: float) -> Pixels:
    """Change window, gamma and contrast; add blur and noise."""
    low, high = np.percentile(pixels, [rng.uniform(0, 4), rng.uniform(96, 100)])
    span = max(float(high - low), 8.0)
    low, high = low - span * rng.uniform(-0.12, 0.25), high + span * rng.uniform(-0.12, 0.25)
    levels = np.clip((np.arange(256, dtype=np.float32) - low) / max(high - low, 1), 0, 1)
    levels = levels ** np.exp(rng.normal(0, 0.4 * strength))
    darkest, brightest = rng.uniform(0, 90) * strength, 255 - rng.uniform(0, 110) * strength
    table = (darkest + levels * (brightest - darkest)).astype(np.float32)
    image = table[pixels]
    if rng.random() < 0.3:
        image = primitives.blur(image, rng.uniform(0.4, 1.6))
    if rng.random() < 0.3:  # Brightness that differs from place to place.
        image = image * (
            1 + primitives.smooth_noise(_size(pixels), max(pixels.shape) / 2, rng) * 0.08
        )
    if rng.random() < 0.4:
        image = image + rng.normal(0, rng.uniform(0.5, 8), pixels.shape).astype(np.float32)
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def _add_markers(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Add side markers, names and lines, burnt into the image."""
    image = pixels.copy()
    rows, columns = _size(pixels)
    for _ in range(int(rng.integers(1, 4))):
        text = str(
            rng.choice(["L", "R", "AP", "PA", "SUPINE", "12:04", "PORTABLE AP", "1970-01-01"])
        )
        edge = rng.uniform(0.02, 0.15) if rng.random() < 0.5 else rng.uniform(0.8, 0.97)
        at = (round(columns * rng.uniform(0, 0.9)), round(rows * edge))
        value = int(rng.choice([0, 255, 255]))
        size = rng.uniform(0.3, 0.8) * rows / 192
        cv2.putText(image, text, at, 0, size, value, 1, cv2.LINE_AA)
    if rng.random() < 0.4:  # Tubes, wires, electrodes.
        points = rng.uniform(0, 1, (4, 2)) * (columns, rows)
        t = np.linspace(0, 1, 24)[:, None]
        curve = (1 - t) ** 3 * points[0] + 3 * (1 - t) ** 2 * t * points[1]
        curve = curve + 3 * (1 - t) * t**2 * points[2] + t**3 * points[3]
        primitives.draw_polyline(image, curve.astype(np.float32), 1, int(rng.integers(170, 256)))
    return image


def _add_border(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Add a border, as letterboxing, printing and screenshots do."""
    rows, columns = _size(pixels)
    if rng.random() < 0.5:
        side = max(rows, columns)
        return apply_letterbox(pixels, Letterbox.fit(rows, columns, side, side), PAD_VALUE)
    top, bottom, left, right = (rng.uniform(0, 0.12, 4) * max(rows, columns)).astype(int).tolist()
    value = float(rng.choice([0, 0, PAD_VALUE, 255]))
    framed = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=value)
    return np.asarray(framed, np.uint8)


def shuffle_tiles(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Shuffle the image's quarters or ninths: all its texture, none of its anatomy."""
    parts = int(rng.integers(2, 4))
    rows, columns = pixels.shape[0] // parts, pixels.shape[1] // parts
    tiles = [
        np.rot90(pixels[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns], 2 * flip)
        for r in range(parts)
        for c in range(parts)
        for flip in [int(rng.integers(2))]
    ]
    order = np.roll(rng.permutation(len(tiles)), 1)
    mixed = [tiles[k] for k in order.tolist()]
    lines = [np.hstack(mixed[r * parts : (r + 1) * parts]) for r in range(parts)]
    return np.ascontiguousarray(np.vstack(lines))


def crop_detail(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Crop less than a third of the height and width: ribs, a shoulder, a corner."""
    rows, columns = _size(pixels)
    height, width = (max(16, round(side * rng.uniform(0.2, 0.32))) for side in (rows, columns))
    top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _size(pixels: Pixels) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]
