"""A raster file's header, and the conversion to grey that its readers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.imaging.pixel_format import has_channels

Size = tuple[int, int]

_RGB_CHANNELS = 3
_CHANNELS_WITH_ALPHA = frozenset({2, 4})


@dataclass(frozen=True, slots=True)
class RasterHeader:
    """The declarations of a raster file, before its orientation is undone.

    Attributes:
        rows: height in pixels as stored.
        columns: width in pixels as stored.
        bits: bits per sample.
        orientation: TIFF's or EXIF's orientation, 1 to 8.
        photometric: GREY, COLOUR or CMYK.
        decode: decodes to grey, u8 or u16, of at least the given rows and columns.
        is_inverted: low values are bright.
    """

    rows: int
    columns: int
    bits: int
    orientation: int
    photometric: str
    decode: Callable[[Size], NDArray[Any]]
    is_inverted: bool = False


def convert_to_grey(pixels: NDArray[Any]) -> NDArray[Any]:
    """Convert grey or colour to grey; transparent pixels are blended with black.

    Args:
        pixels: u8 or u16 of shape (H, W) or (H, W, 1-4).

    Returns:
        The same dtype, of shape (H, W).
    """
    if not has_channels(pixels):
        return pixels
    channels = pixels.shape[2]
    grey = pixels[..., 0]
    if channels >= _RGB_CHANNELS:
        grey = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY)
    if channels in _CHANNELS_WITH_ALPHA:
        full = np.iinfo(pixels.dtype).max
        grey = (grey.astype(np.uint32) * pixels[..., -1] // full).astype(pixels.dtype)
    return np.ascontiguousarray(grey)
