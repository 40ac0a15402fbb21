"""Findings inside the lung, painted on a chest.

Every painter takes the chest, the target box (centre x, centre y, width, height in pixels) and a
random generator. It returns the density to add, f32 (H, W), in units of the chest's contrast.
"""

from __future__ import annotations

import numpy as np

from training.synthetic import primitives
from training.synthetic.chest import Chest
from training.synthetic.primitives import Floats

TargetBox = tuple[float, float, float, float]


def paint_nodule(chest: Chest, target: TargetBox, rng: np.random.Generator) -> Floats:
    """Paint a round mass: the shadow of a sphere, its outline uneven, sometimes spiculated."""
    x, y, width, height = target
    radius = max(4.0, 0.5 * float(np.sqrt(width * height)))
    stretch = float(np.clip(width / max(height, 1), 0.7, 1.4)) ** 0.5
    distance = _uneven_distance(chest, (x, y), (radius * stretch, radius / stretch), rng)
    power = rng.uniform(0.3, 1.3)
    density = np.clip(1 - distance**2, 0, 1) ** np.float32(power)
    if rng.random() < 0.25:
        rim = np.exp(-(((distance - 0.92) / 0.12) ** 2))
        density += np.float32(rng.uniform(0.1, 0.5)) * rim
    if rng.random() < 0.08 and radius > 9:
        density -= np.float32(rng.uniform(0.3, 0.7)) * primitives.smooth_mask(distance / 0.6, 0.4)
    if rng.random() < 0.25:
        density += _draw_spicules(chest, (x, y), radius, rng)
    density = primitives.blur(density.astype(np.float32), rng.uniform(0.5, 0.5 + 0.12 * radius))
    diameter_mm = 2 * radius / chest.frame.px_per_mm
    peak = np.clip(rng.uniform(0.22, 0.5) + 0.009 * diameter_mm * rng.uniform(0.5, 1.5), 0.22, 1.0)
    texture = 1 + primitives.smooth_noise(chest.shape, max(3, radius / 2), rng) * np.float32(0.1)
    return np.asarray(density * texture * np.float32(peak), np.float32)


def _uneven_distance(
    chest: Chest, centre: tuple[float, float], radii: tuple[float, float], rng: np.random.Generator
) -> Floats:
    """Return the distance from an ellipse with a wavy outline, 1 on it."""
    y, x = primitives.pixel_grid(chest.shape)
    distance = primitives.ellipse_distance(chest.shape, centre, radii, rng.uniform(0, np.pi))
    angle = np.arctan2(y - np.float32(centre[1]), x - np.float32(centre[0]))
    wave = np.zeros(chest.shape, np.float32)
    roughness = rng.uniform(0.0, 0.12)
    for k in range(2, 6):
        wave += (
            rng.normal(0, roughness / k**0.5) * np.cos(k * angle + rng.uniform(0, 6.3))
        ).astype(np.float32)
    return np.asarray(distance / np.clip(1 + wave, 0.6, 1.4), np.float32)


def _draw_spicules(
    chest: Chest, centre: tuple[float, float], radius: float, rng: np.random.Generator
) -> Floats:
    canvas = np.zeros(chest.shape, np.uint8)
    for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(8, 20))):
        reach = radius * rng.uniform(1.05, 1.35)
        direction = np.array([np.cos(angle), np.sin(angle)])
        points = np.array(
            [centre + direction * radius * 0.6, centre + direction * reach], np.float32
        )
        primitives.draw_polyline(canvas, points, 1, 160)
    return np.asarray(
        primitives.blur(canvas.astype(np.float32) / np.float32(255), 0.7) * 0.6, np.float32
    )


def paint_calcification(chest: Chest, target: TargetBox, rng: np.random.Generator) -> Floats:
    """Paint a small bright calcification: grains, or a crescent on the aortic knob."""
    x, y, width, height = target
    canvas = np.zeros(chest.shape, np.uint8)
    knob = chest.knob
    if knob[0] - 10 < x < knob[2] + 10 and knob[1] - 20 < y < knob[3] + 10:
        middle = ((knob[0] + knob[2]) / 2, (knob[1] + knob[3]) / 2)
        radius = 0.46 * (knob[2] - knob[0])
        begin = rng.uniform(-1.8, 0.2)
        turn = np.linspace(begin, begin + rng.uniform(0.7, 1.8), 14)
        points = np.stack(
            [middle[0] + radius * np.cos(turn), middle[1] + 1.1 * radius * np.sin(turn)], 1
        )
        primitives.draw_polyline(canvas, points.astype(np.float32), rng.uniform(2, 4))
    else:
        width, height = min(width, 46.0), min(height, 46.0)
        for _ in range(int(rng.integers(1, 7))):
            spot = np.array([x, y]) + rng.uniform(-0.5, 0.5, 2) * (width, height) * 0.8
            reach = rng.uniform(1.2, max(1.6, 0.22 * min(width, height)))
            turn = np.linspace(0, 2 * np.pi, 9)[:-1]
            ring = spot + np.stack([np.cos(turn), np.sin(turn)], 1) * reach * rng.uniform(
                0.6, 1.2, (8, 1)
            )
            np.maximum(
                canvas,
                (primitives.fill_polygon(chest.shape, ring.astype(np.float32)) * 255).astype(
                    np.uint8
                ),
                out=canvas,
            )
    drawn = primitives.blur(canvas.astype(np.float32) / np.float32(255), rng.uniform(0.5, 1.0))
    return np.asarray(drawn * np.float32(rng.uniform(0.5, 1.0)), np.float32)


def paint_opacity(
    chest: Chest,
    target: TargetBox,
    rng: np.random.Generator,
    *,
    strength: tuple[float, float],
    patchy: tuple[float, float],
    hardness: tuple[float, float],
    bronchograms: float = 0.0,
) -> Floats:
    """Paint a cloud in the lung: consolidation, infiltration or lung opacity, by degree.

    Args:
        chest: the chest.
        target: centre x, centre y, width, height in pixels.
        rng: decides all that varies.
        strength: range of the density.
        patchy: range of the noise that breaks up the cloud.
        hardness: range of the sharpness of its edge.
        bronchograms: probability that air-filled bronchi are visible in it.

    Returns:
        The density to add, f32 (H, W).
    """
    x, y, width, height = target
    distance = primitives.ellipse_distance(
        chest.shape, (x, y), (0.62 * width, 0.62 * height), rng.normal(0, 0.15)
    )
    rough = rng.uniform(*patchy)
    grain = max(6.0, 0.16 * float(np.sqrt(width * height)))
    cloud = (
        1 - distance + np.float32(rough) * primitives.smooth_noise(chest.shape, grain * 1.6, rng)
    )
    cloud += np.float32(rough * 0.6) * primitives.smooth_noise(
        chest.shape, max(3.0, grain * 0.5), rng
    )
    density = 1 / (1 + np.exp(np.clip(0.5 - cloud * np.float32(rng.uniform(*hardness)), -30, 30)))
    density *= np.clip((1.25 - distance) * 3, 0, 1)
    density *= 0.8 + 0.2 * primitives.smooth_noise(chest.shape, rng.uniform(3, 7), rng)
    if rng.random() < bronchograms:
        density -= 0.35 * _draw_bronchi(chest, target, rng) * density
    inside = np.clip(chest.air * 1.6, 0, 1)
    out = np.clip(density, 0, 1.2) * inside * np.float32(rng.uniform(*strength))
    return np.asarray(primitives.blur(out.astype(np.float32), rng.uniform(0.4, 1.6)), np.float32)


def _draw_bronchi(chest: Chest, target: TargetBox, rng: np.random.Generator) -> Floats:
    x, y, width, height = target
    canvas = np.zeros(chest.shape, np.uint8)
    away = np.arctan2(y - chest.frame.knob_y - 0.4 * chest.frame.drop, x - chest.frame.middle)
    for _ in range(int(rng.integers(2, 6))):
        start = np.array([x, y]) + rng.uniform(-0.35, 0.35, 2) * (width, height)
        turn = away + np.cumsum(rng.normal(0, 0.2, 6))
        steps = np.stack([np.cos(turn), np.sin(turn)], 1) * 0.07 * (width + height)
        points = np.concatenate([start[None], start + np.cumsum(steps, axis=0)])
        primitives.draw_polyline(canvas, points.astype(np.float32), rng.uniform(1, 3.5))
    return primitives.blur(canvas.astype(np.float32) / np.float32(255), 0.8)


def paint_reticulation(chest: Chest, target: TargetBox, rng: np.random.Generator) -> Floats:
    """Paint interstitial disease: a fine net over a wide region, with some ground glass."""
    x, y, width, height = target
    distance = primitives.ellipse_distance(chest.shape, (x, y), (0.6 * width, 0.6 * height))
    envelope = primitives.smooth_mask(
        distance + 0.12 * primitives.smooth_noise(chest.shape, 30, rng), rng.uniform(0.3, 0.9)
    )
    net = np.zeros(chest.shape, np.float32)
    for _ in range(2):
        field = primitives.smooth_noise(chest.shape, rng.uniform(4, 10), rng)
        net = np.maximum(net, np.exp(-((field / np.float32(rng.uniform(0.15, 0.3))) ** 2)))
    dots = np.clip(primitives.smooth_noise(chest.shape, 3.0, rng) - 1, 0, 1)
    glass = rng.uniform(0.05, 0.3)
    inside = np.clip(chest.air * 1.6, 0, 1)
    out = envelope * inside * (net * rng.uniform(0.2, 0.5) + dots * rng.uniform(0, 0.4) + glass)
    return np.asarray(primitives.blur(out.astype(np.float32), rng.uniform(0.4, 0.9)), np.float32)


def paint_fibrosis(chest: Chest, target: TargetBox, rng: np.random.Generator) -> Floats:
    """Paint scars: coarse crooked strands that converge, with a dense part."""
    x, y, width, height = target
    canvas = np.zeros(chest.shape, np.uint8)
    hub = np.array([x, y]) + rng.uniform(-0.3, 0.3, 2) * (width, height)
    for _ in range(int(rng.integers(8, 22))):
        start = np.array([x, y]) + rng.uniform(-0.5, 0.5, 2) * (width, height)
        direction = (
            (hub - start) if rng.random() < 0.6 else rng.uniform(-0.5, 0.5, 2) * (width, height)
        )
        bend = rng.normal(0, 0.12, 2) * (width, height)
        t = np.linspace(0, 1, 8)[:, None]
        points = start + direction * t * rng.uniform(0.5, 1.0) + bend * np.sin(np.pi * t)
        primitives.draw_polyline(
            canvas, points.astype(np.float32), rng.uniform(1, 3.4), int(rng.integers(110, 255))
        )
    drawn = primitives.blur(canvas.astype(np.float32) / np.float32(255), rng.uniform(0.5, 1.2))
    distance = primitives.ellipse_distance(chest.shape, (x, y), (0.58 * width, 0.58 * height))
    lumps = np.clip(0.7 - distance + 0.5 * primitives.smooth_noise(chest.shape, 8, rng), 0, 1)
    inside = np.clip(chest.air * 1.6, 0.15, 1)
    fence = primitives.smooth_mask(distance / 1.1, 0.3)
    out = (drawn * rng.uniform(0.3, 0.6) + lumps * rng.uniform(0.1, 0.5)) * inside * fence
    return np.asarray(out, np.float32)


def paint_atelectasis(chest: Chest, target: TargetBox, rng: np.random.Generator) -> Floats:
    """Paint airless lung: a plate-like band, or a wedge that points to the hilum."""
    x, y, width, height = target
    inside = np.clip(chest.air * 1.6, 0, 1)
    if rng.random() < 0.5:
        canvas = np.zeros(chest.shape, np.uint8)
        for _ in range(int(rng.integers(1, 4))):
            tilt = rng.normal(0, 0.35)
            t = np.linspace(-0.5, 0.5, 10)
            points = np.stack(
                [
                    x + width * t,
                    y
                    + rng.uniform(-0.4, 0.4) * height * 0.5
                    + np.tan(tilt) * width * t
                    + rng.normal(0, 0.05) * width * np.cos(np.pi * t),
                ],
                1,
            )
            primitives.draw_polyline(canvas, points.astype(np.float32), rng.uniform(2, 7))
        drawn = primitives.blur(canvas.astype(np.float32) / np.float32(255), rng.uniform(0.7, 2.0))
        return np.asarray(
            drawn * np.clip(inside, 0.1, 1) * np.float32(rng.uniform(0.3, 0.7)), np.float32
        )
    side = -1.0 if x < chest.frame.middle else 1.0
    tip = [x - side * 0.5 * width, y - 0.35 * height]
    points = np.array(
        [
            tip,
            [x + side * 0.45 * width, y + rng.uniform(-0.3, 0.1) * height],
            [x + side * 0.5 * width, y + 0.5 * height],
            [x - side * 0.45 * width, y + 0.5 * height],
        ],
        np.float32,
    )
    wedge = primitives.blur(primitives.fill_polygon(chest.shape, points), rng.uniform(2, 6))
    wedge *= 1 + 0.15 * primitives.smooth_noise(chest.shape, 6, rng)
    return np.asarray(wedge * inside * np.float32(rng.uniform(0.4, 0.9)), np.float32)


def paint_other_lesion(chest: Chest, target: TargetBox, rng: np.random.Generator) -> Floats:
    """Paint a finding of no other class: a cavity with fluid, wide bronchi, a broad hilum."""
    x, y, width, height = target
    kind = rng.integers(0, 3)
    if kind == 0:
        radius = float(np.clip(0.4 * np.sqrt(width * height), 9, 70))
        distance = _uneven_distance(chest, (x, y), (radius, radius * rng.uniform(0.8, 1.1)), rng)
        out = np.exp(-(((distance - 0.85) / rng.uniform(0.1, 0.2)) ** 2)) * 0.6
        yy, _ = primitives.pixel_grid(chest.shape)
        fluid = np.clip((yy - np.float32(y + rng.uniform(-0.1, 0.5) * radius)) / 1.5, 0, 1)
        out = out + fluid * primitives.smooth_mask(distance, 0.1) * rng.uniform(0.3, 0.6)
        out -= primitives.smooth_mask(distance / 0.8, 0.1) * rng.uniform(0.0, 0.25) * (1 - fluid)
    elif kind == 1:
        out = np.zeros(chest.shape, np.float32)
        for _ in range(int(rng.integers(4, 12))):
            spot = np.array([x, y]) + rng.uniform(-0.42, 0.42, 2) * (width, height)
            radius = rng.uniform(3, 8)
            ring = primitives.ellipse_distance(
                chest.shape, (spot[0], spot[1]), (radius, radius * rng.uniform(0.7, 1.3))
            )
            out = np.maximum(out, np.exp(-(((ring - 0.9) / 0.22) ** 2)) * rng.uniform(0.3, 0.6))
    else:
        side = rng.choice([-1.0, 1.0])
        centre = (
            chest.frame.middle + side * 0.13 * chest.frame.thorax,
            chest.frame.knob_y + rng.uniform(0.25, 0.6) * chest.frame.drop,
        )
        reach = float(np.clip(0.35 * np.sqrt(width * height), 14, 45))
        lobes = np.full(chest.shape, 9, np.float32)
        for _ in range(int(rng.integers(2, 5))):
            spot = np.array(centre) + rng.normal(0, 0.45, 2) * reach
            lobes = np.minimum(
                lobes,
                primitives.ellipse_distance(
                    chest.shape, (spot[0], spot[1]), (reach * 0.7, reach * 0.8)
                ),
            )
        out = primitives.smooth_mask(lobes, rng.uniform(0.2, 0.6)) * rng.uniform(0.4, 0.8)
    return primitives.blur(np.asarray(out, np.float32), rng.uniform(0.5, 1.2))
