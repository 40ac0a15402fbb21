"""What a raster file declares of its picture, and what its readers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]

_GREY_AXES, _RGB = 2, 3
_WITH_ALPHA = frozenset({2, 4})


@dataclass(frozen=True, slots=True)
class RasterHeader:
    """What a file declares of its picture, as it is stored (before EXIF's orientation)."""

    rows: int
    columns: int
    bits: int
    orientation: int
    photometric: str
    decode: Callable[[Size], NDArray[Any]]
    """Decodes to grey, u8 or u16, of at least the size asked for."""
    is_inverted: bool = False


def convert_to_grey(pixels: NDArray[Any]) -> NDArray[Any]:
    """Grey of shape (H, W) from (H, W) or (H, W, 1-4); alpha is laid on black; dtype kept."""
    if pixels.ndim == _GREY_AXES:
        return pixels
    channels = pixels.shape[2]
    grey = pixels[..., 0]
    if channels >= _RGB:
        grey = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY)
    if channels in _WITH_ALPHA:
        full = np.iinfo(pixels.dtype).max
        grey = (grey.astype(np.uint32) * pixels[..., -1] // full).astype(pixels.dtype)
    return np.ascontiguousarray(grey)
