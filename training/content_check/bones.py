"""Painted X-rays that are no frontal chests: other bones, and the chest from the side.

The content check learns to tell them from frontal chests. They are not faithful, but many and
different, so that they share only the lack of two dark lungs beside a bright middle. Images are
f32 (SIZE, SIZE), about 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from training.synthetic import primitives
from training.synthetic.primitives import Floats

SIZE: Final = 192
SHAPE: Final = (SIZE, SIZE)

Point = tuple[float, float]


def uniform_field(value: float = 0.0) -> Floats:
    """Return an even field of a value."""
    return np.full(SHAPE, value, np.float32)


def draw_soft_tissue(
    rng: np.random.Generator, centre: Point, radii: Point, angle: float = 0.0
) -> Floats:
    """Draw a soft body: thick in the middle, thin at its edge, a little uneven."""
    distance = primitives.ellipse_distance(SHAPE, centre, radii, angle)
    thickness = np.sqrt(np.clip(1 - distance**2, 0, 1))
    uneven = 1 + primitives.smooth_noise(SHAPE, rng.uniform(8, 40), rng) * np.float32(
        rng.uniform(0, 0.1)
    )
    return np.asarray(thickness * uneven, np.float32)


def draw_tube(start: Point, end: Point, width: float, *, flare: float = 0.0) -> Floats:
    """Draw a straight tube, 1 inside, whose ends are `flare` times wider."""
    y, x = primitives.pixel_grid(SHAPE)
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = max(1.0, float(np.hypot(dx, dy)))
    along = ((x - np.float32(start[0])) * dx + (y - np.float32(start[1])) * dy) / length
    across = ((y - np.float32(start[1])) * dx - (x - np.float32(start[0])) * dy) / length
    t = np.clip(along / length, 0, 1)
    half = width / 2 * (1 + flare * np.abs(2 * t - 1) ** 3)
    over = np.maximum(np.maximum(-along, along - length), 0)
    distance = np.hypot(across, over) - half
    return np.asarray(np.clip(0.5 - distance, 0, 1), np.float32)


def draw_bone(start: Point, end: Point, width: float, rng: np.random.Generator) -> Floats:
    """Draw a long bone: dense walls, a hollow shaft, wide ends."""
    flare = rng.uniform(0.2, 0.9)
    whole = draw_tube(start, end, width, flare=flare)
    marrow = draw_tube(start, end, width * rng.uniform(0.4, 0.65), flare=flare)
    grain = 1 + primitives.smooth_noise(SHAPE, 3, rng) * np.float32(0.08)
    return np.asarray((whole - np.float32(rng.uniform(0.25, 0.55)) * marrow) * grain, np.float32)


def paint_limb(rng: np.random.Generator) -> Floats:
    """Paint one or two long bones, perhaps with a joint, in soft tissue: arm, leg, knee, ankle."""
    lean = rng.normal(0, 0.15)
    middle, width = SIZE * rng.uniform(0.38, 0.62), SIZE * rng.uniform(0.1, 0.28)
    top = (middle - lean * SIZE / 2, -0.1 * SIZE)
    bottom = (middle + lean * SIZE / 2, 1.1 * SIZE)
    # A joint may be at the end of the image (foot, hand) or within it.
    joint = rng.uniform(0.35, 1.2)
    knee = (top[0] + (bottom[0] - top[0]) * joint, top[1] + (bottom[1] - top[1]) * joint)
    flesh = draw_tube(top, bottom, width * rng.uniform(1.4, 2.4), flare=rng.uniform(-0.3, 0.4))
    image = uniform_field(0.02) + primitives.blur(flesh, SIZE / 40) * np.float32(
        rng.uniform(0.15, 0.45)
    )
    bones = int(rng.integers(1, 3))
    for part, (start, end) in enumerate(((top, knee), (knee, bottom))):
        if part and joint > 1.05:
            break
        for k in range(bones):
            shift = (k - (bones - 1) / 2) * width * rng.uniform(0.55, 0.9)
            thick = width * rng.uniform(0.3, 0.6) * (1 if k == 0 else rng.uniform(0.4, 1))
            gap = thick * rng.uniform(0.1, 0.5) * (1 if part == 0 else -1)
            a, b = (start[0] + shift, start[1] - gap), (end[0] + shift, end[1] - gap)
            image += draw_bone(a, b, thick, rng) * np.float32(rng.uniform(0.25, 0.55))
    if rng.random() < 0.35:  # The other limb beside it.
        image = np.maximum(image, np.roll(image[:, ::-1], int(SIZE * 0.5), axis=1))
    if rng.random() < 0.35:  # A foot.
        heel = (knee[0] + rng.choice([-1, 1]) * 0.12 * SIZE, min(knee[1], SIZE) - 0.05 * SIZE)
        image += draw_soft_tissue(rng, heel, (0.2 * SIZE, 0.08 * SIZE)) * np.float32(0.5)
    if rng.random() < 0.5:  # Collimation: the sides are even, black or white.
        left, right = SIZE * rng.uniform(0.0, 0.3), SIZE * rng.uniform(0.68, 1.0)
        value = rng.choice([0.0, 1.0])
        image[:, : int(left)] = image[:, int(right) :] = value
    return image


def paint_hand(rng: np.random.Generator) -> Floats:
    """Paint five rays of short bones from a wrist."""
    wrist = (SIZE * rng.uniform(0.42, 0.58), SIZE * rng.uniform(0.72, 0.9))
    image = uniform_field(0.02)
    palm = draw_soft_tissue(rng, (wrist[0], wrist[1] - 0.18 * SIZE), (0.22 * SIZE, 0.24 * SIZE))
    image += palm * np.float32(rng.uniform(0.15, 0.35))
    spread = rng.uniform(0.5, 1.3)
    for ray in range(5):
        angle = (ray / 4 - 0.5) * spread + rng.normal(0, 0.05)
        reach = SIZE * (0.62 - 0.1 * abs(ray - 2) ** 1.3) * rng.uniform(0.8, 1.05)
        step = np.array([np.sin(angle), -np.cos(angle)])
        at = np.array(wrist) + step * 0.08 * SIZE
        tip = np.array(wrist) + step * reach
        flesh = primitives.blur(draw_tube(tuple(at), tuple(tip), 0.09 * SIZE), 2)
        image = np.maximum(image, flesh * np.float32(0.3))
        for part in (0.38, 0.3, 0.18, 0.12):
            end = at + step * reach * part
            phalanx = draw_bone(tuple(at), tuple(end - step * 2), 0.042 * SIZE, rng)
            image += phalanx * np.float32(rng.uniform(0.3, 0.5))
            at = end
    for _ in range(8):  # Carpal bones.
        centre = (wrist[0] + rng.normal(0, 0.05) * SIZE, wrist[1] + rng.normal(0, 0.03) * SIZE)
        pebble = primitives.ellipse_distance(SHAPE, centre, (0.03 * SIZE, 0.026 * SIZE))
        image += primitives.smooth_mask(pebble, 0.3) * np.float32(0.3)
    for side in (-0.035, 0.035):
        end = (wrist[0] + side * SIZE, float(SIZE * 1.1))
        image += draw_bone((wrist[0] + side * SIZE, wrist[1]), end, 0.06 * SIZE, rng) * np.float32(
            0.4
        )
    return image


def paint_skull(rng: np.random.Generator) -> Floats:
    """Paint a round vault with a dense rim, with or without orbits."""
    centre = (SIZE * rng.uniform(0.42, 0.58), SIZE * rng.uniform(0.38, 0.5))
    radii = (SIZE * rng.uniform(0.28, 0.4), SIZE * rng.uniform(0.3, 0.42))
    distance = primitives.ellipse_distance(SHAPE, centre, radii, rng.normal(0, 0.2))
    image = primitives.smooth_mask(distance, 0.05) * np.float32(rng.uniform(0.35, 0.55))
    rim = np.exp(-(((distance - 0.96) / np.float32(rng.uniform(0.03, 0.06))) ** 2))
    image += rim * np.float32(rng.uniform(0.2, 0.45))
    image += draw_soft_tissue(
        rng, (centre[0], centre[1] + radii[1]), (radii[0] * 0.7, radii[1] * 0.5)
    )
    if rng.random() < 0.5:
        for side in (-1, 1):
            eye = (centre[0] + side * radii[0] * 0.42, centre[1] + radii[1] * 0.35)
            orbit = primitives.ellipse_distance(SHAPE, eye, (radii[0] * 0.26, radii[1] * 0.2))
            image -= primitives.smooth_mask(orbit, 0.3) * np.float32(rng.uniform(0.1, 0.3))
        nose = primitives.ellipse_distance(
            SHAPE, (centre[0], centre[1] + 0.6 * radii[1]), (radii[0] * 0.1, radii[1] * 0.2)
        )
        image -= primitives.smooth_mask(nose, 0.3) * np.float32(0.25)
    for k in range(int(rng.integers(0, 9))):  # Teeth.
        x = centre[0] + (k - 4) * 0.035 * SIZE
        y = centre[1] + radii[1] * 1.15
        image += draw_tube((x, y), (x, y + 0.06 * SIZE), 0.025 * SIZE) * np.float32(0.4)
    neck = draw_tube((centre[0], centre[1] + radii[1]), (centre[0], SIZE * 1.2), 0.25 * SIZE)
    return np.asarray(np.maximum(image, primitives.blur(neck, 3) * np.float32(0.4)), np.float32)


def _draw_vertebrae(
    rng: np.random.Generator, x: float, width: float, *, top: float = 0.0, bottom: float = 1.0
) -> Floats:
    image = uniform_field()
    height = width * rng.uniform(0.55, 0.9)
    bow, at = rng.normal(0, 0.06) * SIZE, top * SIZE
    while at < bottom * SIZE:
        middle = x + bow * np.sin(np.pi * at / SIZE)
        box = np.array(
            [[-0.5, 0.0], [0.5, 0.0], [0.45, 0.5], [0.5, 1.0], [-0.5, 1.0], [-0.45, 0.5]]
        )
        points = box * [width, height * 0.85] + [middle, at]
        image += primitives.fill_polygon(SHAPE, points.astype(np.float32)) * np.float32(0.8)
        for side in (-1, 1):  # Pedicles.
            ring = primitives.ellipse_distance(
                SHAPE, (middle + side * 0.28 * width, at + 0.4 * height), (0.1 * width,) * 2
            )
            image += primitives.smooth_mask(ring, 0.4) * np.float32(0.3)
        at += height
    return primitives.blur(image, rng.uniform(0.6, 2))


def paint_spine(rng: np.random.Generator) -> Floats:
    """Paint a column of vertebrae in an even body."""
    x = SIZE * rng.uniform(0.35, 0.65)
    body = primitives.blur(
        draw_tube((x, -50), (x, SIZE + 50), SIZE * rng.uniform(0.5, 1.3)), SIZE / 16
    )
    image = body * np.float32(rng.uniform(0.3, 0.6))
    image += primitives.smooth_noise(SHAPE, SIZE / rng.uniform(4, 12), rng) * np.float32(0.04)
    width = SIZE * rng.uniform(0.1, 0.3)
    return image + _draw_vertebrae(rng, x, width) * np.float32(rng.uniform(0.2, 0.45))


def paint_pelvis(rng: np.random.Generator) -> Floats:
    """Paint a pelvis with femoral heads, or only the abdomen above it, with gas."""
    x = SIZE * rng.uniform(0.45, 0.55)
    image = draw_soft_tissue(rng, (x, SIZE * 0.5), (SIZE * rng.uniform(0.5, 0.75), SIZE * 0.8))
    image *= np.float32(rng.uniform(0.35, 0.55))
    level = SIZE * rng.uniform(0.45, 1.15)
    width = SIZE * rng.uniform(0.08, 0.13)
    image += _draw_vertebrae(rng, x, width, bottom=min(1.0, level / SIZE)) * np.float32(0.3)
    for side in (-1, 1):
        wing = primitives.ellipse_distance(
            SHAPE, (x + side * 0.24 * SIZE, level), (0.16 * SIZE, 0.22 * SIZE), side * 0.5
        )
        image += primitives.smooth_mask(wing, 0.15) * np.float32(rng.uniform(0.15, 0.3))
        hip = (x + side * 0.3 * SIZE, level + 0.28 * SIZE)
        head = primitives.ellipse_distance(SHAPE, hip, (0.075 * SIZE,) * 2)
        image += primitives.smooth_mask(head, 0.2) * np.float32(0.25)
        foot = (hip[0] + side * 0.08 * SIZE, hip[1] + 0.6 * SIZE)
        image += draw_bone(hip, foot, 0.11 * SIZE, rng) * np.float32(0.3)
        hole = primitives.ellipse_distance(
            SHAPE, (x + side * 0.12 * SIZE, level + 0.36 * SIZE), (0.06 * SIZE, 0.08 * SIZE)
        )
        rim = np.exp(-(((hole - 1) / 0.25) ** 2))
        image += np.asarray(rim, np.float32) * np.float32(0.15)
    for _ in range(int(rng.integers(0, 14))):  # Bowel gas.
        centre = (SIZE * rng.uniform(0.2, 0.8), min(level, SIZE) * rng.uniform(0.1, 1))
        radius = SIZE * rng.uniform(0.02, 0.08)
        gas = primitives.ellipse_distance(SHAPE, centre, (radius, radius * rng.uniform(0.5, 1.4)))
        image -= primitives.smooth_mask(gas, 0.4) * np.float32(rng.uniform(0.05, 0.25))
    return image


def paint_joint(rng: np.random.Generator) -> Floats:
    """Paint a shoulder, hip or knee that fills the image: a ball, a socket, a shaft."""
    centre = (SIZE * rng.uniform(0.3, 0.7), SIZE * rng.uniform(0.3, 0.7))
    image = draw_soft_tissue(
        rng, centre, (SIZE * rng.uniform(0.5, 0.9), SIZE * rng.uniform(0.5, 0.9))
    )
    image *= np.float32(rng.uniform(0.2, 0.5))
    radius = SIZE * rng.uniform(0.12, 0.22)
    ball = primitives.smooth_mask(
        primitives.ellipse_distance(SHAPE, centre, (radius, radius * 1.05)), 0.12
    )
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    end = np.array(centre) + direction * SIZE
    image += ball * np.float32(0.3) + draw_bone(centre, tuple(end), radius * 1.1, rng) * np.float32(
        0.35
    )
    socket = np.array(centre) - direction * radius * 2.1
    cup = primitives.ellipse_distance(SHAPE, tuple(socket), (radius, radius * 1.5), float(angle))
    image += primitives.smooth_mask(cup, 0.2) * np.float32(0.3)
    if rng.random() < 0.5:
        image[image < 0.02] = rng.uniform(0, 0.1)
    return image


@dataclass(frozen=True, slots=True)
class _SideView:
    """Place of a chest from the side: the middle of the lung, its half axes, in pixels.

    `facing` is 1 if the front is at the right, -1 if it is at the left. `density` is the soft
    tissue's.
    """

    facing: int
    x: float
    y: float
    depth: float
    height: float
    density: float


def paint_lateral_chest(rng: np.random.Generator) -> Floats:
    """Paint a chest from the side: a dark field before a spine, the heart low in front."""
    view = _SideView(
        facing=rng.choice([-1, 1]),
        x=SIZE * rng.uniform(0.45, 0.55),
        y=SIZE * rng.uniform(0.42, 0.55),
        depth=SIZE * rng.uniform(0.24, 0.36),
        height=SIZE * rng.uniform(0.38, 0.5),
        density=rng.uniform(0.5, 0.7),
    )
    image = _draw_trunk(view, rng)
    air = _draw_air(view, rng)
    image -= air * np.float32(rng.uniform(0.25, 0.45))
    primitives.blend_towards(image, view.density, _draw_heart_shade(view, rng) * air)
    _add_bones(image, view, rng)
    if rng.random() < 0.6:  # Raised arms over the apices.
        shoulder, hand = (view.x, view.y - view.height), (view.x + view.facing * SIZE * 0.4, -20)
        arm = draw_tube(shoulder, hand, SIZE * 0.17)
        image += primitives.blur(arm, 4) * np.float32(rng.uniform(0.05, 0.25))
    image += (
        primitives.smooth_noise(SHAPE, rng.uniform(2, 8), rng)
        * air
        * np.float32(rng.uniform(0, 0.03))
    )
    return np.asarray(image, np.float32)


def _draw_trunk(view: _SideView, rng: np.random.Generator) -> Floats:
    """Draw neck, trunk and abdomen to the upper and lower edges, unlike anything in a slice."""
    yy, xx = primitives.pixel_grid(SHAPE)
    half = np.interp(
        yy[:, 0],
        view.y + view.height * np.array([-1.5, -0.9, -0.4, 0.3, 1.0, 1.6]),
        view.depth * np.array([rng.uniform(0.5, 1.4), 1.1, 1.3, 1.35, 1.3, rng.uniform(1.1, 1.6)]),
    ).astype(np.float32)[:, None]
    across = np.clip((half - np.abs(xx - np.float32(view.x))) / np.float32(half * 0.35), 0, 1)
    return np.asarray(np.sqrt(across), np.float32) * np.float32(view.density)


def _draw_air(view: _SideView, rng: np.random.Generator) -> Floats:
    """Draw the lungs above the diaphragm, 1 inside."""
    yy, xx = primitives.pixel_grid(SHAPE)
    x, y = np.float32(view.x), np.float32(view.y)
    tilt = rng.normal(0, 0.08)
    lung = primitives.ellipse_distance(SHAPE, (view.x, view.y), (view.depth, view.height), tilt)
    egg = lung * (1 + 0.25 * (y - yy) / np.float32(view.height))  # Narrower above.
    dome = view.y + view.height * rng.uniform(0.45, 0.75)
    floor = np.float32(dome) + (xx - x) * np.float32(-view.facing * rng.uniform(0.1, 0.5))
    wave = np.float32(rng.uniform(4, 18))
    floor = floor - wave * np.cos((xx - x) / np.float32(view.depth) * 1.5)
    above = np.clip((floor - yy) / np.float32(rng.uniform(2, 5)) + 0.5, 0, 1)
    inside = primitives.smooth_mask(egg.astype(np.float32), rng.uniform(0.06, 0.2))
    return np.asarray(inside * above)


def _draw_heart_shade(view: _SideView, rng: np.random.Generator) -> Floats:
    """Draw the heart's opacity, low in front."""
    centre = (
        view.x + view.facing * view.depth * rng.uniform(0.25, 0.5),
        view.y + view.height * rng.uniform(0.25, 0.45),
    )
    radii = (view.depth * rng.uniform(0.45, 0.65), view.height * 0.33)
    heart = primitives.ellipse_distance(SHAPE, centre, radii, view.facing * 0.5)
    return np.asarray(
        primitives.smooth_mask(heart, rng.uniform(0.2, 0.6)) * np.float32(rng.uniform(0.4, 0.9))
    )


def _add_bones(image: Floats, view: _SideView, rng: np.random.Generator) -> None:
    """Add the spine, the ribs of both sides and the sternum to the image."""
    x, y, depth, height, facing = view.x, view.y, view.depth, view.height, view.facing
    yy, _ = primitives.pixel_grid(SHAPE)
    back = x - facing * depth * rng.uniform(0.75, 1.0)
    column = _draw_vertebrae(rng, back, SIZE * rng.uniform(0.07, 0.12))
    fade = np.clip((yy - np.float32(y + 0.3 * height)) / np.float32(-height), -1, 0.6) + 1
    image += column * np.float32(rng.uniform(0.08, 0.3)) * np.asarray(fade, np.float32) * 0.6
    slope = rng.uniform(0.2, 0.7)
    for k in range(9):  # They slant forwards.
        start = (back, y - height * 0.9 + k * height * 0.19)
        end = (x + facing * depth * 0.9, start[1] + slope * height * 0.7)
        rib = primitives.blur(draw_tube(start, end, SIZE * 0.02), 1)
        image += rib * np.float32(rng.uniform(0.02, 0.12))
    sternum = (x + facing * depth * 1.0, y - height * 0.5)
    front = draw_tube(sternum, (x + facing * depth * 1.12, y + height * 0.3), SIZE * 0.035)
    image += primitives.blur(front, 1.5) * np.float32(rng.uniform(0.05, 0.25))
