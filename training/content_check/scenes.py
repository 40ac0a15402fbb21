"""Painted images that are no X-rays: slices, ultrasound, pages, scenes, patterns.

As in `training.content_check.bones` they are many and different, f32 (SIZE, SIZE), about 0 to 1.
"""

from __future__ import annotations

import string

import cv2
import numpy as np

from training.content_check.bones import SHAPE, SIZE, draw_tube, uniform_field
from training.synthetic import primitives
from training.synthetic.primitives import Floats


def paint_slice(rng: np.random.Generator) -> Floats:
    """Paint a CT or MR slice: a body on black, a ring of bone or fat, organs, a spine."""
    middle = (SIZE * rng.uniform(0.45, 0.55), SIZE * rng.uniform(0.45, 0.55))
    rx, ry = SIZE * rng.uniform(0.3, 0.48), SIZE * rng.uniform(0.22, 0.46)
    distance = primitives.ellipse_distance(SHAPE, middle, (rx, ry))
    angle = np.arctan2(*np.meshgrid(np.arange(SIZE) - middle[1], np.arange(SIZE) - middle[0]))
    lobes, phase = int(rng.integers(2, 5)), rng.uniform(0, 2 * np.pi)
    outline = distance * (1 + rng.uniform(0, 0.08) * np.cos(lobes * angle.T + phase))
    distance = np.asarray(outline, np.float32)
    inside = primitives.smooth_mask(distance, 0.03)
    image = uniform_field(float(max(0, rng.uniform(-0.2, 0.15))))
    image += inside * np.float32(rng.uniform(0.2, 0.6))
    rim = np.exp(-(((distance - rng.uniform(0.85, 0.97)) / rng.uniform(0.02, 0.07)) ** 2))
    image += np.asarray(rim, np.float32) * np.float32(rng.uniform(-0.15, 0.6))
    for _ in range(int(rng.integers(2, 11))):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.7)
        centre = (
            middle[0] + rx * reach * float(np.cos(angle)),
            middle[1] + ry * reach * float(np.sin(angle)),
        )
        radii = (rx * rng.uniform(0.05, 0.4), ry * rng.uniform(0.05, 0.4))
        organ = primitives.ellipse_distance(SHAPE, centre, radii, rng.uniform(0, np.pi))
        value = rng.uniform(-0.35, 0.45)
        image += primitives.smooth_mask(organ, rng.uniform(0.05, 0.5)) * inside * np.float32(value)
    if rng.random() < 0.35:  # Through the chest: two lungs, seen from below.
        for side in (-1, 1):
            lung = primitives.ellipse_distance(
                SHAPE, (middle[0] + side * 0.45 * rx, middle[1]), (0.36 * rx, 0.66 * ry)
            )
            primitives.blend_towards(image, 0.04, primitives.smooth_mask(lung, 0.08))
    spine_at = (middle[0], middle[1] + ry * rng.uniform(0.45, 0.75))
    bone = primitives.ellipse_distance(SHAPE, spine_at, (rx * 0.15, ry * 0.17))
    image += primitives.smooth_mask(bone, 0.2) * np.float32(rng.uniform(0, 0.6))
    if rng.random() < 0.4:  # The table.
        y, x = primitives.pixel_grid(SHAPE)
        arc = y - np.float32(middle[1] + ry * 1.15) + ((x - np.float32(middle[0])) / 30) ** 2 * 0.5
        image += np.exp(-((arc / 2) ** 2)).astype(np.float32) * np.float32(0.3)
    image += inside * primitives.smooth_noise(SHAPE, rng.uniform(1, 4), rng) * np.float32(0.04)
    return image


def paint_cells(rng: np.random.Generator) -> Floats:
    """Paint blobs on a ground, like tissue under a microscope, coins or fruit."""
    image = uniform_field(float(rng.uniform(0, 1))) + paint_texture(rng) * np.float32(
        rng.uniform(0, 0.3)
    )
    value = rng.uniform(0, 1)
    size = SIZE * rng.uniform(0.02, 0.12)
    for _ in range(int(rng.integers(10, 60))):
        centre = (SIZE * rng.uniform(0, 1), SIZE * rng.uniform(0, 1))
        radii = (size * rng.uniform(0.5, 1.5), size * rng.uniform(0.5, 1.5))
        blob = primitives.ellipse_distance(SHAPE, centre, radii, rng.uniform(0, np.pi))
        shade = value + rng.normal(0, 0.15)
        primitives.blend_towards(image, shade, primitives.smooth_mask(blob, rng.uniform(0.05, 0.8)))
    return image


def paint_mirrored(rng: np.random.Generator) -> Floats:
    """Paint a symmetric image, because symmetry alone must not pass for a chest."""
    half = (paint_texture, paint_scene, paint_cells)[int(rng.integers(3))](rng)[:, : SIZE // 2]
    return np.ascontiguousarray(np.hstack([half, half[:, ::-1]]))


def paint_ultrasound(rng: np.random.Generator) -> Floats:
    """Paint a fan or a rectangle of speckle on black, with lettering."""
    y, x = primitives.pixel_grid(SHAPE)
    apex = (SIZE * rng.uniform(0.35, 0.65), SIZE * rng.uniform(-0.3, 0.15))
    radius = np.hypot(x - np.float32(apex[0]), y - np.float32(apex[1]))
    angle = np.arctan2(x - np.float32(apex[0]), y - np.float32(apex[1]))
    far, near = SIZE * rng.uniform(0.6, 1.1), SIZE * rng.uniform(0.05, 0.35)
    if rng.random() < 0.7:
        inside = (np.abs(angle) < rng.uniform(0.4, 0.9)) & (radius < far) & (radius > near)
    else:
        left, top = SIZE * rng.uniform(0.05, 0.3), SIZE * rng.uniform(0.05, 0.25)
        inside = (x > left) & (x < SIZE - left) & (y > top) & (y < SIZE * rng.uniform(0.6, 0.95))
    layers = 0.5 + 0.5 * np.sin(radius / np.float32(rng.uniform(5, 25)))
    echo = 0.3 * layers + 0.5 * np.abs(primitives.smooth_noise(SHAPE, rng.uniform(8, 30), rng))
    for _ in range(int(rng.integers(0, 5))):  # Cysts, chambers.
        centre = (SIZE * rng.uniform(0.25, 0.75), SIZE * rng.uniform(0.25, 0.75))
        hole = primitives.ellipse_distance(
            SHAPE,
            centre,
            (SIZE * rng.uniform(0.04, 0.18), SIZE * rng.uniform(0.04, 0.18)),
            rng.uniform(0, np.pi),
        )
        primitives.blend_towards(echo, 0.03, primitives.smooth_mask(hole, 0.3))
    speckle = np.abs(primitives.smooth_noise(SHAPE, 1.5, rng))
    fade = np.clip(1.3 - radius / np.float32(far), 0.05, 1)
    image = np.asarray(inside * echo * speckle * fade * rng.uniform(0.5, 1.5), np.float32)
    return _add_lettering(image, rng, lines=int(rng.integers(1, 8)))


def paint_mammogram(rng: np.random.Generator) -> Floats:
    """Paint a half disc of mottled tissue at one edge."""
    side = int(rng.integers(2))
    centre = (SIZE * side + rng.normal(0, 3), SIZE * rng.uniform(0.4, 0.6))
    radii = (SIZE * rng.uniform(0.4, 0.8), SIZE * rng.uniform(0.35, 0.6))
    disc = primitives.smooth_mask(primitives.ellipse_distance(SHAPE, centre, radii), 0.05)
    mottled = 0.4 + primitives.smooth_noise(SHAPE, rng.uniform(6, 30), rng) * np.float32(0.12)
    image = disc * mottled
    for _ in range(12):
        start = (centre[0], centre[1] + rng.normal(0, 0.3) * radii[1])
        tip = (centre[0] + (0.5 - side) * 2 * radii[0], centre[1])
        image += (
            disc * primitives.blur(draw_tube(start, tip, rng.uniform(1, 4)), 1) * np.float32(0.12)
        )
    return np.asarray(image, np.float32)


def paint_page(rng: np.random.Generator) -> Floats:
    """Paint a page of text, a form, or a screen with windows."""
    dark = rng.random() < 0.4
    image = uniform_field(0.1 if dark else rng.uniform(0.85, 1))
    ink = 0.9 if dark else rng.uniform(0, 0.3)
    for _ in range(int(rng.integers(0, 6))):
        x, y = rng.integers(0, SIZE, 2).tolist()
        w, h = rng.integers(SIZE // 8, SIZE, 2).tolist()
        fill = -1 if rng.random() < 0.5 else 1
        cv2.rectangle(image, (x, y), (x + w, y + h), float(rng.uniform(0, 1)), fill)
    return _add_lettering(image, rng, lines=int(rng.integers(4, 24)), ink=float(ink))


def _add_lettering(
    image: Floats, rng: np.random.Generator, *, lines: int, ink: float = 0.95
) -> Floats:
    letters = list(string.ascii_letters + string.digits + "     ")
    canvas = np.zeros(SHAPE, np.uint8)
    for _ in range(lines):
        text = "".join(rng.choice(letters, int(rng.integers(3, 40))).tolist())
        at = (int(rng.integers(0, SIZE)) - SIZE // 6, int(rng.integers(5, SIZE)))
        size = float(rng.uniform(0.2, 0.9) ** 2 + 0.15)
        cv2.putText(canvas, text, at, 0, size, 255, 1 if size < 0.6 else 2, cv2.LINE_AA)
    written = image.copy()
    primitives.blend_towards(written, ink, canvas.astype(np.float32) / np.float32(255))
    return written


def paint_texture(rng: np.random.Generator) -> Floats:
    """Paint fractal noise, like clouds, grass or stone."""
    fall = rng.uniform(0.35, 0.95)
    grain, strength, image = float(SIZE), 1.0, uniform_field()
    while grain > 1.5:
        image += primitives.smooth_noise(SHAPE, grain, rng) * np.float32(strength)
        grain, strength = grain / 2, strength * fall
    return np.asarray(0.5 + image * rng.uniform(0.1, 0.4), np.float32)


def paint_scene(rng: np.random.Generator) -> Floats:
    """Paint a scene like a photograph: sky above ground, objects with edges and shadows."""
    y, _ = primitives.pixel_grid(SHAPE)
    horizon = SIZE * rng.uniform(0.2, 0.8)
    edge = np.clip((y - np.float32(horizon)) / np.float32(rng.uniform(1, 30)) + 0.5, 0, 1)
    above, below = rng.uniform(0, 1, 2)
    image = np.asarray(above + (below - above) * edge, np.float32) + uniform_field()
    image += paint_texture(rng) * np.float32(rng.uniform(0, 0.4))
    for _ in range(int(rng.integers(3, 25))):
        value = float(rng.uniform(0, 1))
        centre = tuple(rng.uniform(0, SIZE, 2).tolist())
        if rng.random() < 0.5:
            size = tuple(rng.uniform(0.02, 0.35, 2).tolist())
            item = primitives.ellipse_distance(
                SHAPE,
                (centre[0], centre[1]),
                (size[0] * SIZE, size[1] * SIZE),
                rng.uniform(0, np.pi),
            )
            alpha = primitives.smooth_mask(item, rng.uniform(0.02, 0.4))
        else:
            corners = rng.normal(0, rng.uniform(0.05, 0.3) * SIZE, (int(rng.integers(3, 7)), 2))
            alpha = primitives.fill_polygon(SHAPE, (corners + np.array(centre)).astype(np.float32))
        shade = value + primitives.smooth_noise(SHAPE, rng.uniform(3, 60), rng) * np.float32(0.1)
        primitives.blend_towards(image, shade, alpha * np.float32(rng.uniform(0.6, 1)))
    return image


def paint_portrait(rng: np.random.Generator) -> Floats:
    """Paint a head and shoulders: dark eyes and mouth in a bright oval."""
    image = paint_texture(rng) * np.float32(rng.uniform(0.2, 0.8))
    x, y = SIZE * rng.uniform(0.4, 0.6), SIZE * rng.uniform(0.35, 0.5)
    rx, ry = SIZE * rng.uniform(0.15, 0.28), SIZE * rng.uniform(0.2, 0.34)
    skin = rng.uniform(0.45, 0.9)
    coat = primitives.ellipse_distance(SHAPE, (x, y + ry * 2.6), (rx * 2.4, ry * 1.7))
    primitives.blend_towards(image, rng.uniform(0, 1), primitives.smooth_mask(coat, 0.05))
    oval = primitives.ellipse_distance(SHAPE, (x, y), (rx, ry))
    shade = skin + primitives.smooth_noise(SHAPE, SIZE / 6, rng) * np.float32(0.06)
    primitives.blend_towards(image, shade, primitives.smooth_mask(oval, 0.06))
    hair = primitives.ellipse_distance(SHAPE, (x, y - ry * 0.75), (rx * 1.1, ry * 0.55))
    primitives.blend_towards(image, rng.uniform(0, 0.5), primitives.smooth_mask(hair, 0.15))
    for at, radii in (
        ((x - 0.4 * rx, y - 0.1 * ry), (0.18 * rx, 0.09 * ry)),
        ((x + 0.4 * rx, y - 0.1 * ry), (0.18 * rx, 0.09 * ry)),
        ((x, y + 0.5 * ry), (0.35 * rx, 0.09 * ry)),
    ):
        spot = primitives.smooth_mask(primitives.ellipse_distance(SHAPE, at, radii), 0.4)
        primitives.blend_towards(image, skin * 0.4, spot)
    return image


def paint_test_pattern(rng: np.random.Generator) -> Floats:
    """Paint ramps, bars, checks or rings, like test patterns, or an empty exposure."""
    y, x = primitives.pixel_grid(SHAPE)
    angle = rng.uniform(0, 2 * np.pi)
    along = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) / np.float32(SIZE)
    kind = int(rng.integers(5))
    if kind == 0:
        image = along
    elif kind == 1:
        steps = rng.integers(3, 14)
        image = np.floor(along * np.float32(steps)) / np.float32(steps)
    elif kind == 2:
        cell = np.float32(rng.uniform(4, SIZE / 3))
        waves = np.sin(np.pi * x / cell) * np.sin(np.pi * y / cell)
        image = np.float32(0.5) + 0.5 * np.sign(waves)
    elif kind == 3:
        centre = (SIZE * rng.uniform(0.2, 0.8), SIZE * rng.uniform(0.2, 0.8))
        rings = primitives.ellipse_distance(SHAPE, centre, (SIZE * rng.uniform(0.2, 0.9),) * 2)
        waves = np.cos(rings * np.float32(rng.uniform(2, 30)))
        image = np.asarray(1 - rings if rng.random() < 0.5 else waves)
    else:
        image = np.full(SHAPE, rng.uniform(0, 1), np.float32)
    noisy = primitives.smooth_noise(SHAPE, rng.uniform(1, 6), rng) * np.float32(
        max(0, rng.uniform(-0.2, 0.2))
    )
    return np.asarray(image + noisy, np.float32)
