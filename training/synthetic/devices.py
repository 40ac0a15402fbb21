"""Objects that are no findings: tubes, electrodes, pacemakers, wires, buttons, nipples.

A detector must learn not to mark them, so they have no labels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic import primitives
from training.synthetic.chest import Chest
from training.synthetic.primitives import Canvas

Points = NDArray[np.floating]


def add_devices(chest: Chest, rng: np.random.Generator, busy: float) -> None:
    """Add unlabelled objects in and on the patient.

    Args:
        chest: is changed.
        rng: decides which objects.
        busy: 0-1, scales the probability of each object.
    """
    if rng.random() < 0.3 * busy:
        _add_nipples(chest, rng)
    canvas = np.zeros(chest.shape, np.uint8)
    if rng.random() < 0.35 * busy:
        _draw_electrodes(canvas, chest, rng)
    if rng.random() < 0.35 * busy:
        _draw_tubes(canvas, chest, rng)
    if rng.random() < 0.08 * busy:
        _draw_pacemaker(canvas, chest, rng)
    if rng.random() < 0.1 * busy:
        _draw_sternal_wires(canvas, chest, rng)
    if rng.random() < 0.12 * busy:
        _draw_buttons(canvas, chest, rng)
    if canvas.any():
        drawn = primitives.blur(canvas.astype(np.float32) / np.float32(255), rng.uniform(0.4, 0.9))
        chest.add(drawn * np.float32(rng.uniform(0.5, 1.1)))


def _add_nipples(chest: Chest, rng: np.random.Generator) -> None:
    frame = chest.frame
    radius = rng.uniform(3.0, 6.0) * frame.px_per_mm
    level = frame.knob_y + rng.uniform(0.75, 1.25) * frame.drop
    for side in (-1, 1):
        if rng.random() < 0.2:
            continue
        x = frame.middle + side * rng.uniform(0.27, 0.34) * frame.thorax
        disc = primitives.ellipse_distance(
            chest.shape, (x, level + rng.normal(0, 4)), (radius, radius)
        )
        chest.add(
            primitives.smooth_mask(disc, rng.uniform(0.3, 1.0)) * np.float32(rng.uniform(0.1, 0.25))
        )


def _draw_wire(
    canvas: Canvas,
    way: tuple[Points, Points],
    rng: np.random.Generator,
    *,
    thickness: float,
    value: int,
) -> None:
    start, end = (point.astype(np.float32) for point in way)
    t = np.linspace(0, 1, 24)[:, None]
    bend = rng.normal(0, 0.18, (2, 2)) * np.hypot(*(end - start))
    points = (
        start + (end - start) * t + bend[0] * np.sin(np.pi * t) + bend[1] * np.sin(2 * np.pi * t)
    )
    primitives.draw_polyline(canvas, points.astype(np.float32), thickness, value)


def _draw_electrodes(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
    size = chest.shape[0]
    hub = rng.uniform(0.2, 0.8, 2) * size
    for _ in range(int(rng.integers(2, 6))):
        spot = (rng.uniform(0.1, 0.9, 2) * size).astype(np.float32)
        radius = int(rng.integers(4, 11))
        centre = (round(float(spot[0])), round(float(spot[1])))
        cv2.circle(canvas, centre, radius, int(rng.integers(60, 160)), -1, cv2.LINE_AA)
        cv2.circle(canvas, centre, max(2, radius // 2), 255, int(rng.integers(1, 3)), cv2.LINE_AA)
        _draw_wire(
            canvas,
            (spot, hub),
            rng,
            thickness=rng.uniform(1, 2.4),
            value=int(rng.integers(90, 230)),
        )


def _draw_tubes(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
    frame, size = chest.frame, chest.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.integers(0, 3)
        value = int(rng.integers(70, 220))
        start: Points
        end: Points
        if kind == 0:  # Endotracheal or gastric tube, down the midline.
            start = np.array([frame.middle + rng.normal(0, 4), 0], np.float32)
            depth = rng.uniform(0.2, 0.95)
            end = np.array([frame.middle + rng.normal(0, 12), depth * size], np.float32)
        elif kind == 1:  # Central line.
            side = rng.choice([-1, 1])
            start = np.array([frame.middle + side * rng.uniform(0.1, 0.5) * frame.thorax, 0])
            end = np.array([frame.middle - 0.05 * frame.thorax, frame.knob_y + 0.5 * frame.drop])
        else:  # Drain, or an object on the patient.
            start, end = rng.uniform(0, size, 2), rng.uniform(0.2 * size, 0.8 * size, 2)
        _draw_wire(
            canvas,
            (start, end),
            rng,
            thickness=rng.uniform(1, 3.5),
            value=value,
        )


def _draw_pacemaker(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
    frame = chest.frame
    side = rng.choice([-1, 1], p=[0.25, 0.75])
    x = frame.middle + side * rng.uniform(0.25, 0.4) * frame.thorax
    y = frame.knob_y + rng.uniform(-0.2, 0.15) * frame.drop
    reach = rng.uniform(0.05, 0.08) * frame.thorax
    case = cv2.boxPoints(((x, y), (2 * reach, 1.7 * reach), rng.uniform(-30, 30)))
    cv2.fillPoly(canvas, [np.round(case).astype(np.int32)], 255, cv2.LINE_AA)
    tip = np.array([frame.middle + 0.1 * frame.thorax, frame.knob_y + 1.1 * frame.drop], np.float32)
    _draw_wire(canvas, (np.array([x, y]), tip), rng, thickness=2, value=255)


def _draw_sternal_wires(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
    frame = chest.frame
    for level in np.linspace(-0.1, 1.1, int(rng.integers(4, 7))):
        centre = (
            round(frame.middle + rng.normal(0, 2)),
            round(frame.knob_y + level * frame.drop),
        )
        axes = (int(rng.integers(4, 8)), int(rng.integers(2, 5)))
        cv2.ellipse(canvas, centre, axes, rng.uniform(-20, 20), 0, 360, 255, 1, cv2.LINE_AA)


def _draw_buttons(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
    size = chest.shape[0]
    radius = int(rng.integers(3, 9))
    x = rng.uniform(0.2, 0.8) * size
    for level in np.arange(rng.uniform(0.1, 0.3), 0.9, rng.uniform(0.12, 0.3)):
        cv2.circle(canvas, (round(x), round(level * size)), radius, 255, -1, cv2.LINE_AA)
        cv2.circle(
            canvas, (round(x), round(level * size)), max(1, radius // 4), 60, -1, cv2.LINE_AA
        )
