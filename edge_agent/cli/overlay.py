"""Findings drawn on their radiograph, for people to look at."""

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
Picture = NDArray[np.uint8]

STRIP_TEXT: Final = "RESEARCH USE ONLY"

# One per catalogue index, in BGR: bright and saturated, so that each stands out from every grey.
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
    """A place on the picture in whole pixels; right and bottom are outside it."""

    left: int
    top: int
    right: int
    bottom: int

    def overlap(self, other: _Rect) -> int:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0, width) * max(0, height)

    def inside(self, width: int, height: int) -> _Rect:
        """Moved, not cut, to lie on a picture of this size; at its top left if it is too big."""
        left = max(0, min(self.left, width - (self.right - self.left)))
        top = max(0, min(self.top, height - (self.bottom - self.top)))
        return _Rect(left, top, left + self.right - self.left, top + self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class _Pen:
    """Sizes that stay legible when the picture is shown at about 1000 pixels."""

    line: int
    font_scale: float
    text: int
    pad: int

    @classmethod
    def for_size(cls, rows: int, columns: int) -> _Pen:
        unit = max(rows, columns) / 1000
        return cls(
            line=max(1, round(2 * unit)),
            font_scale=max(0.35, 0.55 * unit),
            text=max(1, round(1.4 * unit)),
            pad=max(2, round(4 * unit)),
        )

    def measure(self, text: str) -> tuple[int, int, int]:
        """Width, height and depth below the baseline of a line of text, in pixels."""
        (width, height), below = cv2.getTextSize(text, _FONT, self.font_scale, self.text)
        return width, height, below


def draw_overlay(pixels: NDArray[np.uint8], findings: Sequence[Finding]) -> Picture:
    """Draw boxes, names and scores on a radiograph, and a strip that says what it is for.

    Args:
        pixels: u8 of shape (H, W), the radiograph at its original size.
        findings: boxes in pixels of the original image.

    Returns:
        u8 of shape (H + strip, W, 3), BGR.
    """
    picture: Picture = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    rows, columns = pixels.shape
    pen = _Pen.for_size(rows, columns)
    rising = sorted(findings, key=lambda finding: finding.score)
    for finding in rising:  # The strongest is drawn last, on top.
        _draw_box(picture, finding, pen)
    taken: list[_Rect] = []
    for finding in reversed(rising):
        taken.append(_draw_label(picture, finding, pen, taken))
    return _with_strip(picture, pen)


def encode_png(picture: Picture) -> bytes:
    """A picture, u8 of shape (H, W, 3) in BGR, as a PNG file."""
    # Level 1: a third larger than the default, and four times as fast.
    _, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()


def _draw_box(picture: Picture, finding: Finding, pen: _Pen) -> None:
    rows, columns = picture.shape[:2]
    box = finding.box
    start = max(0, round(box.x_min)), max(0, round(box.y_min))
    end = min(columns, round(box.x_max)) - 1, min(rows, round(box.y_max)) - 1
    # A dark line under the coloured one keeps it visible where the picture is bright.
    cv2.rectangle(picture, start, end, _BLACK, pen.line * 2, cv2.LINE_AA)
    cv2.rectangle(picture, start, end, COLOURS[finding.index], pen.line, cv2.LINE_AA)


def _draw_label(picture: Picture, finding: Finding, pen: _Pen, taken: Sequence[_Rect]) -> _Rect:
    text = f"{CATALOG[finding.index].name} {finding.score:.2f}"
    width, height, below = pen.measure(text)
    place = _label_place(
        finding.box,
        (width + 2 * pen.pad, height + below + 2 * pen.pad),
        (picture.shape[1], picture.shape[0]),
        taken,
    )
    cv2.rectangle(
        picture,
        (place.left, place.top),
        (place.right - 1, place.bottom - 1),
        COLOURS[finding.index],
        cv2.FILLED,
    )
    _write(picture, text, (place.left + pen.pad, place.top + pen.pad + height), pen, _BLACK)
    return place


def _label_place(
    box: Box, size: tuple[int, int], picture: tuple[int, int], taken: Sequence[_Rect]
) -> _Rect:
    """Above the box if that is free, else below, inside, beside; else stacked; least overlap."""
    width, height = size
    left, right = round(box.x_min), round(box.x_max)
    top, bottom = round(box.y_min), round(box.y_max)
    spots = itertools.chain(
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
    places = [_Rect(x, y, x + width, y + height).inside(*picture) for x, y in spots]
    # min() keeps the first of equals, which is the most natural spot.
    return min(places, key=lambda place: sum(place.overlap(other) for other in taken))


def _with_strip(picture: Picture, pen: _Pen) -> Picture:
    width, height, below = pen.measure(STRIP_TEXT)
    strip: Picture = np.zeros((height + below + 4 * pen.pad, picture.shape[1], 3), np.uint8)
    left = max(0, (picture.shape[1] - width) // 2)
    _write(strip, STRIP_TEXT, (left, height + 2 * pen.pad), pen, _WHITE)
    return np.concatenate([picture, strip])


def _write(picture: Picture, text: str, at: tuple[int, int], pen: _Pen, colour: Colour) -> None:
    cv2.putText(picture, text, at, _FONT, pen.font_scale, colour, pen.text, cv2.LINE_AA)
