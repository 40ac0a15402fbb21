"""What a detector must learn to leave alone: devices, markers, nipples, the look of the film."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic import primitives
from training.synthetic.phantom import Chest
from training.synthetic.primitives import Floats

Canvas = NDArray[np.uint8]
Points = NDArray[np.floating]


def add_devices(chest: Chest, rng: np.random.Generator, busy: float) -> None:
    """Add unlabelled things in and on the patient; `busy` 0-1 is how many."""
    if rng.random() < 0.3 * busy:
        _nipples(chest, rng)
    canvas = np.zeros(chest.shape, np.uint8)
    if rng.random() < 0.35 * busy:
        _electrodes(canvas, chest, rng)
    if rng.random() < 0.35 * busy:
        _lines(canvas, chest, rng)
    if rng.random() < 0.08 * busy:
        _pacemaker(canvas, chest, rng)
    if rng.random() < 0.1 * busy:
        _sternal_wires(canvas, chest, rng)
    if rng.random() < 0.12 * busy:
        _buttons(canvas, chest, rng)
    if canvas.any():
        drawn = primitives.blur(canvas.astype(np.float32) / np.float32(255), rng.uniform(0.4, 0.9))
        chest.add(drawn * np.float32(rng.uniform(0.5, 1.1)))


def _nipples(chest: Chest, rng: np.random.Generator) -> None:
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


def _wire(
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


def _electrodes(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
    size = chest.shape[0]
    hub = rng.uniform(0.2, 0.8, 2) * size
    for _ in range(int(rng.integers(2, 6))):
        spot = (rng.uniform(0.1, 0.9, 2) * size).astype(np.float32)
        radius = int(rng.integers(4, 11))
        centre = (round(float(spot[0])), round(float(spot[1])))
        cv2.circle(canvas, centre, radius, int(rng.integers(60, 160)), -1, cv2.LINE_AA)
        cv2.circle(canvas, centre, max(2, radius // 2), 255, int(rng.integers(1, 3)), cv2.LINE_AA)
        _wire(
            canvas,
            (spot, hub),
            rng,
            thickness=rng.uniform(1, 2.4),
            value=int(rng.integers(90, 230)),
        )


def _lines(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
    frame, size = chest.frame, chest.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.integers(0, 3)
        value = int(rng.integers(70, 220))
        start: Points
        end: Points
        if kind == 0:  # down the midline: endotracheal or gastric tube
            start = np.array([frame.middle + rng.normal(0, 4), 0], np.float32)
            depth = rng.uniform(0.2, 0.95)
            end = np.array([frame.middle + rng.normal(0, 12), depth * size], np.float32)
        elif kind == 1:  # central line
            side = rng.choice([-1, 1])
            start = np.array([frame.middle + side * rng.uniform(0.1, 0.5) * frame.thorax, 0])
            end = np.array([frame.middle - 0.05 * frame.thorax, frame.knob_y + 0.5 * frame.drop])
        else:  # drain or something lying on the patient
            start, end = rng.uniform(0, size, 2), rng.uniform(0.2 * size, 0.8 * size, 2)
        _wire(
            canvas,
            (start, end),
            rng,
            thickness=rng.uniform(1, 3.5),
            value=value,
        )


def _pacemaker(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
    frame = chest.frame
    side = rng.choice([-1, 1], p=[0.25, 0.75])
    x = frame.middle + side * rng.uniform(0.25, 0.4) * frame.thorax
    y = frame.knob_y + rng.uniform(-0.2, 0.15) * frame.drop
    reach = rng.uniform(0.05, 0.08) * frame.thorax
    case = cv2.boxPoints(((x, y), (2 * reach, 1.7 * reach), rng.uniform(-30, 30)))
    cv2.fillPoly(canvas, [np.round(case).astype(np.int32)], 255, cv2.LINE_AA)
    tip = np.array([frame.middle + 0.1 * frame.thorax, frame.knob_y + 1.1 * frame.drop], np.float32)
    _wire(canvas, (np.array([x, y]), tip), rng, thickness=2, value=255)


def _sternal_wires(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
    frame = chest.frame
    for level in np.linspace(-0.1, 1.1, int(rng.integers(4, 7))):
        centre = (
            round(frame.middle + rng.normal(0, 2)),
            round(frame.knob_y + level * frame.drop),
        )
        axes = (int(rng.integers(4, 8)), int(rng.integers(2, 5)))
        cv2.ellipse(canvas, centre, axes, rng.uniform(-20, 20), 0, 360, 255, 1, cv2.LINE_AA)


def _buttons(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> None:
    size = chest.shape[0]
    radius = int(rng.integers(3, 9))
    x = rng.uniform(0.2, 0.8) * size
    for level in np.arange(rng.uniform(0.1, 0.3), 0.9, rng.uniform(0.12, 0.3)):
        cv2.circle(canvas, (round(x), round(level * size)), radius, 255, -1, cv2.LINE_AA)
        cv2.circle(
            canvas, (round(x), round(level * size)), max(1, radius // 4), 60, -1, cv2.LINE_AA
        )


def render_film(pixels: Floats, rng: np.random.Generator, *, real: bool) -> Canvas:
    """From painted brightness to an 8-bit film: detail, noise, window, gamma, borders, letters.

    Args:
        pixels: f32 (H, W).
        rng: what varies.
        real: the picture began as a real radiograph, which has a look of its own already.
    """
    film = pixels
    if rng.random() < (0.25 if real else 0.6):
        smooth = primitives.blur(film, rng.uniform(18, 60))
        film = smooth + (film - smooth) * np.float32(rng.uniform(1.0, 2.2))
        film = film - smooth * np.float32(rng.uniform(0, 0.5))
    if rng.random() < 0.3:
        film = film + (film - primitives.blur(film, rng.uniform(1, 2.5))) * np.float32(
            rng.uniform(0.2, 1)
        )
    if rng.random() < 0.4:
        film = primitives.blur(film, rng.uniform(0.4, 1.1))
    low, high = np.percentile(film[::6, ::6], [rng.uniform(0, 2.5), rng.uniform(97.5, 100)])
    film = (film - np.float32(low)) / np.float32(max(high - low, 1e-3))
    amount = rng.uniform(0.0, 0.012 if real else 0.03)
    film = film + primitives.smooth_noise(film.shape, rng.uniform(1.0, 1.8), rng) * np.float32(
        amount
    )
    film = np.clip(film, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.3)))
    if rng.random() < 0.2:
        knee = rng.uniform(4, 8)
        film = 1 / (1 + np.exp(-knee * (film - np.float32(rng.uniform(0.4, 0.6)))))
    black, white = 0.0, 1.0
    if rng.random() < 0.35:
        black, white = rng.uniform(0, 0.25), rng.uniform(0.55, 1)
    grey = np.clip(255 * (black + (white - black) * film), 0, 255).astype(np.uint8)
    if rng.random() < 0.08:
        grey = np.asarray(cv2.createCLAHE(rng.uniform(1, 3), (8, 8)).apply(grey), np.uint8)
    if rng.random() < 0.5:
        _letters(grey, rng)
    if rng.random() < 0.25:
        _collimate(grey, rng)
    return np.asarray(grey, np.uint8)


def _letters(grey: Canvas, rng: np.random.Generator) -> None:
    size = grey.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        text = str(rng.choice(["L", "R", "PA", "AP", "L", "R", "12", "UPRIGHT", "1", "S"]))
        x, y = rng.uniform(0.02, 0.9), rng.choice([rng.uniform(0.04, 0.2), rng.uniform(0.85, 0.98)])
        if rng.random() < 0.3:
            corner = (int(x * size) - 4, int(y * size) + 5)
            opposite = (corner[0] + 16 * len(text), corner[1] - 22)
            cv2.rectangle(grey, corner, opposite, int(rng.integers(60, 255)), 1)
        font = int(rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX]))
        cv2.putText(
            grey,
            text,
            (int(x * size), int(y * size)),
            font,
            rng.uniform(0.35, 0.9),
            int(rng.integers(180, 256)),
            int(rng.integers(1, 3)),
            cv2.LINE_AA,
        )


def _collimate(grey: Canvas, rng: np.random.Generator) -> None:
    size = grey.shape[0]
    inset = rng.uniform(0, 0.05, 4) * size
    corners = np.array(
        [
            [inset[0], inset[1]],
            [size - inset[2], inset[1]],
            [size - inset[2], size - inset[3]],
            [inset[0], size - inset[3]],
        ],
        np.float32,
    )
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 1.2), 1.0)
    corners = cv2.transform(corners[None], turn)[0]
    field = primitives.fill_polygon(grey.shape, corners)
    outside = float(rng.choice([0.0, rng.uniform(0, 40), 255.0], p=[0.7, 0.25, 0.05]))
    grey[:] = (grey * field + outside * (1 - field)).astype(np.uint8)
