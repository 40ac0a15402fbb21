"""The chest on which findings are painted: its pixels, its lungs and its thorax frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from training.synthetic.lungs import Lungs
from training.synthetic.primitives import Floats, Shape

THORAX_MM: Final = 290.0
"""Assumed inner width of an adult thorax; converts millimetres to pixels."""


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
        """Convert a box (centre u, v, width, height) from the frame to pixels."""
        u, v, width, height = box
        return (
            self.middle + u * self.thorax,
            self.knob_y + v * self.drop,
            width * self.thorax,
            height * self.drop,
        )

    @property
    def px_per_mm(self) -> float:
        """Pixels per millimetre inside the patient."""
        return self.thorax / THORAX_MM


@dataclass(slots=True)
class Chest:
    """A chest that is being painted.

    `pixels` is f32 (H, W). `air` is f32 (H, W), 1 where lung is and 0 elsewhere. `contrast` is the
    difference in brightness between lung and soft tissue, `tissue` the brightness of soft tissue.
    `vessels` is what vessels add to the pixels; None on a real radiograph, where vessels cannot be
    separated. `heart` and `knob` (of the aorta) are boxes: x_min, y_min, x_max, y_max.
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
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def add(self, density: Floats) -> None:
        """Add density; bright places take less of it, as on film and displays."""
        room = np.clip(
            (self.tissue + 0.45 * self.contrast - self.pixels) / (0.9 * self.contrast), 0.1, 1
        )
        self.pixels += density * np.float32(self.contrast) * room.astype(np.float32)


def estimate_frame(lungs: Lungs) -> Frame:
    """Estimate from the lungs where the aortic knob and the heart are."""
    x_min, y_min, x_max, y_max = lungs.extent
    height = y_max - y_min
    level = y_min + 0.4 * height
    middle = (lungs.first.borders_at(level)[1] + lungs.second.borders_at(level)[0]) / 2
    return Frame(
        middle=middle, thorax=x_max - x_min, knob_y=y_min + 0.27 * height, drop=0.43 * height
    )
