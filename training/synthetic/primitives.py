"""Drawing primitives on f32 images, from which chests and findings are painted."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Canvas = NDArray[np.uint8]
Shape = tuple[int, int]


def blur(field: Floats, sigma: float) -> Floats:
    """Blur by a Gaussian; a wide one is computed on a smaller image, for speed."""
    if sigma < 0.3:
        return field
    step = int(sigma // 4)
    if step < 2:
        return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma), np.float32)
    height, width = field.shape
    size = (max(2, width // step), max(2, height // step))
    small = cv2.resize(field, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / step)
    return np.asarray(
        cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32
    )


def smooth_noise(shape: Shape, grain_px: float, rng: np.random.Generator) -> Floats:
    """Return smooth noise, f32 of `shape`: mean 0, deviation about 1, features of `grain_px`."""
    height, width = shape
    coarse = (max(2, round(height / grain_px) + 2), max(2, round(width / grain_px) + 2))
    seed = rng.standard_normal(coarse, dtype=np.float32)
    grown = cv2.resize(seed, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(grown * np.float32(1.25), np.float32)


def fill_polygon(shape: Shape, points: Floats) -> Floats:
    """Fill a polygon (n, 2): f32 of `shape`, 1 inside, antialiased."""
    canvas = np.zeros(shape, np.uint8)
    fixed = np.round(points * 16).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], 255, lineType=cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / np.float32(255)


def draw_polyline(
    canvas: NDArray[np.uint8], points: Floats, thickness: float, value: int = 255
) -> None:
    """Draw an open line through points (n, 2) onto a u8 canvas."""
    fixed = np.round(points * 16).astype(np.int32)
    cv2.polylines(
        canvas, [fixed], False, value, max(1, round(thickness)), lineType=cv2.LINE_AA, shift=4
    )


def pixel_grid(shape: Shape) -> tuple[Floats, Floats]:
    """Return row numbers as a column and column numbers as a row, for broadcasting."""
    return (
        np.arange(shape[0], dtype=np.float32)[:, None],
        np.arange(shape[1], dtype=np.float32)[None, :],
    )


def ellipse_distance(
    shape: Shape, centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> Floats:
    """Return the normalised distance from an ellipse's centre: 0 there, 1 on the ellipse.

    Args:
        shape: height and width of the result.
        centre: x and y in pixels.
        radii: of the two axes in pixels.
        angle: of the first axis, in radians.
    """
    y, x = pixel_grid(shape)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    return np.asarray(
        np.sqrt((along / np.float32(radii[0])) ** 2 + (across / np.float32(radii[1])) ** 2),
        np.float32,
    )


def smooth_mask(distance: Floats, softness: float) -> Floats:
    """Return a mask: 1 within distance 1, 0 outside, a smooth step of width `softness` between."""
    t = np.clip((1 - distance) / np.float32(max(softness, 1e-3)) + np.float32(0.5), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def blend_towards(image: Floats, target: float | Floats, alpha: Floats) -> None:
    """Blend an image towards a value in place, by `alpha` in 0-1."""
    image += (np.float32(1) * target - image) * alpha
