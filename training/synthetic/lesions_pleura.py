"""Findings of the pleura, the heart and the aorta, which follow the lung's outline.

Painters return the density to add, as in `lesions_lung`. A pneumothorax removes density too, so its
painter changes the chest and returns the finding's box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.synthetic import primitives
from training.synthetic.chest import Chest
from training.synthetic.lesions_lung import TargetBox
from training.synthetic.lungs import Lung
from training.synthetic.primitives import Floats

Extent = tuple[float, float, float, float]


def _select_lung(chest: Chest, x: float) -> tuple[Lung, float]:
    """Return the lung of a column, and -1 or 1 for the direction of its lateral border."""
    return (chest.lungs.first, -1.0) if x < chest.frame.middle else (chest.lungs.second, 1.0)


def paint_effusion(chest: Chest, target: TargetBox, rng: np.random.Generator) -> Floats:
    """Paint fluid, from a blunted angle to most of a side; its upper border is a meniscus."""
    lung, lateral_sign = _select_lung(chest, target[0])
    y, x = primitives.pixel_grid(chest.shape)
    _, top, _, bottom = chest.lungs.extent
    height = float(np.clip(target[3], 0.09 * (bottom - top), 0.8 * (bottom - top)))
    borders = lung.borders_at(lung.bottom - 0.25 * height)
    lateral, medial = borders if lateral_sign < 0 else borders[::-1]
    across = np.clip((x - np.float32(lateral)) / np.float32(medial - lateral), -0.1, 1.2)
    share = height / (bottom - top)
    climb = height * rng.uniform(0.35, 0.75)
    level = (
        lung.bottom
        + 2
        - height
        + climb * (1 - np.exp(-np.maximum(across, 0) / rng.uniform(0.12, 0.4)))
    )
    if share < 0.2:  # Only the angle is filled.
        level = level + 2.2 * height * np.clip(across - 0.15, 0, None)
    soft = rng.uniform(3, 10)
    below = np.clip((y - level.astype(np.float32)) / np.float32(soft) + 0.5, 0, 1)
    region = primitives.blur(lung.mask(chest.shape).astype(np.float32) / np.float32(255), 2.5)
    inside = np.clip(chest.air * 1.8, 0, 1) * region
    return np.asarray(below * inside * np.float32(rng.uniform(0.65, 1.05)), np.float32)


def paint_thickening(chest: Chest, target: TargetBox, rng: np.random.Generator) -> Floats:
    """Paint a rim of dense tissue along the lung's border, most often at the apex."""
    lung, lateral_sign = _select_lung(chest, target[0])
    # Only the apical and lateral border: the medial one is the mediastinum.
    lateral = lung.left if lateral_sign < 0 else lung.right
    medial = lung.right if lateral_sign < 0 else lung.left
    points = np.concatenate(
        [np.stack([medial[:3], lung.levels[:3]], 1)[::-1], np.stack([lateral, lung.levels], 1)]
    ).astype(np.float32)
    nearest = int(np.argmin(((points - np.array(target[:2], np.float32)) ** 2).sum(axis=1)))
    reach = max(target[2], target[3]) / 2
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    chosen = points[np.abs(along - along[nearest]) <= max(reach, 9)]
    if len(chosen) < 2:
        chosen = points[max(0, nearest - 1) : nearest + 2]
    canvas = np.zeros(chest.shape, np.uint8)
    thick = rng.uniform(0.02, 0.07) * chest.frame.thorax
    primitives.draw_polyline(canvas, chosen, 2 * thick)
    rim = primitives.blur(canvas.astype(np.float32) / np.float32(255), rng.uniform(1.0, 2.5))
    rim *= np.clip(1 + 0.15 * primitives.smooth_noise(chest.shape, 10, rng), 0.4, 1.4)
    inside = np.clip(chest.air * 2.2, 0, 1)
    return np.asarray(rim * inside * np.float32(rng.uniform(0.25, 0.65)), np.float32)


def paint_pneumothorax(chest: Chest, target: TargetBox, rng: np.random.Generator) -> Extent | None:
    """Paint air between lung and chest wall: darker, no vessels, a thin line at the lung's edge.

    Args:
        chest: is changed.
        target: centre x, centre y, width, height in pixels.
        rng: decides all that varies.

    Returns:
        The box of the air, None if there is too little of it.
    """
    lung, lateral_sign = _select_lung(chest, target[0])
    hilum = np.array(
        [
            chest.frame.middle + lateral_sign * 0.14 * chest.frame.thorax,
            chest.frame.knob_y + 0.5 * chest.frame.drop,
        ]
    )
    outline = lung.polygon()
    high = np.clip((lung.bottom - outline[:, 1]) / (lung.bottom - lung.top), 0, 1)
    outward = np.clip(
        lateral_sign * (outline[:, 0] - chest.frame.middle) / chest.frame.thorax / 0.3, 0, 1
    )
    collapse = rng.uniform(0.08, 0.3) if rng.random() < 0.6 else rng.uniform(0.3, 0.6)
    shrink = collapse * np.clip(
        rng.uniform(0.3, 1.0) * outward + rng.uniform(0.5, 1.0) * high, 0, 1
    )
    shrunk = (hilum + (outline - hilum) * (1 - shrink[:, None])).astype(np.float32)
    whole = primitives.blur(lung.mask(chest.shape).astype(np.float32) / np.float32(255), 1.5)
    collapsed = primitives.fill_polygon(chest.shape, shrunk)
    gap = np.clip(whole * np.clip(chest.air * 1.8, 0, 1) - primitives.blur(collapsed, 0.8), 0, 1)
    if float(gap.sum()) < 300:
        return None
    if chest.vessels is not None:
        chest.pixels -= chest.vessels * gap
    else:
        smooth = primitives.blur(chest.pixels, rng.uniform(2.0, 3.5))
        primitives.blend_towards(chest.pixels, smooth, gap * np.float32(0.75))
    chest.pixels -= gap * np.float32(chest.contrast * rng.uniform(0.05, 0.3))
    within = whole * collapsed * np.clip(chest.air * 1.6, 0, 1)
    chest.pixels += within * np.float32(chest.contrast * rng.uniform(0.0, 0.35) * (0.4 + collapse))
    canvas = np.zeros(chest.shape, np.uint8)
    primitives.draw_polyline(canvas, np.concatenate([shrunk, shrunk[:1]]), 1.6)
    line = primitives.blur(canvas.astype(np.float32) / np.float32(255), 0.7)
    beside = np.clip(primitives.blur(gap, 2.0) * 3, 0, 1)
    chest.pixels += line * beside * np.float32(chest.contrast * rng.uniform(0.15, 0.5))
    return _extent(gap > 0.4)


def choose_heart_ratio(target: TargetBox, chest_width: float) -> float:
    """Return the cardiothoracic ratio for a target box of cardiomegaly, 0.53 to 0.72."""
    return float(np.clip(target[2] / chest_width, 0.53, 0.72))


def choose_knob_reach(target: TargetBox, chest_width: float) -> float:
    """Return how far left of the midline an enlarged aorta reaches, in thorax widths."""
    return float(np.clip(0.75 * target[2] / chest_width, 0.112, 0.2))


def _extent(inside: NDArray[np.bool_]) -> Extent | None:
    xs, ys = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    if not len(xs):
        return None
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)
