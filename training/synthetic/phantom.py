"""Painting of a frontal chest, on which findings are placed.

A painted chest is no faithful X-ray. Its parts (lungs, heart, ribs, vessels, breasts, abdomen) vary
far more than in life, so that a detector trained on them does not rely on any one of them. Images
are f32, 0 for air outside the body and about 1 for the densest bone.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic import primitives
from training.synthetic.chest import Chest, Frame, estimate_frame
from training.synthetic.lungs import Lung, Lungs, ShapeModel, place_shape
from training.synthetic.mediastinum import (
    paint_aortic_knob,
    paint_heart,
    paint_spine_and_trachea,
)
from training.synthetic.primitives import Canvas, Floats, Shape
from training.synthetic.skeleton import paint_bones


def paint_chest(
    size: int,
    model: ShapeModel,
    rng: np.random.Generator,
    *,
    heart_ratio: float | None = None,
    knob_reach: float | None = None,
) -> Chest:
    """Paint a chest.

    Args:
        size: height and width in pixels.
        model: shapes of the lungs.
        rng: decides all that varies.
        heart_ratio: width of the heart as a share of the thorax; None for a normal one.
        knob_reach: how far the aortic knob reaches left of the midline, in widths of the thorax;
            None for a normal one.

    Returns:
        The chest.
    """
    lungs = _sample_lungs(size, model, rng)
    frame = estimate_frame(lungs)
    shape = (size, size)
    contrast = rng.uniform(0.35, 0.55)
    tissue = rng.uniform(0.6, 0.75)
    pixels = _paint_body(shape, lungs, frame, tissue, rng)
    air = _compute_air(shape, lungs, frame, rng)
    pixels -= air * np.float32(contrast)
    chest = Chest(
        pixels=pixels,
        lungs=lungs,
        air=air,
        frame=frame,
        contrast=contrast,
        tissue=tissue,
        heart=(0, 0, 0, 0),
        knob=(0, 0, 0, 0),
    )
    paint_spine_and_trachea(chest, rng)
    _paint_vessels(chest, rng)
    paint_heart(chest, heart_ratio or rng.uniform(0.36, 0.48), rng)
    paint_aortic_knob(chest, knob_reach or rng.uniform(0.05, 0.092), rng)
    _paint_diaphragm(chest, rng)
    paint_bones(chest, rng)
    if rng.random() < 0.4:
        _paint_breasts(chest, rng)
    return chest


def _sample_lungs(size: int, model: ShapeModel, rng: np.random.Generator) -> Lungs:
    coefficients = np.clip(rng.normal(0, 1.0, len(model.modes)), -2.2, 2.2)
    width = size * rng.uniform(0.6, 0.92)
    height = min(width / rng.uniform(*model.aspect), size * 0.92)
    x = (size - width) / 2 + rng.normal(0, 0.025) * size
    y = (size - height) * rng.uniform(0.2, 0.6)
    return place_shape(model.vector(coefficients), x, y, width, height)


def _paint_body(
    shape: Shape, lungs: Lungs, frame: Frame, tissue: float, rng: np.random.Generator
) -> Floats:
    _, top, _, bottom = lungs.extent
    height, thorax = bottom - top, frame.thorax
    y, x = primitives.pixel_grid(shape)
    wall = rng.uniform(0.56, 0.66)
    shoulder = rng.uniform(0.62, 1.0)
    half = np.interp(
        y[:, 0],
        top + height * np.array([-0.35, -0.12, 0.02, 0.15, 0.4, 1.0, 1.4]),
        thorax
        * np.array([0.17, 0.26, shoulder, shoulder * 1.05, max(wall, 0.62), wall, wall + 0.03]),
    ).astype(np.float32)[:, None]
    inside = np.clip((half - np.abs(x - np.float32(frame.middle))) / 6 + 0.5, 0, 1)
    across = np.abs(x - np.float32(frame.middle)) / half
    thickness = np.sqrt(np.clip(1 - across**2, 0, 1)).astype(np.float32)
    pixels = np.asarray(
        inside * tissue * (0.55 + 0.45 * thickness) + rng.uniform(0, 0.06), np.float32
    )
    # Arms at the sides and the abdomen below are thicker than the chest.
    below = np.clip((y - np.float32(bottom - 0.12 * height)) / np.float32(0.2 * height), 0, 1)
    pixels += inside * below * np.float32(rng.uniform(0.0, 0.16))
    pixels += (
        inside
        * primitives.smooth_noise(shape, shape[0] / 5, rng)
        * np.float32(rng.uniform(0.01, 0.04))
    )
    ridge = np.exp(-(((x - np.float32(frame.middle)) / np.float32(0.13 * thorax)) ** 2))
    pixels += inside * ridge * np.float32(rng.uniform(0.02, 0.14))
    return primitives.blur(pixels.astype(np.float32), 1.5)


def _compute_air(shape: Shape, lungs: Lungs, frame: Frame, rng: np.random.Generator) -> Floats:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))
    # Opening removes thin tails at the base.
    mask = cv2.morphologyEx(lungs.mask(shape), cv2.MORPH_OPEN, kernel)
    distance = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
    depth = np.clip(distance / np.float32(rng.uniform(0.05, 0.13) * frame.thorax), 0, 1)
    soft = primitives.blur(mask.astype(np.float32) / np.float32(255), rng.uniform(1.0, 3.0))
    floor = np.float32(rng.uniform(0.45, 0.75))
    air = soft * (floor + (1 - floor) * depth)
    # More tissue covers the bases than the apices, or the reverse.
    y, _ = primitives.pixel_grid(shape)
    _, top, _, bottom = lungs.extent
    tilt = np.float32(rng.normal(0, 0.15)) * (
        (y - np.float32(top)) / np.float32(bottom - top) - 0.5
    )
    for lung, gain in ((lungs.first, rng.normal(0, 0.05)), (lungs.second, rng.normal(0, 0.05))):
        air += (
            primitives.blur(lung.mask(shape).astype(np.float32) / np.float32(255), 3) * air * gain
        )
    return np.asarray(np.clip(air * (1 + tilt), 0, 1.15), np.float32)


def _paint_vessels(chest: Chest, rng: np.random.Generator) -> None:
    frame = chest.frame
    canvas = np.zeros(chest.shape, np.uint8)
    for side, lung in ((-1, chest.lungs.first), (1, chest.lungs.second)):
        hilum = np.array(
            [
                frame.middle + side * rng.uniform(0.1, 0.15) * frame.thorax,
                frame.knob_y + rng.uniform(0.35, 0.6) * frame.drop,
            ]
        )
        for angle in np.linspace(-1.25, 1.35, int(rng.integers(7, 12))):
            _draw_branch(
                canvas,
                hilum,
                rng,
                angle=float(angle + rng.normal(0, 0.15)),
                side=side,
                thickness=5.0,
                lung=lung,
                depth=3,
            )
        cv2.circle(canvas, (round(hilum[0]), round(hilum[1])), round(0.025 * frame.thorax), 150, -1)
    for _ in range(int(rng.integers(0, 8))):  # Vessels seen end on.
        x = frame.middle + rng.choice([-1, 1]) * rng.uniform(0.1, 0.25) * frame.thorax
        y = frame.knob_y + rng.uniform(0.1, 1.1) * frame.drop
        cv2.circle(canvas, (round(x), round(y)), int(rng.integers(1, 4)), 220, -1, cv2.LINE_AA)
    drawn = primitives.blur(canvas.astype(np.float32) / np.float32(255), rng.uniform(0.6, 1.4))
    grain = primitives.smooth_noise(chest.shape, rng.uniform(2.5, 5), rng) * np.float32(
        rng.uniform(0.05, 0.2)
    )
    grain += primitives.smooth_noise(chest.shape, rng.uniform(8, 16), rng) * np.float32(
        rng.uniform(0.03, 0.15)
    )
    inside = np.minimum(chest.air * 1.5, 1)
    chest.vessels = np.asarray(
        (drawn * rng.uniform(0.15, 0.55) + grain * 0.3) * inside * chest.contrast, np.float32
    )
    chest.pixels += chest.vessels


def _draw_branch(
    canvas: Canvas,
    start: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    angle: float,
    side: int,
    thickness: float,
    lung: Lung,
    depth: int,
) -> None:
    length = rng.uniform(0.09, 0.2) * (lung.bottom - lung.top) * (0.75 + 0.2 * depth)
    steps = 7
    angles = angle + np.cumsum(rng.normal(0, 0.09, steps))
    moves = np.stack([side * np.cos(angles), np.sin(angles)], axis=1) * length / steps
    points = np.concatenate([start[None], start + np.cumsum(moves, axis=0)]).astype(np.float32)
    value = int(rng.integers(90, 200) * (0.55 + 0.15 * depth))
    primitives.draw_polyline(canvas, points, thickness, min(255, value))
    if depth:
        for turn in (-1, 1):
            spread = turn * rng.uniform(0.2, 0.6)
            end = points[-1].astype(np.float64)
            _draw_branch(
                canvas,
                end,
                rng,
                angle=float(angles[-1]) + spread,
                side=side,
                thickness=thickness * 0.62,
                lung=lung,
                depth=depth - 1,
            )


def _paint_diaphragm(chest: Chest, rng: np.random.Generator) -> None:
    y, x = primitives.pixel_grid(chest.shape)
    _, top, _, bottom = chest.lungs.extent
    tissue = np.float32(chest.tissue + rng.uniform(-0.02, 0.15))
    for lung, lateral_left in ((chest.lungs.first, True), (chest.lungs.second, False)):
        low = lung.levels[-8:].mean()
        left, right = lung.borders_at(float(low))
        lateral, medial = (left, right) if lateral_left else (right, left)
        medial += (medial - lateral) * 0.25
        t = np.clip((x - np.float32(lateral)) / np.float32(medial - lateral), -0.05, 1.1)
        dome = rng.uniform(0.07, 0.2) * (bottom - top)
        peak = rng.uniform(0.5, 0.65)
        rise = np.where(
            t < peak, 1 - ((t - peak) / peak) ** 2, 1 - 0.5 * ((t - peak) / (1 - peak)) ** 2
        )
        line = np.float32(lung.bottom) - np.float32(dome) * rise
        alpha = np.clip((y - line) / np.float32(rng.uniform(2, 6)) + 0.5, 0, 1)
        alpha = alpha * np.clip((x - np.float32(min(lateral, medial) - 14)) / 12, 0, 1)
        alpha = alpha * np.clip((np.float32(max(lateral, medial) + 14) - x) / 12, 0, 1)
        fade = np.exp(-np.maximum(y - line, 0) / np.float32(0.12 * chest.frame.thorax))
        alpha = alpha * np.maximum(fade, np.minimum(chest.air * 2, 1))
        alpha = primitives.blur(alpha.astype(np.float32), 1.2) * np.float32(rng.uniform(0.75, 1.0))
        shaded = np.maximum(chest.pixels, tissue)
        chest.pixels = chest.pixels + (shaded - chest.pixels) * alpha
        chest.air = chest.air * (1 - np.float32(0.85) * alpha)
        if not lateral_left and rng.random() < 0.5:
            _paint_gas(chest, (lateral + medial) / 2, lung.bottom, rng)


def _paint_gas(chest: Chest, x: float, y: float, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(0.03, 0.1) * chest.frame.thorax
        centre = (x + rng.normal(0, 0.06) * chest.frame.thorax, y + rng.uniform(0.2, 1.2) * radius)
        bubble = primitives.ellipse_distance(
            chest.shape, centre, (radius, radius * rng.uniform(0.4, 0.9))
        )
        chest.pixels -= primitives.smooth_mask(bubble, 0.3) * np.float32(rng.uniform(0.05, 0.3))


def _paint_breasts(chest: Chest, rng: np.random.Generator) -> None:
    frame = chest.frame
    strength = rng.uniform(0.04, 0.25) * chest.contrast
    radius = rng.uniform(0.15, 0.26) * frame.thorax
    for side in (-1, 1):
        centre = (
            frame.middle + side * rng.uniform(0.24, 0.32) * frame.thorax,
            frame.knob_y + rng.uniform(0.9, 1.35) * frame.drop,
        )
        disc = primitives.ellipse_distance(
            chest.shape, centre, (radius, radius * rng.uniform(0.8, 1.2))
        )
        y, _ = primitives.pixel_grid(chest.shape)
        lower = np.clip((y - np.float32(centre[1] - radius)) / np.float32(2 * radius), 0, 1)
        chest.pixels += primitives.smooth_mask(disc, 0.25) * lower * np.float32(strength)
