"""The bones of a painted chest: ribs, clavicles and scapulae."""

from __future__ import annotations

import cv2
import numpy as np

from training.synthetic import primitives
from training.synthetic.chest import Chest
from training.synthetic.primitives import Canvas, Floats


def paint_bones(chest: Chest, rng: np.random.Generator) -> None:
    """Paint ten ribs on each side, the clavicles and the scapulae."""
    frame, lungs = chest.frame, chest.lungs
    _, top, _, bottom = lungs.extent
    height = bottom - top
    posterior = np.zeros(chest.shape, np.uint8)
    anterior = np.zeros(chest.shape, np.uint8)
    thick = rng.uniform(0.022, 0.036) * frame.thorax
    slope, bow = rng.uniform(0.04, 0.16), rng.uniform(0.01, 0.06)
    first = top + rng.uniform(-0.02, 0.05) * height
    gap = rng.uniform(0.088, 0.108) * height
    t = np.linspace(0, 1, 16)
    for side, lung in ((-1, lungs.first), (1, lungs.second)):
        for i in range(10):
            y0 = first + i * gap
            borders = lung.borders_at(min(y0 + slope * height, bottom))
            lateral = abs((borders[0] if side < 0 else borders[1]) - frame.middle) + 4
            x = frame.middle + side * (0.05 * frame.thorax + (lateral - 0.05 * frame.thorax) * t)
            y = y0 + height * (slope * t**1.7 - bow * np.sin(np.pi * t)) + rng.normal(0, 1)
            _draw_rib(posterior, np.stack([x, y], 1).astype(np.float32), thick)
            if 0 < i < 8:
                drop = rng.uniform(0.1, 0.2) * height
                end = lateral * rng.uniform(0.35, 0.5)
                x = frame.middle + side * (lateral + (end - lateral) * t)
                y = y0 + slope * height + drop * t**1.3 + 0.02 * height * np.sin(np.pi * t)
                _draw_rib(anterior, np.stack([x, y], 1).astype(np.float32), thick * 1.15)
        _draw_clavicle(anterior, side, chest, rng)
    strength = rng.uniform(0.08, 0.32) * chest.contrast
    body = np.minimum(chest.pixels / np.float32(0.3), 1)
    for canvas, share in ((posterior, 1.0), (anterior, rng.uniform(0.4, 0.9))):
        bone = primitives.blur(canvas.astype(np.float32) / np.float32(255), rng.uniform(0.7, 1.6))
        chest.pixels = chest.pixels + bone * np.float32(strength * share) * np.clip(body, 0, 1)
    _paint_scapulae(chest, rng)


def _draw_rib(canvas: Canvas, points: Floats, thick: float) -> None:
    own = np.zeros_like(canvas)
    primitives.draw_polyline(own, points, thick, 235)
    primitives.draw_polyline(own, points, max(1.0, thick - 3), 150)
    np.copyto(canvas, np.maximum(canvas, cv2.add(cv2.multiply(canvas, 0.35), own)))


def _draw_clavicle(
    canvas: Canvas,
    side: int,
    chest: Chest,
    rng: np.random.Generator,
) -> None:
    frame = chest.frame
    _, top, _, bottom = chest.lungs.extent
    y0 = top + rng.uniform(0.03, 0.16) * (bottom - top)
    rise = rng.uniform(0.0, 0.12) * (bottom - top)
    t = np.linspace(0, 1, 20)
    x = frame.middle + side * frame.thorax * (0.05 + 0.55 * t)
    y = y0 - rise * t + 0.025 * frame.thorax * np.sin(2 * np.pi * t)
    _draw_rib(
        canvas, np.stack([x, y], 1).astype(np.float32), rng.uniform(0.032, 0.05) * frame.thorax
    )


def _paint_scapulae(chest: Chest, rng: np.random.Generator) -> None:
    strength = np.float32(rng.uniform(0.0, 0.1))
    x_min, top, x_max, bottom = chest.lungs.extent
    height, thorax = bottom - top, chest.frame.thorax
    shift = rng.uniform(-0.08, 0.06) * thorax
    for side, x in ((-1, x_min + shift), (1, x_max - shift)):
        corners = np.array([[0.16, 0.02], [-0.08, 0.1], [-0.02, 0.42], [0.06, 0.45], [0.2, 0.15]])
        points = np.stack([x + side * corners[:, 0] * thorax, top + corners[:, 1] * height], 1)
        blade = primitives.blur(
            primitives.fill_polygon(chest.shape, points.astype(np.float32)), 2.0
        )
        chest.pixels += blade * strength * np.clip(chest.pixels / np.float32(0.3), 0, 1)
