"""What a study image may ask of the agent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on the declared size, checked before anything is decoded."""

    max_pixels: int = 64_000_000
    min_side: int = 128
