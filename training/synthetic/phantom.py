"""A frontal chest, painted: the stage on which findings are placed.

Nothing here is meant to be a faithful X-ray; the parts (lungs, heart, ribs, vessels, breasts,
abdomen) vary far more than in life, so that a detector trained on them does not take any one
look for granted. Pictures are f32, 0 for air outside the body and about 1 for the densest bone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic import primitives
from training.synthetic.lungs import Lung, Lungs, ShapeModel, place_shape
from training.synthetic.primitives import Floats, Shape

Canvas = NDArray[np.uint8]

THORAX_MM: Final = 290.0
"""Assumed inner width of an adult thorax: how millimetres become pixels."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The thorax frame of `training.synthetic.box_statistics`, in pixels."""

    middle: float
    thorax: float
    knob_y: float
    drop: float

    def to_pixels(
        self, box: tuple[float, float, float, float]
    ) -> tuple[float, float, float, float]:
        """Centre u, v, width, height in the frame -> centre x, y, width, height in pixels."""
        u, v, width, height = box
        return (
            self.middle + u * self.thorax,
            self.knob_y + v * self.drop,
            width * self.thorax,
            height * self.drop,
        )

    @property
    def px_per_mm(self) -> float:
        """Pixels for one millimetre inside the patient."""
        return self.thorax / THORAX_MM


@dataclass(slots=True)
class Chest:
    """One chest while it is painted.

    `pixels` f32 (H, W); `air` f32 (H, W) 0-1, where lung is; `contrast` the brightness between
    lung and soft tissue, `tissue` that of soft tissue; `vessels` what vessels add (None on a real
    radiograph, where they cannot be told apart). `heart` and `knob` are x_min, y_min, x_max, y_max.
    """

    pixels: Floats
    lungs: Lungs
    air: Floats
    frame: Frame
    contrast: float
    tissue: float
    heart: tuple[float, float, float, float]
    knob: tuple[float, float, float, float]
    vessels: Floats | None = None

    @property
    def shape(self) -> Shape:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def add(self, density: Floats) -> None:
        """Add density; what is already bright takes less, as film and displays do."""
        room = np.clip(
            (self.tissue + 0.45 * self.contrast - self.pixels) / (0.9 * self.contrast), 0.1, 1
        )
        self.pixels += density * np.float32(self.contrast) * room.astype(np.float32)


def estimate_frame(lungs: Lungs) -> Frame:
    """Where knob and heart are expected between these lungs."""
    x_min, y_min, x_max, y_max = lungs.extent
    height = y_max - y_min
    level = y_min + 0.4 * height
    middle = (lungs.first.borders_at(level)[1] + lungs.second.borders_at(level)[0]) / 2
    return Frame(
        middle=middle, thorax=x_max - x_min, knob_y=y_min + 0.27 * height, drop=0.43 * height
    )


def paint_chest(
    size: int,
    model: ShapeModel,
    rng: np.random.Generator,
    *,
    heart_ratio: float | None = None,
    knob_reach: float | None = None,
) -> Chest:
    """A chest, `size` x `size`; heart and aorta of normal width unless told otherwise."""
    lungs = _random_lungs(size, model, rng)
    frame = estimate_frame(lungs)
    shape = (size, size)
    contrast = rng.uniform(0.35, 0.55)
    tissue = rng.uniform(0.6, 0.75)
    pixels = _body(shape, lungs, frame, tissue, rng)
    air = _air(shape, lungs, frame, rng)
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
    _spine_and_trachea(chest, rng)
    _vessels(chest, rng)
    paint_heart(chest, heart_ratio or rng.uniform(0.36, 0.48), rng)
    paint_aortic_knob(chest, knob_reach or rng.uniform(0.05, 0.092), rng)
    _diaphragm(chest, rng)
    _bones(chest, rng)
    if rng.random() < 0.4:
        _breasts(chest, rng)
    return chest


def _random_lungs(size: int, model: ShapeModel, rng: np.random.Generator) -> Lungs:
    coefficients = np.clip(rng.normal(0, 1.0, len(model.modes)), -2.2, 2.2)
    width = size * rng.uniform(0.6, 0.92)
    height = min(width / rng.uniform(*model.aspect), size * 0.92)
    x = (size - width) / 2 + rng.normal(0, 0.025) * size
    y = (size - height) * rng.uniform(0.2, 0.6)
    return place_shape(model.vector(coefficients), x, y, width, height)


def _body(
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


def _air(shape: Shape, lungs: Lungs, frame: Frame, rng: np.random.Generator) -> Floats:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))
    mask = cv2.morphologyEx(lungs.mask(shape), cv2.MORPH_OPEN, kernel)  # no thin tails at the base
    distance = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
    depth = np.clip(distance / np.float32(rng.uniform(0.05, 0.13) * frame.thorax), 0, 1)
    soft = primitives.blur(mask.astype(np.float32) / np.float32(255), rng.uniform(1.0, 3.0))
    floor = np.float32(rng.uniform(0.45, 0.75))
    air = soft * (floor + (1 - floor) * depth)
    # The bases are veiled by more tissue than the apices, or the other way round.
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


def paint_heart(chest: Chest, ratio: float, rng: np.random.Generator) -> None:
    """Paint the heart as wide as `ratio` of the thorax; `chest.heart` becomes its box."""
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
    detail = before - primitives.blur(before, 9)  # what lies before and behind still shows
    shaded = np.maximum(before, target + np.float32(0.6) * detail)
    chest.pixels = before + (shaded - before) * alpha * np.float32(rng.uniform(0.8, 1.0))
    chest.heart = _extent(
        alpha > 0.5, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    )


def paint_aortic_knob(chest: Chest, reach: float, rng: np.random.Generator) -> None:
    """Paint the aortic arch bulging `reach` thorax widths left of the midline."""
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


def _spine_and_trachea(chest: Chest, rng: np.random.Generator) -> None:
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


def _vessels(chest: Chest, rng: np.random.Generator) -> None:
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
            _branch(
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
    for _ in range(int(rng.integers(0, 8))):  # vessels seen end on
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


def _branch(
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
            _branch(
                canvas,
                end,
                rng,
                angle=float(angles[-1]) + spread,
                side=side,
                thickness=thickness * 0.62,
                lung=lung,
                depth=depth - 1,
            )


def _diaphragm(chest: Chest, rng: np.random.Generator) -> None:
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
            _gas(chest, (lateral + medial) / 2, lung.bottom, rng)


def _gas(chest: Chest, x: float, y: float, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(0.03, 0.1) * chest.frame.thorax
        centre = (x + rng.normal(0, 0.06) * chest.frame.thorax, y + rng.uniform(0.2, 1.2) * radius)
        bubble = primitives.ellipse_distance(
            chest.shape, centre, (radius, radius * rng.uniform(0.4, 0.9))
        )
        chest.pixels -= primitives.smooth_mask(bubble, 0.3) * np.float32(rng.uniform(0.05, 0.3))


def _bones(chest: Chest, rng: np.random.Generator) -> None:
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
            _rib(posterior, np.stack([x, y], 1).astype(np.float32), thick)
            if 0 < i < 8:
                drop = rng.uniform(0.1, 0.2) * height
                end = lateral * rng.uniform(0.35, 0.5)
                x = frame.middle + side * (lateral + (end - lateral) * t)
                y = y0 + slope * height + drop * t**1.3 + 0.02 * height * np.sin(np.pi * t)
                _rib(anterior, np.stack([x, y], 1).astype(np.float32), thick * 1.15)
        _clavicle(anterior, side, chest, rng)
    strength = rng.uniform(0.08, 0.32) * chest.contrast
    body = np.minimum(chest.pixels / np.float32(0.3), 1)
    for canvas, share in ((posterior, 1.0), (anterior, rng.uniform(0.4, 0.9))):
        bone = primitives.blur(canvas.astype(np.float32) / np.float32(255), rng.uniform(0.7, 1.6))
        chest.pixels = chest.pixels + bone * np.float32(strength * share) * np.clip(body, 0, 1)
    _scapulae(chest, rng)


def _rib(canvas: Canvas, points: Floats, thick: float) -> None:
    own = np.zeros_like(canvas)
    primitives.draw_polyline(own, points, thick, 235)
    primitives.draw_polyline(own, points, max(1.0, thick - 3), 150)
    np.copyto(canvas, np.maximum(canvas, cv2.add(cv2.multiply(canvas, 0.35), own)))


def _clavicle(
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
    _rib(canvas, np.stack([x, y], 1).astype(np.float32), rng.uniform(0.032, 0.05) * frame.thorax)


def _scapulae(chest: Chest, rng: np.random.Generator) -> None:
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


def _breasts(chest: Chest, rng: np.random.Generator) -> None:
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
