"""Simulated readers: their boxes vary, they miss findings and mark some that do not exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from hilum.catalog import BY_SLUG
from training.data.labels import Label

READERS: Final = tuple(f"R{k}" for k in range(1, 18))

# Faint findings are missed more often; classes of similar appearance are confused.
_SENSITIVITY: Final = {
    BY_SLUG[slug].index: share
    for slug, share in (
        ("aortic_enlargement", 0.92),
        ("cardiomegaly", 0.95),
        ("pleural_effusion", 0.9),
        ("pneumothorax", 0.92),
    )
}
_DEFAULT_SENSITIVITY: Final = 0.8
_SIMILAR: Final = tuple(
    BY_SLUG[slug].index for slug in ("consolidation", "infiltration", "lung_opacity")
)
_CONFUSION: Final = 0.12
_FALSE_POSITIVE: Final = 0.02
_EDGE: Final = 0.05  # Standard deviation of an edge, in sides of the box.


def choose_readers(rng: np.random.Generator, count: int = 3) -> list[str]:
    """Choose the readers of an image."""
    return [READERS[k] for k in sorted(rng.choice(len(READERS), count, replace=False).tolist())]


def simulate_reading(labels: Sequence[Label], side: int, rng: np.random.Generator) -> list[Label]:
    """Simulate the boxes that one reader draws, in whole pixels, as annotation tools give them.

    Args:
        labels: the findings on the image.
        side: height and width of the image in pixels.
        rng: decides what the reader marks.

    Returns:
        The reader's labels.
    """
    drawn = []
    for label in labels:
        if rng.random() >= _SENSITIVITY.get(label.index, _DEFAULT_SENSITIVITY):
            continue
        index = label.index
        if index in _SIMILAR and rng.random() < _CONFUSION:
            index = int(rng.choice(_SIMILAR))
        width, height = label.x_max - label.x_min, label.y_max - label.y_min
        moved = rng.normal(0, _EDGE, 4) * [width, height, width, height]
        box = np.array([label.x_min, label.y_min, label.x_max, label.y_max]) + moved
        drawn.append(_round_box(index, box.tolist(), side))
    if rng.random() < _FALSE_POSITIVE:
        x, y = rng.uniform(0.2, 0.7, 2) * side
        drawn.append(_round_box(int(rng.choice(_SIMILAR)), [x, y, x + 40, y + 40], side))
    return drawn


def _round_box(index: int, box: Sequence[float], side: int) -> Label:
    x_min, y_min = (float(min(max(round(v), 0), side - 3)) for v in box[:2])
    x_max, y_max = (
        float(min(max(round(v), low + 3), side))
        for v, low in zip(box[2:], (x_min, y_min), strict=True)
    )
    return Label(index, x_min, y_min, x_max, y_max)
