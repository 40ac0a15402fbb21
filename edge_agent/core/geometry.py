"""The position of an image in the model's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Letterbox:
    """An image that is fitted into the model's input, centred, with its aspect ratio kept.

    Attributes:
        rows, columns: size of the original image in pixels.
        height, width: size of the model's input in pixels.
        inner_height, inner_width: size of the shrunk image in the input; the rest is padding.
        top, left: position of the shrunk image in the input.
    """

    rows: int
    columns: int
    height: int
    width: int
    inner_height: int
    inner_width: int
    top: int
    left: int

    @classmethod
    def fit(cls, rows: int, columns: int, height: int, width: int) -> Self:
        """Fit an image into the input.

        Args:
            rows, columns: size of the original image in pixels, both positive.
            height, width: size of the model's input in pixels, both positive.

        Returns:
            The largest letterbox of that aspect ratio.
        """
        scale = min(height / rows, width / columns)
        inner_height = min(height, max(1, round(rows * scale)))
        inner_width = min(width, max(1, round(columns * scale)))
        return cls(
            rows=rows,
            columns=columns,
            height=height,
            width=width,
            inner_height=inner_height,
            inner_width=inner_width,
            top=(height - inner_height) // 2,
            left=(width - inner_width) // 2,
        )

    @property
    def scale_y(self) -> float:
        """Input pixels per original pixel, vertically."""
        return self.inner_height / self.rows

    @property
    def scale_x(self) -> float:
        """Input pixels per original pixel, horizontally."""
        return self.inner_width / self.columns
