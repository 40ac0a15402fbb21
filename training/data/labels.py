"""One marked finding of a labelled image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Label:
    """One marked finding: catalogue index and box in pixels.

    `weight` in (0, 1] says how many of an image's readers agreed on it; 1 where nobody was asked.
    """

    index: int
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    weight: float = 1.0
