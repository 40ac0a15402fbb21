"""Simulated readers: they draw the same finding a little differently, miss some, see others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from hilum.catalog import BY_SLUG
from training.data.labels import Label

READERS: Final = tuple(f"R{k}" for k in range(1, 18))

# Pale findings are missed more often; names for the same shadow are mixed up.
_SEEN: Final = {
    BY_SLUG[slug].index: share
    for slug, share in (
        ("aortic_enlargement", 0.92),
        ("cardiomegaly", 0.95),
        ("pleural_effusion", 0.9),
        ("pneumothorax", 0.92),
    )
}
_SEEN_OTHERWISE: Final = 0.8
_MIXED_UP: Final = tuple(
    BY_SLUG[slug].index for slug in ("consolidation", "infiltration", "lung_opacity")
)
_MIX_UP: Final = 0.12
_IMAGINED: Final = 0.02
_EDGE: Final = 0.05  # standard deviation of an edge, in sides of the box


def choose_readers(rng: np.random.Generator, count: int = 3) -> list[str]:
    """Who reads an image."""
    return [READERS[k] for k in sorted(rng.choice(len(READERS), count, replace=False).tolist())]


def simulate_reading(labels: Sequence[Label], side: int, rng: np.random.Generator) -> list[Label]:
    """What one reader draws on an image of `side` x `side` pixels; whole pixels, as tools give."""
    drawn = []
    for label in labels:
        if rng.random() >= _SEEN.get(label.index, _SEEN_OTHERWISE):
            continue
        index = label.index
        if index in _MIXED_UP and rng.random() < _MIX_UP:
            index = int(rng.choice(_MIXED_UP))
        width, height = label.x_max - label.x_min, label.y_max - label.y_min
        moved = rng.normal(0, _EDGE, 4) * [width, height, width, height]
        box = np.array([label.x_min, label.y_min, label.x_max, label.y_max]) + moved
        drawn.append(_round_box(index, box.tolist(), side))
    if rng.random() < _IMAGINED:
        x, y = rng.uniform(0.2, 0.7, 2) * side
        drawn.append(_round_box(int(rng.choice(_MIXED_UP)), [x, y, x + 40, y + 40], side))
    return drawn


def _round_box(index: int, box: Sequence[float], side: int) -> Label:
    x_min, y_min = (float(min(max(round(v), 0), side - 3)) for v in box[:2])
    x_max, y_max = (
        float(min(max(round(v), low + 3), side))
        for v, low in zip(box[2:], (x_min, y_min), strict=True)
    )
    return Label(index, x_min, y_min, x_max, y_max)
