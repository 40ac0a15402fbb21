"""Synthetic candidates for golden cases, so that no patient's pixels are in a bundle."""

from __future__ import annotations

from typing import Final

from edge_agent.core.geometry import Letterbox
from edge_agent.engines.base import Pixels
from edge_agent.imaging.letterbox import apply_letterbox
from training.synthetic import box_statistics, lungs
from training.synthetic.generator import Generator

_FROM: Final = 30_000_000
"""First seed; no set is generated from these seeds."""


def make_golden_images(size: int, count: int) -> dict[str, Pixels]:
    """Generate `count` radiographs, u8 (size, size), by the names of their cases."""
    generator = Generator(lungs.load_shape_model(), box_statistics.load_statistics())
    pictures = {}
    for k in range(count):
        pixels = generator.sample(_FROM + k).pixels
        fit = Letterbox.fit(pixels.shape[0], pixels.shape[1], size, size)
        pictures[f"case-{k}"] = apply_letterbox(pixels, fit)
    return pictures
