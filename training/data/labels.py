"""The label of one marked finding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Label:
    """One marked finding: catalogue index and box in pixels.

    `weight` in (0, 1] is the share of the image's readers who marked it; 1 without readers.
    """

    index: int
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    weight: float = 1.0
