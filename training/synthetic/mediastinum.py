"""The mediastinum of a painted chest: heart, aortic arch, spine and trachea."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.synthetic import primitives
from training.synthetic.chest import Chest


def paint_heart(chest: Chest, ratio: float, rng: np.random.Generator) -> None:
    """Paint a heart of `ratio` thorax widths and set `chest.heart` to its box."""
    frame = chest.frame
    width = ratio * frame.thorax
    height = min(width * rng.uniform(0.7, 1.0), 1.05 * frame.drop)
    x = frame.middle + frame.thorax * (rng.normal(0.055, 0.015) + 0.1 * max(0.0, ratio - 0.5))
    y = frame.knob_y + frame.drop * rng.normal(1.0, 0.05)
    lean = rng.uniform(0.15, 0.6)
    # A tilted ellipse for the ventricles, an upright one for the right atrium.
    long, short = width * 0.54, height * 0.47
    main = primitives.ellipse_distance(chest.shape, (x + 0.03 * width, y), (long, short), lean)
    atrium = primitives.ellipse_distance(
        chest.shape, (x - 0.27 * width, y + 0.05 * height), (0.25 * width, 0.42 * height)
    )
    edge = rng.uniform(0.06, 0.22)
    alpha = np.maximum(primitives.smooth_mask(main, edge), primitives.smooth_mask(atrium, edge))
    target = chest.tissue + np.float32(chest.contrast) * np.float32(rng.uniform(-0.12, 0.2))
    before = chest.pixels
    detail = before - primitives.blur(before, 9)  # Structures in front and behind stay visible.
    shaded = np.maximum(before, target + np.float32(0.6) * detail)
    chest.pixels = before + (shaded - before) * alpha * np.float32(rng.uniform(0.8, 1.0))
    chest.heart = _extent(
        alpha > 0.5, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    )


def paint_aortic_knob(chest: Chest, reach: float, rng: np.random.Generator) -> None:
    """Paint an aortic knob that reaches `reach` thorax widths left of the midline."""
    frame = chest.frame
    radius = frame.thorax * max(0.035, reach * rng.uniform(0.45, 0.62))
    x = frame.middle + reach * frame.thorax - radius
    y = frame.knob_y + rng.normal(0, 0.04) * frame.drop
    disc = primitives.ellipse_distance(
        chest.shape, (x, y), (radius, radius * rng.uniform(1.0, 1.25))
    )
    alpha = primitives.smooth_mask(disc, rng.uniform(0.15, 0.5))
    # The descending aorta leaves the knob downwards and fades.
    yy, xx = primitives.pixel_grid(chest.shape)
    edge = x + radius * 0.75 - (yy - np.float32(y)) * np.float32(0.10)
    band = np.clip((edge - xx) / 5 + 0.5, 0, 1) * (xx > frame.middle - 2)
    fall = np.clip((yy - np.float32(y)) / 12, 0, 1) * np.clip(
        1 - (yy - np.float32(y)) / np.float32(1.1 * frame.drop), 0, 1
    )
    alpha = np.maximum(alpha, (band * fall * np.float32(rng.uniform(0.2, 0.6))).astype(np.float32))
    target = chest.tissue + np.float32(chest.contrast) * np.float32(rng.uniform(-0.1, 0.2))
    shaded = np.maximum(chest.pixels, target)
    chest.pixels = chest.pixels + (shaded - chest.pixels) * alpha * np.float32(
        rng.uniform(0.65, 0.95)
    )
    chest.knob = (
        frame.middle - 0.3 * radius - 0.02 * frame.thorax,
        y - 1.35 * radius,
        x + radius,
        y + 1.7 * radius,
    )


def _extent(
    inside: NDArray[np.bool_],
    otherwise: tuple[float, float, float, float],
) -> tuple[float, float, float, float]:
    xs, ys = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    if not len(xs) or not len(ys):
        return otherwise
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)


def paint_spine_and_trachea(chest: Chest, rng: np.random.Generator) -> None:
    """Paint the column of vertebrae and, above the carina, the dark trachea."""
    frame, shape = chest.frame, chest.shape
    y, x = primitives.pixel_grid(shape)
    sway = np.float32(rng.normal(0, 0.012) * frame.thorax) * np.sin(y / np.float32(shape[0] / 3))
    across = np.abs(x - np.float32(frame.middle) - sway) / np.float32(
        rng.uniform(0.045, 0.06) * frame.thorax
    )
    period = np.float32(frame.drop * rng.uniform(0.16, 0.22))
    discs = 0.65 + 0.35 * np.sin(2 * np.pi * y / period)
    chest.pixels += (
        np.clip(1.25 - across, 0, 0.4) * discs * np.float32(rng.uniform(0.02, 0.18))
    ).astype(np.float32)
    carina = frame.knob_y + 0.35 * frame.drop
    tube = np.clip(
        1.2 - np.abs(x - np.float32(frame.middle)) / np.float32(0.03 * frame.thorax), 0, 1
    )
    above = np.clip((np.float32(carina) - y) / 14, 0, 1)
    chest.pixels -= (tube * above * np.float32(rng.uniform(0.02, 0.12))).astype(np.float32)
