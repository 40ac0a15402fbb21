"""Raw outputs to findings: threshold, class-wise non-maximum suppression, original pixels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """Corners in pixels; x to the right, y down, origin at the top left pixel's outer corner."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One detected abnormality: catalogue index, score 0-1, box in original pixels."""

    index: int
    score: float
    box: Box
