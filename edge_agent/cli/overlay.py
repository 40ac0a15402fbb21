"""Draws findings on their radiograph."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.core.findings import Box, Finding
from hilum.catalog import CATALOG

Colour = tuple[int, int, int]
Image = NDArray[np.uint8]
"""u8 of shape (H, W, 3), BGR."""

STRIP_TEXT: Final = "RESEARCH USE ONLY"

# One per catalogue index, in BGR. Bright, saturated colours contrast with every grey value.
COLOURS: Final[tuple[Colour, ...]] = (
    (80, 80, 255),  # red
    (0, 165, 255),  # orange
    (0, 235, 255),  # yellow
    (0, 255, 170),  # lime
    (90, 220, 60),  # green
    (200, 230, 0),  # turquoise
    (255, 215, 60),  # sky
    (255, 150, 60),  # azure
    (255, 90, 200),  # violet
    (255, 120, 255),  # magenta
    (180, 105, 255),  # pink
    (130, 200, 255),  # peach
    (220, 255, 160),  # aqua
    (160, 160, 255),  # salmon
)
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_BLACK: Final[Colour] = (0, 0, 0)
_WHITE: Final[Colour] = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class _Rect:
    """A rectangle in whole pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def overlap_area(self, other: _Rect) -> int:
        """Return the area that two rectangles share, in pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0, width) * max(0, height)

    def move_inside(self, width: int, height: int) -> _Rect:
        """Return it moved into an image of this size; at its top left if it is too large."""
        left = max(0, min(self.left, width - (self.right - self.left)))
        top = max(0, min(self.top, height - (self.bottom - self.top)))
        return _Rect(left, top, left + self.right - self.left, top + self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class _Style:
    """Sizes of lines and text that are legible when the image is shown at about 1000 pixels."""

    line_width: int
    font_scale: float
    text_width: int
    padding: int

    @classmethod
    def for_size(cls, rows: int, columns: int) -> _Style:
        unit = max(rows, columns) / 1000
        return cls(
            line_width=max(1, round(2 * unit)),
            font_scale=max(0.35, 0.55 * unit),
            text_width=max(1, round(1.4 * unit)),
            padding=max(2, round(4 * unit)),
        )

    def measure_text(self, text: str) -> tuple[int, int, int]:
        """Return a text's width, its height above the baseline and its depth below, in pixels."""
        (width, height), below = cv2.getTextSize(text, _FONT, self.font_scale, self.text_width)
        return width, height, below


def draw_overlay(pixels: NDArray[np.uint8], findings: Sequence[Finding]) -> Image:
    """Draw boxes, names and scores on a radiograph, and a disclaimer in a strip below.

    Args:
        pixels: u8 of shape (H, W), the radiograph at its original size.
        findings: boxes in pixels of the original image.

    Returns:
        u8 of shape (H + strip, W, 3), BGR.
    """
    image: Image = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    rows, columns = pixels.shape
    style = _Style.for_size(rows, columns)
    rising = sorted(findings, key=lambda finding: finding.score)
    for finding in rising:  # The highest score is drawn last, on top.
        _draw_box(image, finding, style)
    labels: list[_Rect] = []
    for finding in reversed(rising):
        labels.append(_draw_label(image, finding, style, labels))
    return _append_strip(image, style)


def encode_png(image: Image) -> bytes:
    """Encode an image, u8 of shape (H, W, 3) in BGR, as a PNG file."""
    # Level 1 is four times as fast as the default, for files that are a third larger.
    _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()


def _draw_box(image: Image, finding: Finding, style: _Style) -> None:
    rows, columns = image.shape[:2]
    box = finding.box
    start = max(0, round(box.x_min)), max(0, round(box.y_min))
    end = min(columns, round(box.x_max)) - 1, min(rows, round(box.y_max)) - 1
    # A dark line under the coloured one keeps it visible where the image is bright.
    cv2.rectangle(image, start, end, _BLACK, style.line_width * 2, cv2.LINE_AA)
    cv2.rectangle(image, start, end, COLOURS[finding.index], style.line_width, cv2.LINE_AA)


def _draw_label(image: Image, finding: Finding, style: _Style, labels: Sequence[_Rect]) -> _Rect:
    text = f"{CATALOG[finding.index].name} {finding.score:.2f}"
    width, height, below = style.measure_text(text)
    place = _place_label(
        finding.box,
        (width + 2 * style.padding, height + below + 2 * style.padding),
        (image.shape[1], image.shape[0]),
        labels,
    )
    cv2.rectangle(
        image,
        (place.left, place.top),
        (place.right - 1, place.bottom - 1),
        COLOURS[finding.index],
        cv2.FILLED,
    )
    _write(
        image, text, (place.left + style.padding, place.top + style.padding + height), style, _BLACK
    )
    return place


def _place_label(
    box: Box, size: tuple[int, int], image_size: tuple[int, int], labels: Sequence[_Rect]
) -> _Rect:
    """Place a label where it overlaps the fewest others.

    The preferred places are, in order: above the box, below it, inside, beside, further above and
    further below.
    """
    width, height = size
    left, right = round(box.x_min), round(box.x_max)
    top, bottom = round(box.y_min), round(box.y_max)
    corners = itertools.chain(
        [
            (left, top - height),
            (left, bottom),
            (left, top),
            (right - width, bottom - height),
            (right, top),
            (left - width, top),
        ],
        ((left, top - height * step) for step in range(2, 8)),
        ((left, bottom + height * step) for step in range(1, 8)),
    )
    candidates = [_Rect(x, y, x + width, y + height).move_inside(*image_size) for x, y in corners]
    # min() returns the first of equals, which is the preferred one.
    return min(
        candidates, key=lambda candidate: sum(candidate.overlap_area(other) for other in labels)
    )


def _append_strip(image: Image, style: _Style) -> Image:
    width, height, below = style.measure_text(STRIP_TEXT)
    strip: Image = np.zeros((height + below + 4 * style.padding, image.shape[1], 3), np.uint8)
    left = max(0, (image.shape[1] - width) // 2)
    _write(strip, STRIP_TEXT, (left, height + 2 * style.padding), style, _WHITE)
    return np.concatenate([image, strip])


def _write(image: Image, text: str, at: tuple[int, int], style: _Style, colour: Colour) -> None:
    cv2.putText(image, text, at, _FONT, style.font_scale, colour, style.text_width, cv2.LINE_AA)
