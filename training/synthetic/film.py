"""Rendering of an 8-bit film: detail enhancement, noise, window, gamma, letters, collimation."""

from __future__ import annotations

import cv2
import numpy as np

from training.synthetic import primitives
from training.synthetic.primitives import Canvas, Floats


def render_film(pixels: Floats, rng: np.random.Generator, *, real: bool) -> Canvas:
    """Render painted brightness as an 8-bit film.

    Args:
        pixels: f32 (H, W).
        rng: decides what varies: detail, noise, window, gamma, borders, letters.
        real: the background is a real radiograph, which has been processed before.

    Returns:
        u8 (H, W).
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
        _add_letters(grey, rng)
    if rng.random() < 0.25:
        _collimate(grey, rng)
    return np.asarray(grey, np.uint8)


def _add_letters(grey: Canvas, rng: np.random.Generator) -> None:
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
